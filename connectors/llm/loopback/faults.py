"""Faults as changes of an answer's lines; see ``wanted.FAULTS`` for what each is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from connectors.llm.loopback.errors import LoopbackRefused
from connectors.llm.loopback.lines import Line, frame_of, line_of, ping_of, value_of
from connectors.llm.loopback.wanted import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.loopback.shapes.shape import Shape
    from connectors.llm.loopback.wanted import Wanted

Ending = Literal["end", "close", "cut", "hang", "pings"]
"""The body ends; the connection is closed without that; it is reset; nothing more happens; pings for ever."""

NOT_IN: Final[Mapping[str, frozenset[str]]] = {
    "duplicate_start": frozenset({"gemini", "ollama"}),  # each event stands for itself
    "missing_finish": frozenset({"openai-responses", "ollama"}),  # it is in the end mark
    "missing_done": frozenset({"gemini"}),  # the end of the body is the mark
    "abort": frozenset({"anthropic"}),  # it gives up by an error alone
}
"""Shapes that have no words for a fault: they refuse it, so that no test takes it for had."""
_ENDINGS: Final[Mapping[str, Ending]] = {
    "cut": "cut",
    "closed": "close",
    "ended": "end",
    "cut_utf8": "end",
    "stall": "hang",
    "pings": "pings",
    "error_frame": "end",
}
_PART_OF_A_CHARACTER: Final = b"\xe2\x82"  # the first two bytes of the three of €
_TEXTS: Final = ("content", "text", "delta", "thinking", "reasoning", "partial_json", "arguments")
_UNKNOWN: Final = ("loopback.unknown", {"type": "loopback.unknown", "new": [1, {"nested": None}]})


def refusal_of(wanted: Wanted, shape: Shape) -> tuple[int, Mapping[str, str], Any] | None:
    """Give status, headers and body (None = a page) of an answer that is none; None if it is one."""
    fault = next(iter(wanted.fault & REFUSALS.keys()), None)
    if fault is None:
        return None
    headers = {"retry-after": wanted.retry_after} if wanted.retry_after else {}
    if fault == "bad_gateway":
        return 502, headers, None
    status, value = shape.refused(fault, "", wanted.retry_after)
    return status, headers, value


def with_faults(lines: Sequence[Line], wanted: Wanted, shape: Shape) -> tuple[list[Line], Ending]:
    """Give the lines as the faults leave them, and how the answer ends.

    Raises:
        LoopbackRefused: the shape has no words for a fault.
    """
    fault = wanted.fault
    for name in fault:
        if shape.name in NOT_IN.get(name, ()):
            raise LoopbackRefused(f"{shape.name} has nothing that {name} could be", "Ask another shape.")
    made = _without(lines, fault, shape)
    place = _place(made, wanted.after)
    before, rest = made[:place], made[place:]
    if "bad_utf8" in fault and rest:
        rest[0] = replace(rest[0], raw=_PART_OF_A_CHARACTER.join(_halves(rest[0], shape)))
    extra = _extra(made, wanted, shape, place)
    ending: Ending = "end"
    if "stall" in fault and wanted.stall_ms:
        rest = [replace(line, at_us=line.at_us + wanted.stall_ms * 1_000) for line in rest]
    elif "cut_utf8" in fault:
        rest = [replace(line, raw=_halves(line, shape)[0] + _PART_OF_A_CHARACTER) for line in rest[:1]]
    elif "abort" in fault:
        rest = [_given_up(line, shape) for line in rest if line.kind in ("finish", "usage", "done")]
    elif broken := fault & _ENDINGS.keys():
        rest, ending = [], _ENDINGS[next(iter(broken))]
    made = before + extra + rest
    if "comments" in fault:
        made = [each for line in made for each in (ping_of(shape, line.at_us), line)]
    return made, ending


def _without(lines: Sequence[Line], fault: frozenset[str], shape: Shape) -> list[Line]:
    gone = {kind for kind in ("finish", "done") if f"missing_{kind}" in fault}
    made = [line for line in lines if line.kind not in gone]
    if "missing_usage" not in fault:
        return made
    return [each for line in made if (each := _without_usage(line, shape)) is not None]


def _without_usage(line: Line, shape: Shape) -> Line | None:
    value = value_of(line.data)
    less = shape.without_usage(value)
    if less is None:
        return None
    return line if less == value else line_of(line.at_us, line.kind, (line.event, less))


def _given_up(line: Line, shape: Shape) -> Line:
    value = value_of(line.data)
    said = shape.given_up(value)
    return line if said == value else line_of(line.at_us, line.kind, (str(said.get("type", "")), said))


def _place(lines: Sequence[Line], after: int) -> int:
    """Give the number of the line before which so many contents stand, at most that after the last."""
    contents = [number for number, line in enumerate(lines) if line.kind == "content"]
    if after < len(contents):
        return contents[after]
    return contents[-1] + 1 if contents else 0


def _extra(lines: Sequence[Line], wanted: Wanted, shape: Shape, place: int) -> list[Line]:
    fault = wanted.fault
    at_us = lines[place - 1].at_us if place else 0
    extra: list[Line] = []
    if "duplicate_start" in fault:
        extra += [replace(line, at_us=at_us) for line in lines if line.kind == "start"]
    if "unknown" in fault:
        event, value = _UNKNOWN
        named = shape.name in ("anthropic", "openai-responses")
        extra.append(line_of(at_us, "other", (event if named else "", value)))
    if "malformed" in fault and lines:
        whole = lines[min(place, len(lines) - 1)]
        extra.append(Line(at_us, "other", whole.event, whole.data[: len(whole.data) // 2]))
    if "huge" in fault:
        extra.append(line_of(at_us, "other", ("", {"padding": "x" * wanted.huge_bytes})))
    if "error_frame" in fault:
        extra += [line_of(at_us, "other", said) for said in shape.failed()]
    return extra


def _halves(line: Line, shape: Shape) -> tuple[bytes, bytes]:
    """Cut a frame before the first character of its content, else in its middle; never inside a character."""
    frame = frame_of(line, shape.framing)
    texts = sorted(_texts_in(value_of(line.data)), key=len)
    where = frame.find(line_of(0, "other", ("", [texts[-1]])).data[2:-2].encode()) if texts else -1
    if where < 0:
        where = len(frame) // 2
        while where < len(frame) and 0x80 <= frame[where] < 0xC0:
            where += 1
    return frame[:where], frame[where:]


def _texts_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for each in value for text in _texts_in(each)]
    if not isinstance(value, dict):
        return []
    own = [value[name] for name in _TEXTS if isinstance(value.get(name), str)]
    return own + [text for each in value.values() for text in _texts_in(each)]
