"""The event: an envelope that is the same for all types, around a typed payload."""

from __future__ import annotations

import re
import secrets
import threading
import time as clock
from functools import lru_cache
from typing import Final, NamedTuple

from schemas.errors import InvalidEvent

CONTROL_TYPES: Final = ("open", "reset", "gap", "end", "cancel")
DATA_TYPES: Final = (
    "progress", "log", "token", "usage", "state", "media", "structured", "message", "custom",
)  # fmt: skip
TICK: Final = "tick"  # moves an idle partition's watermark; appended by the partition's owner alone
RESERVED_TYPES: Final = (TICK, "gap", "refused", "reconnect", "expiring")
"""Said by sluicegate, never by a producer: over SSE nothing else tells them from events."""

DEFAULT_TENANT: Final = "default"
SEQ_UNSET: Final = -1
PAYLOAD_BYTES_MAX: Final = 900 * 1024  # 1 MiB of value, less ~2 KiB of envelope and room for later fields
UPSTREAM_BYTES_MAX: Final = 256
LONG_MAX: Final = 2**63 - 1
INT_MAX: Final = 2**31 - 1
TIME_MAX: Final = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z, the last that ISO 8601 can write

_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STREAM = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[0-9a-z-]{0,73})?")


class Event(NamedTuple):  # a frozen dataclass of as many fields takes ten times as long to make
    """One record of a stream. Strings that do not apply are empty, never null."""

    event_id: str
    tenant: str
    stream_id: str
    seq: int
    """Contiguous from 0 within a stream; -1 = to be given by ingest."""
    kind: str
    type: str
    time: int
    """Event time: microseconds since 1970, UTC."""
    source: str
    request_id: str
    task_id: str
    upstream_id: str
    traceparent: str
    epoch: int
    attempt: int
    payload: bytes
    """Bare Avro body (no frame) of the subject ``sluicegate.payload.<type>``."""
    payload_schema: int
    """Registry id of the schema that wrote the payload."""

    @property
    def key(self) -> bytes:
        """The Kafka key: partitions, state and cursors go by it."""
        return f"{self.tenant}/{self.stream_id}".encode()

    @property
    def full_id(self) -> str:
        """``tenant/stream_id``: unique over all tenants."""
        return f"{self.tenant}/{self.stream_id}"


def stream_key(tenant: str, stream_id: str) -> bytes:
    """Return the Kafka key of a stream."""
    return f"{tenant}/{stream_id}".encode()


def split_key(key: bytes) -> tuple[str, str]:
    """Return (tenant, stream_id) of a Kafka key.

    Raises:
        InvalidEvent: the key is not ``tenant/stream_id`` of the allowed characters.
    """
    try:
        tenant, slash, stream_id = key.decode("ascii").partition("/")
    except UnicodeDecodeError:
        raise InvalidEvent("key", "must be ASCII tenant/stream_id") from None
    if not slash:
        raise InvalidEvent("key", f"must be tenant/stream_id, is {_shown(tenant)}")
    check_stream_name(tenant, stream_id)
    return tenant, stream_id


def check_stream_name(tenant: str, stream_id: str) -> None:
    """Raise InvalidEvent unless both names are of the allowed characters and length."""
    _match("tenant", tenant, _TENANT)
    _match("stream_id", stream_id, _STREAM)


def check_type_name(type_name: str) -> None:
    """Raise InvalidEvent unless the name can be a type: it becomes a subject and an Avro name."""
    _match("type", type_name, _TYPE)


def check_kind_name(kind: str) -> None:
    """Raise InvalidEvent unless the name can be a kind; whether it is declared is the kind table's to say."""
    _match("kind", kind, _KIND)


def check_origin(request_id: str, task_id: str, traceparent: str, time: int) -> None:
    """Check what a request hands on to all events of its stream. Raises InvalidEvent."""
    _text("request_id", request_id, 128)
    _text("task_id", task_id, 128)
    if traceparent:
        _match("traceparent", traceparent, _TRACEPARENT)
    _number("time", time, 0, TIME_MAX)


def check_event(event: Event) -> None:
    """Check every field of an envelope against its bounds.

    Raises:
        InvalidEvent: names the first field that breaks the contract.
    """
    _text("event_id", event.event_id, 64)
    if not event.event_id:
        raise InvalidEvent("event_id", "must not be empty")
    _check_names(
        event.tenant, event.stream_id, event.kind, event.type, event.source, event.request_id, event.task_id,
        event.upstream_id, event.traceparent,
    )  # fmt: skip
    _number("seq", event.seq, SEQ_UNSET, LONG_MAX)
    _number("time", event.time, 0, TIME_MAX)
    _number("epoch", event.epoch, 0, INT_MAX)
    _number("attempt", event.attempt, 0, INT_MAX)
    if len(event.payload) > PAYLOAD_BYTES_MAX:
        raise InvalidEvent("payload", f"is {len(event.payload)} bytes, at most {PAYLOAD_BYTES_MAX}")
    _number("payload_schema", event.payload_schema, 1, INT_MAX)


@lru_cache(maxsize=8_192)  # a stream's are the same, event after event: some 2 KiB each at worst
def _check_names(
    tenant: str, stream_id: str, kind: str, type_name: str, source: str, request_id: str, task_id: str,
    upstream_id: str, traceparent: str,
) -> None:  # fmt: skip
    check_stream_name(tenant, stream_id)
    check_kind_name(kind)
    check_type_name(type_name)
    _text("source", source, 256)
    _text("request_id", request_id, 128)
    _text("task_id", task_id, 128)
    _text("upstream_id", upstream_id, UPSTREAM_BYTES_MAX)
    if traceparent:
        _match("traceparent", traceparent, _TRACEPARENT)


def fitting(text: str, bytes_max: int) -> str:
    """Give what of a stranger's text a field may hold: what can be shown, up to so many bytes of UTF-8."""
    if not text.isprintable():
        text = "".join(each for each in text[: 2 * bytes_max] if each.isprintable())
    if len(text) > bytes_max or not text.isascii():
        text = text[:bytes_max].encode()[:bytes_max].decode("utf-8", "ignore")
    return text


def check_published(event: Event) -> None:
    """Check an event that comes from outside: as ``check_event``, and none of the types that only we say.

    Raises:
        InvalidEvent: names the first field that breaks the contract.
    """
    check_producer_may(event.type)
    check_event(event)


def check_producer_may(type_name: str) -> None:
    """Raise InvalidEvent for a type that only sluicegate writes."""
    if type_name in RESERVED_TYPES:
        raise InvalidEvent("type", f"{type_name!r} is written by sluicegate alone")


def _match(field: str, value: str, pattern: re.Pattern[str]) -> None:
    if pattern.fullmatch(value) is None:
        problem = "must not be empty" if not value else f"must match {pattern.pattern}, is {_shown(value)}"
        raise InvalidEvent(field, problem)


def _text(field: str, value: str, bytes_max: int) -> None:
    # Control characters break log lines, SSE frames and PostgreSQL text; the common case is one C call each.
    if not value.isprintable():
        raise InvalidEvent(field, f"must not hold control characters, is {_shown(value)}")
    size = len(value) if value.isascii() else len(value.encode())
    if size > bytes_max:
        raise InvalidEvent(field, f"is {size} bytes of UTF-8, at most {bytes_max}")


def _number(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidEvent(field, f"must be from {low} to {high}, is {value}")


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:80] + "…")


_last_id_ms = 0
_last_id_lock = threading.Lock()


def new_event_id() -> str:
    """Return a UUIDv7 (RFC 9562): sortable by time, 74 random bits, never behind its predecessor here."""
    global _last_id_ms  # noqa: PLW0603 - monotonic over a clock that steps back
    with _last_id_lock:
        _last_id_ms = now_ms = max(_last_id_ms, clock.time_ns() // 1_000_000)
    bits = secrets.randbits(74)
    high = (now_ms & (2**48 - 1)) << 16 | 0x7000 | bits >> 62
    low = 0x8000_0000_0000_0000 | (bits & (2**62 - 1))
    text = f"{high << 64 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
