"""Events to publish out of messages, and what became of them into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
from google.protobuf.json_format import MessageToDict

from edge.errors import RequestError
from schemas.proto.sluicegate.v1.stream_pb2 import Appended, PublishResponse, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.proto.sluicegate.v1.stream_pb2 import NewEvent

_TEXTS: Final = (
    "event_id", "kind", "source", "request_id", "task_id", "upstream_id", "traceparent",
)  # fmt: skip


def values_of(events: Sequence[NewEvent]) -> list[object]:
    """Give the events as JSON values.

    Raises:
        RequestError: a payload is no JSON, or a number in it is none; nothing was appended.
    """
    return [_plain(event, index) for index, event in enumerate(events)]


def _plain(event: NewEvent, index: int) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": event.type, "epoch": event.epoch, "attempt": event.attempt}
    plain |= {name: text for name in _TEXTS if (text := getattr(event, name))}
    if event.HasField("seq"):
        plain["seq"] = event.seq
    if event.HasField("time"):
        plain["time"] = event.time.seconds * 1_000_000 + event.time.nanos // 1_000
    match event.WhichOneof("payload"):
        case "json":
            plain["payload"] = _json(event.json, index)
        case "fields":
            plain["payload"] = _fields(event, index)
    return plain


def _json(text: str, index: int) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _no_json(index, error) from None


def _fields(event: NewEvent, index: int) -> dict[str, Any]:
    try:
        # A number that is whole is taken as one: a double cannot say which it was.
        return dict(MessageToDict(event.fields))
    except ValueError as error:  # NaN or infinity
        raise _no_json(index, error) from None


def _no_json(index: int, error: ValueError) -> RequestError:
    return RequestError(
        422,
        "Event refused",
        f"index {index}: payload is not JSON: {error}",
        remedy="Nothing of this request was appended. Give the payload's fields as a JSON object.",
        extra={"index": index, "field": "payload"},
    )


def answer_of(answer: Mapping[str, Any]) -> PublishResponse:
    """Give the publisher's answer as a message."""
    verdicts = answer.get("verdicts") or [None] * len(answer["offsets"])
    return PublishResponse(
        tenant=answer["tenant"],
        stream_id=answer["stream_id"],
        events=[
            Appended(**at, verdict=None if verdict is None else _verdict(verdict))
            for at, verdict in zip(answer["offsets"], verdicts, strict=True)
        ],
    )


def _verdict(said: Mapping[str, Any]) -> Verdict:
    return Verdict(
        verdict=said["verdict"],
        seq=said.get("seq"),
        cursor=said.get("cursor", ""),
        detail=said.get("detail", ""),
    )
