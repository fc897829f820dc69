"""Turn the lines of one output into events: every line a ``log``, and ``progress`` where it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.execution.guess import Progress, level_of, progress_of
from ops.execution.lines import Line, LineCutter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ops.execution.child import OutputName

# A bar is drawn far oftener than anybody can see.
_BAR_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that has no place in a stream yet: its type and its payload."""

    type: str
    payload: dict[str, object]


class OutputEvents:
    """Reads one output of a command.

    A bar (text that a carriage return lets the terminal write over) becomes ``progress`` if it shows
    any, at most ten times a second and always in its last state; other overwritten text is a line.
    """

    def __init__(self, output: OutputName, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._cutter = LineCutter()
        self._shown: Progress | None = None
        self._shown_at = float("-inf")
        self._held: tuple[Progress, str] | None = None

    def feed(self, chunk: bytes) -> Iterator[Happening]:
        """Events of the lines that this chunk completes."""
        for line in self._cutter.feed(chunk):
            yield from self._read(line)

    def finish(self) -> Iterator[Happening]:
        """Events of what is left when the output ends."""
        for line in self._cutter.finish():
            yield from self._read(line)
        yield from self._release()

    def _read(self, line: Line) -> Iterator[Happening]:
        progress = progress_of(line.text, overwritten=line.ending == "return")
        if line.ending == "return":
            if progress is not None:
                yield from self._draw(progress, line.text)
                return
            if not line.text.strip():  # a bar is wiped with blanks, or the cursor set back
                return
        yield from self._release()
        yield Happening(
            "log",
            {
                "level": level_of(line.text),
                "stream": self._output,
                "line": line.text,
                **({"partial": True} if line.ending == "cut" else {}),
            },
        )
        if progress is not None and progress != self._shown:
            yield self._show(progress, line.text)

    def _draw(self, progress: Progress, text: str) -> Iterator[Happening]:
        if progress == self._shown and self._held is None:
            return
        if self._clock() - self._shown_at < _BAR_EVERY_S:
            self._held = (progress, text)
            return
        self._held = None
        yield self._show(progress, text)

    def _release(self) -> Iterator[Happening]:
        if self._held is not None:
            progress, text = self._held
            self._held = None
            yield self._show(progress, text)

    def _show(self, progress: Progress, text: str) -> Happening:
        self._shown, self._shown_at = progress, self._clock()
        return Happening(
            "progress",
            {
                "done": progress.done,
                "total": progress.total,
                "unit": progress.unit,
                "message": text.strip()[:200],
            },
        )
