"""What a person sees while the stack gets ready: stages as lines, a download as a bar."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console


class Progress(Protocol):
    """Told of every stage; called from several threads."""

    def note(self, text: str) -> None:
        """Tell one thing that happened, or that takes a while."""

    def download(self, title: str, total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show a download; the context's function takes bytes that arrived (negative: thrown away)."""


class Silent:
    """Shows nothing: for tests and for callers with an output of their own."""

    def note(self, text: str) -> None:
        """Show nothing."""

    @contextmanager
    def download(self, title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show nothing."""
        del title, total_bytes
        yield lambda _count: None


class OnConsole:
    """Lines and a bar on a terminal; in a log file, a line at every quarter."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def download(self, title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show a bar with speed and time left, where there is a terminal."""
        if not self._console.is_terminal:
            yield _Quarters(title, total_bytes, self.note)
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import (
            Progress as Bar,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Bar(*columns, TimeRemainingColumn(), console=self._console) as bar:
            task = bar.add_task(title, total=total_bytes)
            yield lambda count: bar.advance(task, count)


class _Quarters:
    """A line at every quarter of a download."""

    def __init__(self, title: str, total_bytes: int, note: Callable[[str], None]) -> None:
        self._title, self._total, self._note = title, max(total_bytes, 1), note
        self._done = self._told = 0
        note(f"{title}: {total_bytes / 1e6:.0f} MB to come")

    def __call__(self, count: int) -> None:
        self._done += count
        quarter = 4 * self._done // self._total
        if quarter > self._told:
            self._told = quarter
            self._note(f"{self._title}: {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB")
