"""One Kafka record as it was fetched, before anything is decided about it."""

from __future__ import annotations

from typing import Final, NamedTuple

Headers = tuple[tuple[str, "bytes | None"], ...]
"""Names and values in the order in which they stand in the log; names may repeat."""


class _Unreadable(tuple[tuple[str, "bytes | None"], ...]):
    __slots__ = ()


UNREADABLE: Final[Headers] = _Unreadable()
"""Headers that there are, and that no client in Python can read: names that are no UTF-8. Known by identity;
to an agent they are none."""


class Record(NamedTuple):  # a million are made a second: a frozen dataclass takes twice the time
    """A record with its coordinates; key and value are the bytes as they stand in the log."""

    topic: str
    partition: int
    offset: int
    timestamp_us: int
    """Broker append time, microseconds since the epoch (its resolution is a millisecond)."""
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of key, value and headers."""
        return len(self.key or b"") + len(self.value or b"") + headers_bytes(self.headers)


_AROUND_BYTES: Final = 10
"""At most, around a header's name and value: their lengths, in Kafka's format and in Avro's."""


def headers_bytes(headers: Headers) -> int:
    """Return the bytes of names and values, and of what stands around them.

    Raises:
        TypeError, AttributeError: a value is not bytes, or a name no text.
        UnicodeEncodeError: a name cannot be written as UTF-8.
    """
    if not headers:
        return 0
    return sum(_AROUND_BYTES + len(name.encode()) + len(value or b"") for name, value in headers)
