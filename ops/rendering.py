"""A stream for the eyes: each event by its type, as lines of a terminal or plain text in a pipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import orjson
from rich.text import Text

from schemas.usage import UNKNOWN, cost_of_usage

if TYPE_CHECKING:
    from rich.console import Console

Fields = Mapping[str, object]

_LEVEL_STYLES: Final = {
    "trace": "dim",
    "debug": "dim",
    "warning": "yellow",
    "error": "red",
    "critical": "bold red",
}
# What a stream's text could do to a terminal: move its cursor, set its title, answer back.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")
_META: Final = ("type", "seq", "time", "event_id")


class Renderer:
    """Prints events in order; text without an end of line (tokens, cut lines) is joined.

    On a terminal, log lines keep their colours and everything else that could steer the terminal is
    taken out. In a pipe a log line is what the command printed, byte for byte as far as it was text.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open_line = False
        self._last_line = ""

    def show(self, event_type: str, fields: Fields) -> None:
        """Print one event."""
        if event_type == "log":
            self._log(fields)
            return
        if event_type == "token":
            self._write(self._safe(fields.get("text")), end="")
            self._open_line = True
            return
        line, self._last_line = self._last_line.strip()[:200], ""
        if event_type == "progress" and line and fields.get("message") == line:
            return  # read off the line that was just shown
        self.end_line()
        text = _LINES.get(event_type, _other)(fields)
        self._console.print(Text(self._clean(text), style=_STYLES.get(event_type, "cyan")))

    def end_line(self) -> None:
        """Finish a line that is still open."""
        if self._open_line:
            self._open_line = False
            self._write("\n", end="")

    def _log(self, fields: Fields) -> None:
        line = self._last_line = str(fields.get("line", ""))
        end = "" if fields.get("partial") else "\n"
        if not self._console.is_terminal:
            self._write(line, end=end)
        else:
            style = _LEVEL_STYLES.get(str(fields.get("level")), "")
            self._console.print(Text.from_ansi(line, style=style), end=end)
        self._open_line = not end

    def _write(self, text: str, *, end: str) -> None:
        # Not through print: rich would read markup, expand tabs and wrap.
        self._console.file.write(text + end)
        self._console.file.flush()

    def _safe(self, value: object) -> str:
        text = str(value or "")
        return _CONTROLS.sub("", text) if self._console.is_terminal else text

    def _clean(self, text: str) -> str:
        return _CONTROLS.sub("\ufffd", text)


def _open(fields: Fields) -> str:
    labels = fields.get("labels")
    shown = " ".join(f"{name}={value}" for name, value in labels.items()) if isinstance(labels, dict) else ""
    return " ".join(filter(None, ("open", str(fields.get("title") or ""), shown)))


def _progress(fields: Fields) -> str:
    done, total, unit = fields.get("done"), fields.get("total"), str(fields.get("unit") or "")
    if unit == "%":
        so_far = f"{_number(done)}%"
    else:
        so_far = (
            _number(done) + (f"/{_number(total)}" if total is not None else "") + (f" {unit}" if unit else "")
        )
    return f"progress {so_far}  {fields.get('message') or ''}".rstrip()


def _usage(fields: Fields) -> str:
    cost, provenance = cost_of_usage(fields), fields.get("provenance")
    told = " (estimated)" if provenance == "estimated" else ""
    nothing = "unknown" if provenance == UNKNOWN else 0  # a count is never null
    return (
        f"usage {fields.get('provider')}/{fields.get('model')}: "
        f"{fields.get('input_tokens') or nothing} tokens in, {fields.get('output_tokens') or nothing} out, "
        + (f"cost {cost / 1e9:.6f}{told}" if isinstance(cost, int) else "cost unknown")
    )


def _gap(fields: Fields) -> str:
    return (
        f"gap: {fields.get('count')} events are missing "
        f"(seq {fields.get('from_seq')} to {fields.get('to_seq')}): {fields.get('reason')}"
    )


def _end(fields: Fields) -> str:
    reason, message = fields.get("reason"), fields.get("message")
    failed = reason in ("upstream_error", "timed_out")  # of a cancel, its own line says why
    return f"end {reason}: {message}" if failed and message else f"end {reason}"


def _media(fields: Fields) -> str:
    size = f"{len(str(fields.get('data') or ''))} characters of base64"
    return f"media {fields.get('mime')} {fields.get('reference') or size}"


def _other(fields: Fields) -> str:
    rest = {name: value for name, value in fields.items() if name not in _META}
    return f"{fields.get('type')} {orjson.dumps(rest).decode()}"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


_LINES: Final[Mapping[str, Callable[[Fields], str]]] = {
    "open": _open,
    "progress": _progress,
    "usage": _usage,
    "state": lambda fields: f"state {fields.get('name')} = {fields.get('value_json')}",
    "media": _media,
    "message": lambda fields: f"{fields.get('from')}: {fields.get('text')}",
    "gap": _gap,
    "reset": lambda fields: (
        f"reset: what came from seq {fields.get('from_seq')} on is superseded: {fields.get('reason')}"
    ),
    "cancel": lambda fields: (
        f"cancel asked for by {fields.get('by') or 'a client'}: {fields.get('reason') or 'no reason given'}"
    ),
    "end": _end,
}
_STYLES: Final = {
    "open": "bold",
    "end": "bold",
    "progress": "dim",
    "gap": "bold yellow",
    "reset": "bold yellow",
    "cancel": "bold yellow",
    "message": "",
}
