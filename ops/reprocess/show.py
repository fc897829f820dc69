"""Shows how a rebuild goes: a bar on a terminal, a line now and then elsewhere, JSON for programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from ops import console

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from ops.reprocess.plan import Plan
    from ops.reprocess.progress import Look

_EVERY_S: Final = 5.0


class Show:
    """Used as a context: the bar is taken down at its end."""

    def __init__(self, plan: Plan, *, as_json: bool) -> None:
        self._plan = plan
        self._as_json = as_json
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown = -_EVERY_S
        self._level = False

    def __enter__(self) -> Self:
        if not self._as_json and console.err().is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                console=console.err(),
            )
            self._task = self._bar.add_task(self._plan.role, total=None, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def look(self, look: Look) -> None:
        """Show one look."""
        if self._as_json:
            console.print_json(
                {"role": self._plan.role, "generation": self._plan.generation, **look.as_json()}
            )
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=look.done, total=look.done + look.left, rate=_rate(look))
        elif time.monotonic() - self._shown >= _EVERY_S:
            self._shown = time.monotonic()
            console.note(f"{look.share:.0%}, {look.left:,} left, {_rate(look)}")
        if look.level and not self._level:
            self._level = True
            behind = f", but for {look.left:,} offsets" if look.left else ""
            self.tell(f"generation {self._plan.generation} is as far as generation {self._plan.live}{behind}")

    def tell(self, text: str) -> None:
        """Say something once."""
        if self._as_json:
            console.print_json({"role": self._plan.role, "generation": self._plan.generation, "told": text})
        else:
            console.note(text)


def _rate(look: Look) -> str:
    eta = look.eta_s
    left = "level" if look.level else "" if eta is None else f"about {_duration(eta)} left"
    return f"{look.per_s:,.0f}/s {left}".rstrip()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
