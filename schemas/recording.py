"""Recordings of a stream: a header and one JSON object a line, with when each event came after the first.

{"sluicegate_recording":1,"tenant":"default","stream_id":"build-7","kind":"log","recorded":"2026-…Z"}
{"at_ms":0,"event_id":"…","type":"open","seq":0,"time":"2026-…Z","payload":{"title":"a build"}}
{"at_ms":184,"event_id":"…","type":"log","seq":1,"time":"2026-…Z","payload":{"line":"cc -c main.c"}}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from schemas.envelope import check_kind_name, check_stream_name, check_type_name
from schemas.errors import InvalidEvent, SluicegateError
from schemas.published import time_from_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FORMAT: Final = 1
LINE_BYTES_MAX: Final = 4 * 1_048_576  # an event of 1 MiB of Avro, as JSON with its text escaped
TEXT_FIELDS: Final = ("source", "request_id", "task_id", "upstream_id", "traceparent")


class BadRecording(SluicegateError):
    """A line of a recording is not what it should be."""

    remedy = "Correct the line, or record the stream again (`sluicegate record`)."

    def __init__(self, name: str, line: int, problem: str) -> None:
        super().__init__(f"{name}:{line}: {problem}")
        self.name = name
        self.line = line
        self.problem = problem


@dataclass(frozen=True, slots=True)
class RecordingHeader:
    """Whose stream was recorded, and when."""

    tenant: str
    stream_id: str
    kind: str
    recorded: str
    """ISO 8601."""

    def line(self) -> bytes:
        """The header as the first line of a file, with its newline."""
        fields = {
            "sluicegate_recording": FORMAT,
            "tenant": self.tenant,
            "stream_id": self.stream_id,
            "kind": self.kind,
            "recorded": self.recorded,
        }
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """One event, and when it came."""

    at_ms: int
    """Milliseconds after the first event of the recording; never less than the event before."""
    event_id: str
    type: str
    seq: int
    time: str
    """ISO 8601, as the event carried it."""
    payload: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)
    """Those of ``TEXT_FIELDS`` that were known and not empty."""
    epoch: int = 0
    attempt: int = 0

    def line(self) -> bytes:
        """The event as one line of a file, with its newline."""
        fields = {
            "at_ms": self.at_ms,
            "event_id": self.event_id,
            "type": self.type,
            "seq": self.seq,
            "time": self.time,
            **self.texts,
            "epoch": self.epoch,
            "attempt": self.attempt,
            "payload": dict(self.payload),
        }
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class Recording:
    """An open recording: its header was read, its events are read as they are asked for."""

    header: RecordingHeader
    events: Iterator[RecordedEvent]


def read_recording(lines: Iterable[bytes | str], name: str) -> Recording:
    """Read a recording from lines, as an open file gives them; ``name`` is what errors call it.

    Raises:
        BadRecording: here for the header, and while the events are read for any of them.
    """
    numbered = enumerate(iter(lines), start=1)
    number, first = next(numbered, (1, b""))
    header = _header(_object(first, name, number), name)
    return Recording(header, _events(numbered, name))


def _events(numbered: Iterator[tuple[int, bytes | str]], name: str) -> Iterator[RecordedEvent]:
    before = None
    for number, line in numbered:
        if not line.strip():
            continue
        event = _event(_object(line, name, number), name, number)
        if before is not None and event.at_ms < before.at_ms:
            raise BadRecording(name, number, f"at_ms goes back from {before.at_ms} to {event.at_ms}")
        if before is not None and event.seq <= before.seq:
            raise BadRecording(name, number, f"seq does not grow: {before.seq}, then {event.seq}")
        yield event
        before = event


def _object(line: bytes | str, name: str, number: int) -> dict[str, Any]:
    if len(line) > LINE_BYTES_MAX:
        raise BadRecording(name, number, f"is longer than {LINE_BYTES_MAX} bytes")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRecording(name, number, f"is not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise BadRecording(name, number, "is not a JSON object")
    return value


def _header(fields: dict[str, Any], name: str) -> RecordingHeader:
    version = fields.get("sluicegate_recording")
    if version is None:
        raise BadRecording(name, 1, "is no recording: its first line has no sluicegate_recording")
    if version != FORMAT:
        raise BadRecording(name, 1, f"is of format {version}; this version reads format {FORMAT}")
    header = RecordingHeader(
        tenant=_text(fields, "tenant", name, 1),
        stream_id=_text(fields, "stream_id", name, 1),
        kind=_text(fields, "kind", name, 1),
        recorded=_text(fields, "recorded", name, 1),
    )
    try:
        check_stream_name(header.tenant, header.stream_id)
        check_kind_name(header.kind)
    except InvalidEvent as error:
        raise BadRecording(name, 1, str(error)) from None
    return header


def _event(fields: dict[str, Any], name: str, number: int) -> RecordedEvent:
    payload = fields.get("payload")
    if not isinstance(payload, dict):
        raise BadRecording(name, number, "payload: must be an object")
    event = RecordedEvent(
        at_ms=_whole(fields, "at_ms", name, number),
        event_id=_text(fields, "event_id", name, number),
        type=_text(fields, "type", name, number),
        seq=_whole(fields, "seq", name, number),
        time=_text(fields, "time", name, number),
        payload=payload,
        texts={each: _text(fields, each, name, number) for each in TEXT_FIELDS if fields.get(each)},
        epoch=_whole(fields, "epoch", name, number, 0),
        attempt=_whole(fields, "attempt", name, number, 0),
    )
    try:
        check_type_name(event.type)
        time_from_text(event.time)
    except InvalidEvent as error:
        raise BadRecording(name, number, str(error)) from None
    except ValueError as error:
        raise BadRecording(name, number, f"time: {error}") from None
    return event


def _text(fields: Mapping[str, Any], field_name: str, name: str, number: int) -> str:
    value = fields.get(field_name)
    if not isinstance(value, str):
        raise BadRecording(name, number, f"{field_name}: must be a string")
    return value


def _whole(
    fields: Mapping[str, Any], field_name: str, name: str, number: int, default: int | None = None
) -> int:
    value = fields.get(field_name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRecording(name, number, f"{field_name}: must be a whole number from 0")
    return value
