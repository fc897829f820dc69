"""Processes of our own that run beside us: started in groups, watched, and stopped whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Self

from ops.orphans import die_with_parent, signal_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_TAIL_BYTES = 8 * 1024


def sluicegate(*words: str) -> list[str]:
    """The command line of another `sluicegate` of this very environment."""
    return [sys.executable, "-m", "ops", *words]


class Child:
    """One process that we started, and where its output goes."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path | None) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self.started_at = time.monotonic()
        # Never awaited as it is: who waits may be cancelled, and would take this with it.
        self.ended = asyncio.create_task(process.wait())

    async def wait(self) -> None:
        """Wait until the process ended."""
        await asyncio.wait({self.ended})

    @property
    def code(self) -> int | None:
        """Exit code as a shell tells it, 128 + n for signal n; None while it runs."""
        if not self.ended.done():
            return None
        code = self.ended.result()
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all it started in its group."""
        signal_group(self.pid, number)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that it wrote, for an error message; empty if its output is not kept."""
        if self.log is None:
            return ""
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


class Children:
    """A family of processes. Leaving the ``async with`` stops those that run, the youngest first.

    Each has a process group of its own, so that a Ctrl-C at the terminal reaches only us and the order
    of stopping is ours; on Linux the kernel ends them should we be killed.
    """

    def __init__(
        self, *, stop_within_s: float = 20.0, on_stop: Callable[[str], object] = lambda _name: None
    ) -> None:
        """``on_stop`` is told the name of each that leaving waits for."""
        self._stop_within_s = stop_within_s
        self._on_stop = on_stop
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._children):
            if not child.ended.done():
                self._on_stop(child.name)
            await self.stop(child)

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path | None = None,
        append: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a process; ``log`` is written anew, or appended to; ``environment`` is added to ours.

        Raises OSError if it does not start.
        """
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        sink = log.open("ab" if append else "wb") if log is not None else None
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=asyncio.subprocess.STDOUT if sink is not None else None,
                process_group=0,
                env={**os.environ, **(environment or {})},
                preexec_fn=die_with_parent(),
            )
        finally:
            if sink is not None:
                sink.close()
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """Leave out one that ended, and kill what is left of its group."""
        child.signal(signal.SIGKILL)
        self._children.remove(child)

    async def first_end(self) -> Child:
        """Wait until any process of the family ends by itself."""
        await asyncio.wait({child.ended for child in self._children}, return_when=asyncio.FIRST_COMPLETED)
        return next(child for child in self._children if child.ended.done())

    async def stop(self, *children: Child) -> None:
        """Ask processes to stop, all at once; kill what is left of their groups when the time is up."""
        for child in children:
            if not child.ended.done():
                child.signal(signal.SIGTERM)
        waiting = {child.ended for child in children if not child.ended.done()}
        if waiting:
            await asyncio.wait(waiting, timeout=self._stop_within_s)
        for child in children:
            child.signal(signal.SIGKILL)  # a grandchild may have outlived its parent
            await child.wait()

    def kill_all(self) -> None:
        """Kill at once: somebody pressed Ctrl-C a second time."""
        for child in self._children:
            child.signal(signal.SIGKILL)
