"""``python -m benchmarks``: measures on a stack of its own; a table, or with JSON=1 an object a line.

``EVENTS`` is the size of the windows' load, ``RUNS`` how often it is worked off (the median is told), and
``PEERS`` who runs beside us (``none``, or names with commas).
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import latency, pipeline, raw
from benchmarks.contenders import Contender, UnknownPeer, selected
from benchmarks.race import Race
from benchmarks.readings import KEYS, Load, make_load
from benchmarks.results import RAW, RAW_DEFAULTS, Latency, Result, failed, median, show, with_ratios
from benchmarks.windows import PARTITIONS
from connectors.registry import Registry
from ops.settings import Settings
from ops.stack.down import down
from ops.stack.up import ensure_up

if TYPE_CHECKING:
    from ops.stack.addresses import Addresses

STREAMS, LINES = 200, 1_000
EVENTS: Final = 1_000_000


def main() -> int:
    """Measure; the exit code is 1 if a result of ours was not verified, 2 if something was misspelt."""
    try:
        contenders = selected(os.environ.get("PEERS", ""))
        events = int(os.environ.get("EVENTS") or EVENTS)
        runs = max(1, int(os.environ.get("RUNS") or 1))
    except (UnknownPeer, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped then too
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        settings = Settings(data_dir=folder)
        try:
            where = ensure_up(settings)
            results: list[Result | Latency] = [*windows(where, settings, contenders, events, runs)]
            _say("sluicegate ingest: throughput")
            results += pipeline.run(where, folder, STREAMS, LINES)
            _say("sluicegate ingest: latency")
            results.append(latency.measure(where, folder))
        finally:
            down(settings)
    show(results, as_json=bool(os.environ.get("JSON")))
    return 1 if failed(results) else 0


def windows(
    where: Addresses, settings: Settings, contenders: list[Contender], events: int, runs: int
) -> list[Result]:
    """Let one contender after the other do the work of the windows, and all of them ``runs`` times."""
    loads: dict[int, Load] = {}
    registry = Registry(where.registry_url)
    for count in sorted({min(events, contender.events_max) for contender in contenders}):
        _say(f"load of {count} events")
        loads[count] = make_load(where.kafka, registry, count, of=events)
    work = (
        f"{events} events of {loads[max(loads)].value_bytes} bytes, {KEYS} keys, {PARTITIONS} partitions: "
        f"windows of 10 s, {'one run' if runs == 1 else f'median of {runs} runs'}"
    )
    found: dict[str, list[Result]] = defaultdict(list)
    for number in range(runs):
        for name, quick in ((RAW, True), (RAW_DEFAULTS, False)):
            found[name].append(raw.measure(loads[max(loads)], work, quick=quick))
        for contender in contenders:
            _say(f"{contender.name}, run {number + 1} of {runs}")
            load = loads[min(events, contender.events_max)]
            race = Race(contender, load, where, number, settings.data_dir / "contenders")
            found[contender.name].append(race.run(settings, work))
    return with_ratios([median(results) for results in found.values()])


def _say(stage: str) -> None:
    print(f"bench: {stage}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
