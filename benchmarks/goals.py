"""What is asked of ours: each line of ours that has a figure with a goal says whether it is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.results import OURS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.results import Line


class Goal(NamedTuple):
    """A bound of one figure of a line."""

    figure: str
    bound: float
    least: bool = False
    """It must be as much at the least; else it must be less."""

    def __str__(self) -> str:
        return f"{self.figure} {'≥' if self.least else '<'} {self.bound:g}"

    def met(self, row: Mapping[str, object]) -> bool | None:
        """Whether it is; None = the figure was not measured."""
        value = row.get(self.figure)
        if not isinstance(value, int | float):
            return None
        return value >= self.bound if self.least else value < self.bound


@dataclass(frozen=True)
class Judged:
    """A line with ``goal`` and ``met``: None where a figure was not measured, and none is missed."""

    line: Line
    goals: Sequence[Goal]

    @property
    def name(self) -> str:
        """See Line."""
        return self.line.name

    @property
    def work(self) -> str:
        """See Line."""
        return self.line.work

    @property
    def verified(self) -> bool:
        """See Line."""
        return self.line.verified

    def row(self) -> dict[str, object]:
        """See Line."""
        row = self.line.row()
        found = [goal.met(row) for goal in self.goals]
        met = False if False in found else None if None in found else True
        return row | {"goal": ", ".join(map(str, self.goals)), "met": met}


def judged(line: Line, goals: Sequence[Goal]) -> Line:
    """Hold a line of ours against those goals whose figures it has; else it stays as it is."""
    row = line.row()
    mine = [goal for goal in goals if goal.figure in row] if line.name.startswith(OURS) else []
    return Judged(line, mine) if mine else line


def missed(lines: Sequence[Line]) -> list[str]:
    """Name the goals that are not met, by line, with what was measured."""
    found = []
    for line in lines:
        row, goals = line.row(), line.goals if isinstance(line, Judged) else ()
        short = [f"{goal} ({row[goal.figure]:g})" for goal in goals if goal.met(row) is False]
        if short:
            found.append(f"{line.name}: {', '.join(short)}")
    return found
