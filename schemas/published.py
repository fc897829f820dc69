"""Events as JSON: what a producer may POST, and what a client is shown."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from schemas.cloudevents import is_cloudevent, plain_from_cloudevent
from schemas.envelope import (
    DEFAULT_TENANT,
    INT_MAX,
    LONG_MAX,
    SEQ_UNSET,
    TIME_MAX,
    Event,
    check_kind_name,
    check_producer_may,
    check_published,
    new_event_id,
)
from schemas.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.payloads import PayloadCodec

FIELDS: Final = (
    "event_id", "seq", "kind", "type", "time", "source", "request_id", "task_id", "upstream_id",
    "traceparent", "epoch", "attempt", "payload",
)  # fmt: skip
SHOWN: Final = ("type", "seq", "time", "event_id")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def event_from_json(
    obj: object,
    *,
    tenant: str = DEFAULT_TENANT,
    stream_id: str,
    kind: str | None,
    payloads: PayloadCodec,
    now_us: int,
) -> Event:
    """Return the event that one JSON object stands for: our own form, or CloudEvents 1.0.

    ``tenant`` and ``stream_id`` are the address that it was sent to; ``kind`` is for events that name none;
    ``now_us`` (microseconds since 1970) is the time of events that carry none.

    Raises:
        InvalidEvent: names the field, ``payload.<field>`` within the payload.
        UnknownType: no schema is registered for the type.
        RegistryUnavailable: retry.
    """
    if not isinstance(obj, dict):
        raise InvalidEvent("event", f"must be a JSON object, is {_json_type(obj)}")
    if is_cloudevent(obj):
        obj = plain_from_cloudevent(obj, stream_id)
    for name in obj:
        if name not in FIELDS:
            raise InvalidEvent(str(name)[:80], f"is not a field of an event; it has {', '.join(FIELDS)}")
    type_name = _string(obj, "type", None)
    check_producer_may(type_name)
    kind_name = _string(obj, "kind", kind)
    check_kind_name(kind_name)
    body, schema_id = payloads.encode(type_name, _payload(obj))
    event = Event(
        event_id=_string(obj, "event_id", None) if "event_id" in obj else new_event_id(),
        tenant=tenant,
        stream_id=stream_id,
        seq=_whole(obj, "seq", SEQ_UNSET, SEQ_UNSET, LONG_MAX),
        kind=kind_name,
        type=type_name,
        time=_time(obj, now_us),
        source=_string(obj, "source", ""),
        request_id=_string(obj, "request_id", ""),
        task_id=_string(obj, "task_id", ""),
        upstream_id=_string(obj, "upstream_id", ""),
        traceparent=_string(obj, "traceparent", ""),
        epoch=_whole(obj, "epoch", 0, 0, INT_MAX),
        attempt=_whole(obj, "attempt", 0, 0, INT_MAX),
        payload=body,
        payload_schema=schema_id,
    )
    check_published(event)
    return event


def event_to_json(event: Event, payloads: PayloadCodec) -> dict[str, Any]:
    """Return an event as a client is shown it: ``{"type", "seq", "time", "event_id", …payload}``.

    Bytes become base64 text. A payload's field that has one of these four names becomes ``payload.<name>``.

    Raises:
        UnknownSchemaId, Undecodable: the payload cannot be read.
        RegistryUnavailable: retry.
    """
    shown: dict[str, Any] = {
        "type": event.type,
        "seq": event.seq,
        "time": time_text(event.time),
        "event_id": event.event_id,
    }
    for name, value in payloads.decode(event.payload_schema, event.payload).items():
        shown[f"payload.{name}" if name in SHOWN else name] = _shown(value)
    return shown


def published_from_shown(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to POST so that a client is shown the same again: the inverse of ``event_to_json``."""
    obj = {name: shown[name] for name in SHOWN if name in shown}
    obj["payload"] = {
        name.removeprefix("payload."): value for name, value in shown.items() if name not in SHOWN
    }
    return obj


def time_text(time_us: int) -> str:
    """Return microseconds since 1970 as ISO 8601 in UTC: ``2026-11-23T00:05:26.123456Z``."""
    second, micros = divmod(time_us, 1_000_000)
    return f"{_second_text(second)}.{micros:06}Z"


@lru_cache(maxsize=1_024)  # events are mostly of the same few seconds: it takes two thirds of the time off
def _second_text(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat().removesuffix("+00:00")


def time_from_text(text: str) -> int:
    """Return ISO 8601 with an offset or Z as microseconds since 1970; raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("has no offset from UTC")
    return (moment - _EPOCH) // _MICROSECOND


def _time(obj: Mapping[str, object], now_us: int) -> int:
    value = obj.get("time", now_us)
    if isinstance(value, str):
        try:
            value = time_from_text(value)
        except (ValueError, OverflowError) as error:
            raise InvalidEvent("time", f"must be ISO 8601 with an offset or Z: {error}") from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidEvent(
            "time", f"must be ISO 8601 text or microseconds since 1970, is {_json_type(value)}"
        )
    if not 0 <= value <= TIME_MAX:
        raise InvalidEvent("time", f"must be from 1970 to the year 9999, is {value}")
    return value


def _string(obj: Mapping[str, object], name: str, default: str | None) -> str:
    value = obj.get(name, default)
    if value is None and name not in obj:
        raise InvalidEvent(name, "is missing")
    if not isinstance(value, str):
        raise InvalidEvent(name, f"must be a string, is {_json_type(value)}")
    return value


def _whole(obj: Mapping[str, object], name: str, default: int, low: int, high: int) -> int:
    value = obj.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidEvent(name, f"must be a whole number, is {_json_type(value)}")
    if not low <= value <= high:
        raise InvalidEvent(name, f"must be from {low} to {high}, is {value}")
    return value


def _payload(obj: Mapping[str, object]) -> dict[str, object]:
    value = obj.get("payload", {})
    if not isinstance(value, dict):
        raise InvalidEvent("payload", f"must be an object, is {_json_type(value)}")
    return value


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shown(part) for part in value]
    return value


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
