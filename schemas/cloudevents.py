"""CloudEvents 1.0 in JSON: the mapping of attributes that CONTRACT.md declares."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from schemas.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

_TYPE: Final = re.compile(r"sluicegate\.([a-z][a-z0-9_-]{0,63})\.([a-z][a-z0-9_]{0,63})\.v1")

# CloudEvents attribute → field of an event; extension attributes may hold lower-case letters and digits only.
ATTRIBUTES: Final[Mapping[str, str]] = {
    "id": "event_id",
    "source": "source",
    "time": "time",
    "seq": "seq",
    "requestid": "request_id",
    "taskid": "task_id",
    "upstreamid": "upstream_id",
    "traceparent": "traceparent",
    "epoch": "epoch",
    "attempt": "attempt",
}


def is_cloudevent(obj: Mapping[str, object]) -> bool:
    """Whether a JSON object says that it is a CloudEvent."""
    return "specversion" in obj


def plain_from_cloudevent(obj: Mapping[str, Any], stream_id: str) -> dict[str, Any]:
    """Return a CloudEvent in our own published form.

    Extension attributes that we do not know are dropped, as CloudEvents asks of those who forward none.

    Raises:
        InvalidEvent: names the CloudEvents attribute.
    """
    if obj["specversion"] != "1.0":
        raise InvalidEvent("specversion", f"must be '1.0', is {str(obj['specversion'])[:20]!r}")
    for name in ("id", "source", "type"):
        if not isinstance(obj.get(name), str) or not obj[name]:
            raise InvalidEvent(name, "is missing: CloudEvents requires it as a string")
    found = _TYPE.fullmatch(obj["type"])
    if found is None:
        raise InvalidEvent("type", f"must be sluicegate.<kind>.<type>.v1, is {obj['type'][:80]!r}")
    subject = obj.get("subject", stream_id)
    if subject != stream_id:
        raise InvalidEvent("subject", f"is {str(subject)[:80]!r}, but it was sent to stream {stream_id!r}")
    plain = {ours: obj[theirs] for theirs, ours in ATTRIBUTES.items() if theirs in obj}
    plain["kind"], plain["type"] = found[1], found[2]
    plain["payload"] = _data(obj)
    return plain


def _data(obj: Mapping[str, Any]) -> Any:
    content = obj.get("datacontenttype", "application/json")
    if not isinstance(content, str) or content.partition(";")[0].strip().lower() != "application/json":
        raise InvalidEvent("datacontenttype", f"must be application/json, is {str(content)[:80]!r}")
    if "data_base64" in obj:
        raise InvalidEvent("data_base64", "is not taken: send the payload's fields as a JSON object in data")
    data = obj.get("data", {})
    if isinstance(data, str):  # some SDKs put JSON into a string
        try:
            data = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise InvalidEvent("data", f"must be a JSON object: {error}") from None
    if not isinstance(data, dict):
        raise InvalidEvent("data", "must be a JSON object")
    return data
