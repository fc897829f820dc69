"""What goes over a WebSocket, both ways: one JSON object a text message, events in a wrapper of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from edge.errors import HistoryUnavailable, RequestError
from edge.problems import code_of
from schemas.envelope import DEFAULT_TENANT, stream_key
from schemas.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge.encode import FrameJson
    from edge.frame import Frame
    from schemas.errors import SluicegateError

PING: Final = b"\x89\x00"
_ID_CHARACTERS_MAX: Final = 64

_STREAM: Final = {"stream": str, "tenant": str}
MEMBERS: Final[Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "subscribe": {**_STREAM, "cursor": str},
    "unsubscribe": _STREAM,
    "publish": {**_STREAM, "events": (list, dict), "kind": str, "wait": str},
    "cancel": {**_STREAM, "reason": str, "by": str},
    "chat": {**_STREAM, "text": str, "from": str},
    "auth": {"token": str},
    "ping": {},
}
"""What a client may say: its members by type, beside ``type`` and ``id``."""
_REQUIRED: Final = {"publish": ("events",), "chat": ("id", "text"), "auth": ("token",)}
_REMEDY: Final = "Send it as CONTRACT.md says under Delivery over WebSocket."
MessageId = str | int | None


class WebSocketEncoder:
    """Makes the messages of one stream's frames: all its encoders make the same, and so share bytes."""

    __slots__ = ("_before", "_json")

    name, stateful = "websocket", False

    def __init__(self, frame_json: FrameJson, tenant: str, stream_id: str) -> None:
        self._json = frame_json
        # Names of tenants and streams need no escapes.
        self._before = f'{{"type":"event","tenant":"{tenant}","stream":"{stream_id}","cursor":"'.encode()

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """See Encoder."""
        return b"".join([self._message(frame) for frame in frames])

    def _message(self, frame: Frame) -> bytes:
        return text_frame(
            b'%b%b","event":%b}' % (self._before, frame.cursor.encode("ascii"), self._json.json(frame))
        )


class Asked:
    """One message of a client, as far as its members are what they should be."""

    __slots__ = ("_fields", "id", "size_bytes", "type")

    def __init__(
        self, type_name: str, message_id: MessageId, fields: dict[str, Any], size_bytes: int
    ) -> None:
        self.type = type_name
        self.id = message_id
        self._fields = fields
        self.size_bytes = size_bytes

    @property
    def tenant(self) -> str:
        """Whose stream; not checked yet."""
        return self.text("tenant") or DEFAULT_TENANT

    @property
    def stream_id(self) -> str:
        """Which stream; not checked yet."""
        return self.text("stream")

    @property
    def key(self) -> bytes:
        """The stream's key."""
        return stream_key(self.tenant, self.stream_id)

    @property
    def place(self) -> dict[str, object]:
        """What an answer starts with."""
        if "stream" not in MEMBERS[self.type]:
            return _with_id(self.id)
        return {**_with_id(self.id), "tenant": self.tenant, "stream": self.stream_id}

    def text(self, name: str) -> str:
        """A member that is a string; empty if it is not there."""
        return str(self._fields.get(name, ""))

    @property
    def events(self) -> list[object]:
        """What is to be published."""
        events = self._fields["events"]
        return events if isinstance(events, list) else [events]


def read_message(data: bytes) -> Asked:
    """Read a text message that is UTF-8.

    Raises:
        RequestError: 400, it is no JSON object of a known type with the members of that type.
    """
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise malformed("Not JSON", f"the message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise malformed("Not an object", "a message is a JSON object")
    message_id = message.pop("id", None)
    if not _is_id(message_id):
        raise malformed("Bad id", f"id is a text of 1 to {_ID_CHARACTERS_MAX} characters, or a number")
    type_name = message.pop("type", None)
    if not isinstance(type_name, str) or type_name not in MEMBERS:
        detail = f"type {str(type_name)[:40]!r} is none of {', '.join(MEMBERS)}"
        raise malformed("Unknown type", detail, **_with_id(message_id))
    _check_members(type_name, message_id, message)
    return Asked(type_name, message_id, message, len(data))


def _check_members(type_name: str, message_id: MessageId, message: Mapping[str, object]) -> None:
    members, found = MEMBERS[type_name], _with_id(message_id)
    required = (*(("stream",) if "stream" in members else ()), *_REQUIRED.get(type_name, ()))
    for name in required:
        if name not in message and name not in found:
            raise malformed("Missing member", f"{type_name}: {name} is missing", field=name, **found)
    for name, value in message.items():
        if name not in members:
            known = ", ".join(("type", "id", *members))
            detail = f"{type_name}: {name[:40]!r} is none of {known}"
            raise malformed("Unknown member", detail, field=name[:40], **found)
        if not isinstance(value, members[name]):
            wanted = "a text" if members[name] is str else "an event or an array of events"
            raise malformed("Bad member", f"{type_name}: {name} is not {wanted}", field=name, **found)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= _ID_CHARACTERS_MAX
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def malformed(title: str, detail: str, **extra: object) -> RequestError:
    """Make the error for a message that is not as the contract says."""
    return RequestError(400, title, detail, remedy=_REMEDY, extra=extra)


def error_of(error: SluicegateError, asked: Asked | None = None) -> dict[str, object]:
    """The answer for one of our own errors: what the same request over HTTP would be answered."""
    status, code, extra = 500, "internal_error", {}
    if isinstance(error, RequestError):
        status, code, extra = error.status, error.title.lower().replace(" ", "_"), dict(error.extra)
        if (after := error.headers.get("retry-after", "")).isdigit():
            extra["retry_ms"] = int(after) * 1_000
    elif isinstance(error, InvalidEvent):
        status, code, extra = 400, "request_is_malformed", {"field": error.field}
    elif isinstance(error, HistoryUnavailable):
        status, code, extra = 503, "history_unavailable", {"retry_ms": 2_000}
    return {
        "type": "error",
        **(asked.place if asked is not None else {}),
        "code": code,
        "status": status,
        "detail": str(error),
        "remedy": error.remedy,
        **extra,
    }


def refused_of(error: SluicegateError, place: Mapping[str, object]) -> dict[str, object]:
    """What is said of a stream that a client may not have, or not from where it asks for it."""
    return {
        "type": "refused",
        **place,
        "code": code_of(error),
        "detail": str(error),
        "remedy": error.remedy,
    }


def text_frame(data: bytes) -> bytes:
    """Frame a message as a server does: whole, unmasked (RFC 6455, section 5.2)."""
    size = len(data)
    if size < 126:
        return b"\x81%c%b" % (size, data)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), data)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), data)


def _with_id(message_id: MessageId) -> dict[str, object]:
    return {} if message_id is None else {"id": message_id}
