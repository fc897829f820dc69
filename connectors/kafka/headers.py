"""Reads the headers of messages, of which bytes from outside may not end the process.

confluent-kafka (2.16) decodes names as UTF-8. Where one is none, it raises and leaves behind, in the message,
a list with holes in place of objects: whoever looks into that list, the second time without an error, ends
the process. So headers are read here alone, and such a message gets others at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import Message

from schemas.record import UNREADABLE, Headers

if TYPE_CHECKING:
    from collections.abc import Sequence


def headers_of(messages: Sequence[Message]) -> list[Headers] | None:
    """Return the headers of each message; None = none of them has any, as mostly.

    Costs some nanoseconds a message without headers. A name ends at its first NUL: the client's limit.
    """
    found = _read(messages)
    if found.count(None) == len(found):
        return None
    return [_frozen(headers) for headers in found]


def _read(messages: Sequence[Message]) -> list[Any]:
    left = iter(messages)
    try:
        # By map, as calls from C alone are checked for an error beside a result in every version of Python.
        return list(map(Message.headers, left))
    except (SystemError, ValueError):
        broken: Any = messages[-1 - len(list(left))]
        broken.set_headers(UNREADABLE)
    return [one for message in messages for one in _read((message,))]


def _frozen(headers: list[tuple[str, bytes | None]] | Headers | None) -> Headers:
    if headers is None:
        return ()
    return UNREADABLE if headers is UNREADABLE else tuple(headers)
