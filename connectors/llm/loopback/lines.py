"""One event of an answer, and how it stands in the body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from connectors.llm.loopback.shapes.shape import Kind, Said, Shape
    from connectors.llm.provider import Framing

_END_OF_LINE: Final = re.compile("\r\n|\r|\n")  # server-sent events know no other


@dataclass(frozen=True, slots=True)
class Line:
    """One event or comment and when it is due, microseconds since the request."""

    at_us: int
    kind: Kind
    event: str = ""
    data: str = ""
    comment: str | None = None
    raw: bytes | None = None
    """The frame itself, where it is broken."""


def line_of(at_us: int, kind: Kind, said: Said) -> Line:
    """Make a line of an event and its value."""
    event, value = said
    return Line(at_us, kind, event, value if isinstance(value, str) else orjson.dumps(value).decode())


def ping_of(shape: Shape, at_us: int = 0) -> Line:
    """Give a line by which the provider says that it lives, and nothing else."""
    said = shape.ping()
    return Line(at_us, "other", comment=" PROCESSING") if said is None else line_of(at_us, "other", said)


def value_of(data: str) -> Any:
    """Read data as JSON where it is, as text where it is not."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data


def frame_of(line: Line, framing: Framing) -> bytes:
    """Write a line as its framing has it."""
    if line.raw is not None:
        return line.raw
    if framing == "ndjson":
        return b"" if line.comment is not None else line.data.encode() + b"\n"
    if line.comment is not None:
        return f":{line.comment}\n\n".encode()
    name = f"event: {line.event}\n" if line.event else ""
    if "\n" in line.data or "\r" in line.data:
        data = "".join(f"data: {each}\n" for each in _END_OF_LINE.split(line.data))
        return f"{name}{data}\n".encode()
    return f"{name}data: {line.data}\n\n".encode()
