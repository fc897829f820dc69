"""A worker that is killed at moments that a seed gives, and started again after a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import psutil

from benchmarks.meter import kill, stop

if TYPE_CHECKING:
    import random
    import subprocess
    from collections.abc import Sequence

    from benchmarks.race import Race

ALIVE_S: Final = (15.0, 60.0)
AWAY_S: Final = (0.5, 12.0)
"""Some come back within the session's time-out and find their partitions, for some another takes over."""
AGE_MIN_S: Final = 10.0
"""A worker's memory counts from this age on: before it, it is still coming up."""


class Mortal:
    """One process of a race's contender, alive when made; ``turn`` is to be called often."""

    def __init__(self, race: Race, command: Sequence[str], chance: random.Random) -> None:
        self._race = race
        self._command = command
        self._chance = chance
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self._since = self._due = 0.0
        race.folder.mkdir(parents=True)
        self._start()

    def turn(self) -> str:
        """Kill or start it if it is time; says if it has ended by itself, which it must not."""
        if self.process is not None and self.process.poll() is not None:
            return f"a worker ended by itself (exit code {self.process.returncode}): {self._race.last_line()}"
        if time.monotonic() < self._due:
            return ""
        if self.process is None:
            self._start()
        else:
            kill(self.process)
            self.process = None
            self.kills += 1
            self._due = time.monotonic() + self._chance.uniform(*AWAY_S)
        return ""

    def rss_bytes(self) -> int | None:
        """Return the memory of one that has come up; None = it has not."""
        if self.process is None or time.monotonic() - self._since < AGE_MIN_S:
            return None
        try:
            parent = psutil.Process(self.process.pid)
            return sum(each.memory_info().rss for each in (parent, *parent.children(recursive=True)))
        except psutil.Error:
            return None

    def state_bytes(self) -> int:
        """Return the size of what it keeps on the disk, its log left out."""
        found = 0
        for path in self._race.folder.rglob("*"):
            try:
                found += path.stat().st_size if path.is_file() and path != self._race.log else 0
            except FileNotFoundError:  # a compaction took it away meanwhile
                continue
        return found

    def live(self) -> subprocess.Popen[bytes]:
        """Be left alone from now on; returns its process."""
        if self.process is None:
            self._start()
        assert self.process is not None
        return self.process

    def end(self) -> None:
        """Stop it."""
        if self.process is not None:
            stop(self.process)

    def _start(self) -> None:
        self.process = self._race.start(self._command)
        self._since = time.monotonic()
        self._due = self._since + self._chance.uniform(*ALIVE_S)
