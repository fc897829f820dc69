"""How soon a worker that was killed has its state again: from its own disk, and from the changelog alone.

1. The worker is started on the state that the work ``state`` left, is given one more reading of each key of a
   sample, and is killed (SIGKILL) while it works them off.
2. It is started again: from the start of its process to all partitions being ready is the first figure.
   Then every key of the sample must count exactly one more.
3. It is killed in the same way, its state is removed, and it is started again: the second figure.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.keys import FoldedState, KeyLoad
from benchmarks.meter import Meter, kill, stop
from benchmarks.readback import ends, read_back
from benchmarks.results import Restored, median

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.race import Race

SAMPLE: Final = 100_000
READY_S: Final = 1_800.0
_LOOK_S: Final = 0.02
_READY: Final = re.compile(rb"ready at (\d+)")


def run(races: Sequence[Race], bench: Bench) -> list[Restored]:
    """Measure contenders as often as was asked for, taking turns."""
    found: dict[tuple[str, str], list[Restored]] = defaultdict(list)
    for _ in range(bench.asked.runs):
        for race in races:
            for line in measure(race, bench):
                found[line.name, line.work].append(line)
    return [median(lines) for lines in found.values()]


def measure(race: Race, bench: Bench) -> list[Restored]:
    """Kill it and start it again, twice."""
    load = race.load
    assert isinstance(load, KeyLoad)
    worker = _Worker(race, race.command(bench.settings))
    sample = load.order[: min(SAMPLE, load.keys)]
    lines = []
    try:
        worker.start()
        note = worker.wait_ready()
        for way, remove in (("its disk", False), ("the changelog", True)):
            if note:
                break
            say(f"restore: {race.contender.name}, from {way}")
            before = ends(race.output)
            load.append_more(bench.registry(), sample)
            # Killed in the midst of them, or, where it was quicker, right behind them.
            note = worker.wait_committed(load.count - len(sample) + 1)
            worker.kill()
            size_mb = worker.state_mb()
            if remove:
                worker.remove_state()
            worker.start()
            meter = worker.meter()
            note = note or worker.wait_ready()
            cost = meter.stop()
            seconds = worker.ready_after_s()
            note = note or worker.wait_committed(load.count)
            _, difference = read_back(race.output, FoldedState(load, sample), before)
            note = note or difference
            lines.append(_line(race, bench.runs(), way, seconds, cost, size_mb, note))
    finally:
        worker.end()
    return lines or [_line(race, bench.runs(), "its disk", None, (0.0, 0), 0, note)]


def _line(
    race: Race, runs: str, way: str, seconds: float | None, cost: tuple[float, int], state_mb: int, note: str
) -> Restored:
    """Make the line; ``cost`` is processor seconds and MB."""
    load = race.load
    assert isinstance(load, KeyLoad)
    cpu_s, rss_mb = cost
    return Restored(
        name=race.contender.name,
        work=f"restore: {load.keys} keys of {load.state_bytes} bytes, {runs}, kill -9, from {way}",
        guarantee=race.contender.guarantee,
        records_per_s=round(load.keys / seconds) if seconds else None,
        cpu_s_per_million=round(cpu_s * 1_000_000 / load.keys, 1) if seconds else None,
        peak_rss_mb=rss_mb if seconds else None,
        seconds=seconds,
        state_mb=state_mb,
        verified=not note,
        note=note,
    )


class _Worker:
    """A contender that is killed and started again."""

    def __init__(self, race: Race, command: Sequence[str]) -> None:
        self._race = race
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._began_ms = 0
        self._log_at = 0

    def start(self) -> None:
        """Start it; its time runs from here."""
        self._log_at = self._race.log.stat().st_size
        self._began_ms = time.time_ns() // 1_000_000
        self._process = self._race.start(self._command)

    def meter(self) -> Meter:
        """Begin to measure what it takes."""
        assert self._process is not None
        return Meter(self._process.pid)

    def wait_ready(self) -> str:
        """Wait until it says that all partitions are ready; says what went wrong if it does not."""
        assert self._process is not None
        deadline = time.monotonic() + READY_S
        while self._ready_ms() is None:
            if self._process.poll() is not None:
                return f"ended by itself (exit code {self._process.returncode}): {self._race.last_line()}"
            if time.monotonic() > deadline:
                return f"not ready after {READY_S:.0f} s"
            time.sleep(_LOOK_S)
        return ""

    def ready_after_s(self) -> float | None:
        """Return how long that took."""
        at_ms = self._ready_ms()
        return None if at_ms is None else round((at_ms - self._began_ms) / 1_000, 2)

    def wait_committed(self, count: int) -> str:
        """Wait until so many readings are committed; says what went wrong if they are not."""
        assert self._process is not None
        return self._race.wait([self._process], count, READY_S)

    def kill(self) -> None:
        """Kill it and its children at once: nobody can finish anything."""
        assert self._process is not None
        kill(self._process)

    def end(self) -> None:
        """Stop it."""
        if self._process is not None:
            stop(self._process)

    def state_mb(self) -> int:
        """Return the size of what it keeps on the disk."""
        files = (path for path in self._race.folder.rglob("*") if path.is_file() and path != self._race.log)
        return sum(path.stat().st_size for path in files) >> 20

    def remove_state(self) -> None:
        """Remove all that it keeps on the disk, as a machine that is lost."""
        for path in self._race.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)

    def _ready_ms(self) -> int | None:
        with self._race.log.open("rb") as log:
            log.seek(self._log_at)
            found = _READY.search(log.read())
        return int(found[1]) if found else None
