"""An answer as it is played: bytes with their times, and how it ends. Pure: nothing waits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import orjson

from connectors.llm.loopback.faults import refusal_of, with_faults
from connectors.llm.loopback.lines import Line, frame_of, line_of, ping_of, value_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from connectors.llm.loopback.faults import Ending
    from connectors.llm.loopback.kept import Seek
    from connectors.llm.loopback.script import Script
    from connectors.llm.loopback.shapes.shape import Shape
    from connectors.llm.loopback.wanted import Wanted
    from connectors.llm.provider import Framing
    from connectors.llm.recording import Recording

HTML: Final = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1><hr>nginx</body></html>\n"
JSON_TYPE: Final = "application/json"
_SPLIT_US: Final = 2_000
"""Between the pieces of a frame: so that each is a packet of its own."""


@dataclass(frozen=True, slots=True)
class Play:
    """One answer: frames go out when they are due, then the ending happens."""

    status: int
    """0 = none is said."""
    headers: Mapping[str, str]
    at_us: tuple[int, ...] = ()
    """When each frame is due, microseconds since the request; never goes back."""
    frames: tuple[bytes, ...] = ()
    """As they stand in the body."""
    first_content: int = 0
    """Number of the first frame with content; as many as there are frames if none has."""
    ending: Ending = "end"
    body: bytes | None = None
    """Set where the answer is no stream."""
    ping: bytes = b""
    ping_us: int = 0
    stamped: bool = False
    """The frames have ``STAMP`` where the time is to stand."""


def play_script(script: Script, wanted: Wanted, shape: Shape, seek: Seek | None = None) -> Play:
    """Play a made-up answer at its own pace, with its faults; with ``seek``, the rest of it."""
    return _play(_sought(paced(script, wanted, shape), seek), wanted, shape, {})


def play_recording(
    recording: Recording, wanted: Wanted, shape: Shape, speed: float = 1.0, seek: Seek | None = None
) -> Play:
    """Play a recording at its own pace times the speed that is wanted, else ``speed``; else as a script."""
    if recording.is_body and not wanted.fault:
        return Play(recording.status, {"content-type": JSON_TYPE, **recording.headers}, body=recording.body)
    lines = recorded(recording, speed if wanted.speed is None else wanted.speed, shape)
    return _play(_sought(lines, seek), wanted, shape, recording.headers)


def paced(script: Script, wanted: Wanted, shape: Shape) -> list[Line]:
    """Give a script's lines with their times: contents are so many tokens a second, others cling to them."""
    lines: list[Line] = []
    contents, at_us = 0, 0
    for event, value in shape.lines(script):
        kind = shape.kind(event, value)
        if kind == "content":
            at_us = wanted.first_ms * 1_000
            if wanted.rate:
                at_us += round(contents * wanted.chunk * 1_000_000 / wanted.rate)
            contents += 1
        lines.append(line_of(at_us, kind, (event, value)))
    return lines


def recorded(recording: Recording, speed: float, shape: Shape) -> list[Line]:
    """Give a recording's lines with their times at a speed; 0 = all at once. Order and data are kept."""
    lines = []
    for each in recording.events:
        at_us = round(each.at_us / speed) if speed else 0
        if each.comment is not None:
            lines.append(Line(at_us, "other", comment=each.comment))
        else:
            kind = shape.kind(each.event, value_of(each.data))
            lines.append(Line(at_us, kind, each.event, each.data))
    return lines


def _sought(lines: Sequence[Line], seek: Seek | None) -> Sequence[Line]:
    """Give the lines behind a place, at what is left of their times: the model has gone on meanwhile."""
    if seek is None:
        return lines
    return [
        replace(line, at_us=max(0, line.at_us - seek.elapsed_us))
        for line in lines
        if isinstance(value := value_of(line.data), dict) and value.get("sequence_number", -1) > seek.after
    ]


def _play(lines: Sequence[Line], wanted: Wanted, shape: Shape, headers: Mapping[str, str]) -> Play:
    if wanted.fault & {"no_answer", "drop"}:
        return Play(0, {}, ending="hang" if "no_answer" in wanted.fault else "cut")
    if "html" in wanted.fault:
        return Play(200, {"content-type": "text/html"}, body=HTML)
    if (refused := refusal_of(wanted, shape)) is not None:
        status, more, value = refused
        if value is None:
            return Play(status, {"content-type": "text/html", **more}, body=HTML)
        return Play(status, {"content-type": JSON_TYPE, **more}, body=orjson.dumps(value))
    lines, ending = with_faults(lines, wanted, shape)
    frames, at_us, first_content = _framed(lines, shape.framing, split="split" in wanted.fault)
    kind = "text/event-stream; charset=utf-8" if shape.framing == "sse" else "application/x-ndjson"
    return Play(
        200,
        {"content-type": kind, "cache-control": "no-cache", **headers},
        at_us,
        frames,
        first_content,
        ending,
        ping=frame_of(ping_of(shape), shape.framing) if ending == "pings" else b"",
        ping_us=wanted.ping_ms * 1_000,
        stamped=wanted.stamp,
    )


def _framed(
    lines: Iterable[Line], framing: Framing, *, split: bool
) -> tuple[tuple[bytes, ...], tuple[int, ...], int]:
    frames: list[bytes] = []
    times: list[int] = []
    first_content = -1
    last_us = 0
    for line in lines:
        last_us = max(last_us, line.at_us)
        frame = frame_of(line, framing)
        if first_content < 0 and line.kind == "content":
            first_content = len(frames)
        if split and len(frame) > 1:
            where = next((at + 1 for at, byte in enumerate(frame) if byte >= 0xC0), len(frame) // 2)
            frames += (frame[:where], frame[where:])
            times += (last_us, last_us + _SPLIT_US)
            last_us += 2 * _SPLIT_US
        else:
            frames.append(frame)
            times.append(last_us)
    return tuple(frames), tuple(times), first_content if first_content >= 0 else len(frames)
