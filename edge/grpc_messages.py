"""Events as protocol buffers, encoded once for all who are given them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from schemas.proto.sluicegate.v1.logs_pb2 import LogEvent
from schemas.proto.sluicegate.v1.stream_pb2 import End, Event, Gap, WatchResponse
from schemas.published import time_from_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from edge.encode import FrameJson
    from edge.frame import Frame

MESSAGE_BYTES_MAX: Final = 65_536
"""What HTTP/2's first window takes at once; an event that is longer is a message of its own."""
_LENGTH_BYTES: Final = 4


class WatchEncoder:
    """Responses of ``StreamService.Watch``."""

    name, stateful = "grpc", False

    def __init__(self, frame_json: FrameJson) -> None:
        self._json = frame_json

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """See Encoder. Protocol buffers that are put together are one message with the events of all."""
        return b"".join([frame.proto or self._encode(frame) for frame in frames])

    def messages(self, data: bytes) -> Iterable[bytes]:
        """See CallEncoder. What is much goes in parts, so that a client that reads slowly is seen to read."""
        return (data,) if len(data) <= MESSAGE_BYTES_MAX else _parts(data)

    def _encode(self, frame: Frame) -> bytes:
        frame.proto = WatchResponse(
            events=[event_of(frame.cursor, self._json.json(frame))]
        ).SerializeToString()
        return frame.proto


class LogEncoder:
    """Responses of ``LogStream.WatchLogs``: a message a line, so that one write is several."""

    name, stateful = "grpc-logs", False

    def __init__(self, frame_json: FrameJson) -> None:
        self._json = frame_json

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """See Encoder. Events that are no lines are not shown."""
        parts = []
        for frame in frames:
            said = _log_event(orjson.loads(self._json.json(frame)))
            if said is not None:
                message = said.SerializeToString()
                parts += [len(message).to_bytes(_LENGTH_BYTES, "big"), message]
        return b"".join(parts)

    def messages(self, data: bytes) -> Iterator[bytes]:
        """See CallEncoder."""
        at = 0
        while at < len(data):
            start = at + _LENGTH_BYTES
            at = start + int.from_bytes(data[at:start], "big")
            yield data[start:at]


def _parts(data: bytes) -> Iterator[bytes]:
    """Divide events that were put together between two of them."""
    start = at = 0
    while at < len(data):
        end = _end_of_event(data, at)
        if at > start and end - start > MESSAGE_BYTES_MAX:
            yield data[start:at]
            start = at
        at = end
    yield data[start:]


def _end_of_event(data: bytes, at: int) -> int:
    """Read a length, seven bits a byte, the lowest first; before it stands one byte that names the field."""
    length, shift = 0, 0
    while True:
        at += 1
        length |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return at + 1 + length
        shift += 7


def event_of(cursor: str, shown: bytes) -> Event:
    """Give an event as a message, from the JSON that all transports show."""
    fields = orjson.loads(shown)
    event = Event(
        cursor=cursor,
        seq=fields["seq"],
        type=fields["type"],
        event_id=fields.get("event_id", ""),
        json=shown.decode(),
    )
    if "time" in fields:
        event.time.FromMicroseconds(time_from_text(fields["time"]))
    if event.type == "gap":
        event.gap.CopyFrom(_gap(fields))
    elif event.type == "end":
        event.end.CopyFrom(_end(fields))
    return event


def _gap(fields: Mapping[str, Any]) -> Gap:
    return Gap(
        from_seq=fields["from_seq"],
        to_seq=fields["to_seq"],
        count=fields["count"],
        reason=fields["reason"],
        of_type=fields.get("of_type", ""),
    )


def _end(fields: Mapping[str, Any]) -> End:
    return End(
        reason=fields["reason"],
        message=fields.get("message", ""),
        exit_code=fields.get("exit_code"),
        events=fields.get("events", 0),
        bytes=fields.get("bytes", 0),
        from_index=fields.get("from_index", False),
    )


def _log_event(fields: Mapping[str, Any]) -> LogEvent | None:
    """A line, the end, or what is missing or void: in words, and as fields that older clients do not know."""
    seq = fields["seq"]
    if fields["type"] == "log":
        return LogEvent(line=fields["line"], seq=seq)
    if fields["type"] == "end":
        return LogEvent(done=True, seq=seq)
    if fields["type"] == "gap":
        count = "some" if fields["count"] < 0 else str(fields["count"])
        words = f"[sluicegate: {count} events are missing here ({fields['reason']})]"
        return LogEvent(line=words, seq=seq, note=LogEvent.NOTE_GAP, from_seq=fields["from_seq"])
    if fields["type"] == "reset":
        why = " ".join(fields["reason"].split())  # a producer's own words
        void = f"what came from event {fields['from_seq']} on is superseded by what follows"
        words = f"[sluicegate: {void}{why and f' ({why})'}]"
        return LogEvent(line=words, seq=seq, note=LogEvent.NOTE_RESET, from_seq=fields["from_seq"])
    return None
