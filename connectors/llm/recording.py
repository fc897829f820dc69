"""Timed recordings of a provider's answers, ``*.stream.jsonl``: what was sent, when, and how it began.

The first line is a header, each other one an event::

    {"recording": 1, "shape": "anthropic", "status": 200, "headers": {"request-id": "req_1"}, "note": ""}
    {"at_us": 12000, "event": "message_start", "data": "{…}"}

``data`` is what stood behind ``data:`` (SSE) or the line (NDJSON), as text, unchanged. A comment is
``{"at_us": 1, "comment": " PROCESSING"}``. An answer that is no events (of another status, or a page of HTML)
has one line, its ``body``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, get_args

import orjson

from connectors.llm.calls import Shape
from connectors.llm.errors import RecordingRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SUFFIX: Final = ".stream.jsonl"
BYTES_MAX: Final = 64 * 1_048_576


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event, comment or body."""

    at_us: int
    """Microseconds since the request was sent."""
    data: str = ""
    event: str = ""
    comment: str | None = None
    body: str | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """One answer."""

    shape: Shape
    events: Sequence[Recorded]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def is_body(self) -> bool:
        """Whether it is no events: a refusal, or a page of HTML at status 200."""
        return self.status != 200 or any(each.body is not None for each in self.events)

    @property
    def body(self) -> bytes:
        """Of one that is no events, all of it."""
        return "".join(each.body or each.data for each in self.events).encode()


def read_recording(path: Path) -> Recording:
    """Read a file. Raises RecordingRefused, naming the line."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise RecordingRefused(f"{path} is larger than {BYTES_MAX} bytes")
        # Not splitlines: text may hold what Unicode calls the end of a line, and JSON does not escape it.
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingRefused(f"{path}: {error}") from None
    return parse_recording(lines, str(path))


def parse_recording(lines: Iterable[str], name: str) -> Recording:
    """Make a recording of its lines. Raises RecordingRefused, naming the line."""
    header: Mapping[str, Any] | None = None
    events: list[Recorded] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
            if header is None:
                header = _header(value)
            else:
                events.append(_recorded(value, events[-1].at_us if events else 0))
        except (orjson.JSONDecodeError, ValueError) as error:
            raise RecordingRefused(f"{name}, line {number}: {error}") from None
    if header is None:
        raise RecordingRefused(f"{name} is empty: it needs a header")
    return Recording(
        header["shape"], events, header.get("status", 200), header.get("headers", {}), header.get("note", "")
    )


def write_recording(path: Path, recording: Recording) -> None:
    """Write a file, whole or not at all."""
    rows: list[dict[str, Any]] = [
        {
            "recording": 1,
            "shape": recording.shape,
            "status": recording.status,
            "headers": dict(recording.headers),
            "note": recording.note,
        }
    ]
    for each in recording.events:
        row: dict[str, Any] = {"at_us": each.at_us}
        if each.comment is not None:
            row["comment"] = each.comment
        elif each.body is not None:
            row["body"] = each.body
        else:
            row |= {"event": each.event, "data": each.data} if each.event else {"data": each.data}
        rows.append(row)
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    beside.replace(path)


def _header(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.get("recording") != 1:
        raise ValueError('the first line must be {"recording": 1, "shape": …}')
    if value.get("shape") not in get_args(Shape):
        raise ValueError(f"shape must be one of {', '.join(get_args(Shape))}, is {value.get('shape')!r}")
    status, headers = value.get("status", 200), value.get("headers", {})
    if not isinstance(status, int) or not 100 <= status <= 599:
        raise ValueError(f"status must be from 100 to 599, is {status!r}")
    if not isinstance(headers, dict) or not all(isinstance(each, str) for each in headers.values()):
        raise ValueError("headers must be an object of strings")
    return value


def _recorded(value: Any, last_us: int) -> Recorded:
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004  # as all that is said of a line
    at_us = value.get("at_us")
    if not isinstance(at_us, int) or at_us < last_us:
        raise ValueError(f"at_us must be a whole number, and not before the line above, is {at_us!r}")
    for name in ("data", "event", "comment", "body"):
        if name in value and not isinstance(value[name], str):
            raise ValueError(f"{name} must be text")
    if not value.keys() & {"data", "comment", "body"}:
        raise ValueError("has neither data nor comment nor body")
    return Recorded(
        at_us, value.get("data", ""), value.get("event", ""), value.get("comment"), value.get("body")
    )
