"""THE table of works: what is measured, by the name that ``WORKS=`` selects it with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks import growth, latency, pipeline, raw, restore, soak
from benchmarks.bench import say
from benchmarks.contenders import CONTENDERS, KEYED, among
from benchmarks.contest import contest
from benchmarks.goals import Goal
from benchmarks.keys import AGAIN, make_key_load
from benchmarks.race import Race
from benchmarks.readings import EVEN, KEYS, Shape, make_load
from benchmarks.results import RAW, RAW_DEFAULTS, judged_by_budget, median, ratio, with_ratios
from benchmarks.windows import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.bench import Bench
    from benchmarks.results import Line, Result

STREAMS, LINES = 200, 1_000
SMALL_BYTES, LARGE_BYTES, FEWER = 32, 1_000, 10
"""Sizes of the values of ``state``; of large ones there are so many times fewer."""


def windows(bench: Bench) -> Sequence[Result]:
    """Let one contender after the other do the work that stream processors are compared by."""
    events = bench.asked.events
    contenders = among(CONTENDERS, bench.asked.peers)
    loads = {}
    for count in sorted({min(events, contender.events_max) for contender in contenders}):
        say(f"windows: load of {count} events")
        loads[count] = make_load(bench.where.kafka, bench.registry(), count, of=events)
    whole = loads[events]
    work = (
        f"windows: {events} events of {whole.value_bytes} bytes, {KEYS} keys, {PARTITIONS} partitions: "
        f"windows of 10 s, {bench.runs()}"
    )
    limits = []
    for name, quick in ((RAW, True), (RAW_DEFAULTS, False)):
        say(f"windows: {name}")
        runs = [
            raw.measure(whole.kafka, whole.input, events, work, quick=quick) for _ in range(bench.asked.runs)
        ]
        limits.append(median(runs))
    entries = [(contender, loads[min(events, contender.events_max)]) for contender in contenders]
    return with_ratios([*limits, *contest(bench, entries, work)])


def ingest(bench: Bench) -> Sequence[Result]:
    """Have the product's own envelopes go through its own pipeline."""
    return pipeline.run(bench, STREAMS, LINES)


def from_publish_to_commit(bench: Bench) -> Sequence[Line]:
    """Take the time from a publication to its committed output."""
    return [latency.run(bench)]


def skew(bench: Bench) -> Sequence[Result]:
    """Have ours do the windows with half of the events under one key, beside the even load."""
    events = bench.asked.events
    loads = []
    for shape in (EVEN, Shape(hot=True)):
        say(f"skew: load of {events} events, {'one key has half' if shape.hot else 'even'}")
        loads.append(make_load(bench.where.kafka, bench.registry(), events, of=events, shape=shape))
    entries = [
        (replace(contender, name=f"{contender.name}, {how}"), load)
        for contender in CONTENDERS
        if contender.slug in ("columns", "events")
        for how, load in zip(("even", "one key has half"), loads, strict=True)
    ]
    work = f"skew: {events} events, {KEYS} keys, {PARTITIONS} partitions: windows of 10 s, {bench.runs()}"
    results = contest(bench, entries, work)
    pairs = zip(results[::2], results[1::2], strict=True)
    return [
        line
        for even, hot in pairs
        for line in (even, replace(hot, ratio_to_even=ratio(hot.records_per_s, even.records_per_s)))
    ]


def state(bench: Bench) -> Sequence[Result]:
    """Read, change and write back the state of more keys than a cache holds: small values, and large ones."""
    small = _state(bench, bench.asked.keys, SMALL_BYTES)
    bench.states[:] = small.races
    large = _state(bench, max(bench.asked.keys // FEWER, 1), LARGE_BYTES)
    return [*small.lines, *large.lines]


@dataclass(frozen=True)
class _Stated:
    lines: list[Result]
    races: list[Race]


def _state(bench: Bench, keys: int, state_bytes: int) -> _Stated:
    say(f"state: load of {keys} keys, {state_bytes} bytes each")
    load = make_key_load(bench.where.kafka, bench.registry(), keys, state_bytes)
    contenders = among(KEYED, bench.asked.peers)
    work = (
        f"state: {keys} keys of {state_bytes} bytes, {PARTITIONS} partitions, one in {AGAIN} keys twice, "
        f"{bench.runs()}"
    )
    measured = contest(bench, [(each, load) for each in contenders], work)
    races = [
        [Race(contender, load, bench.where, number, bench.folder) for number in range(bench.asked.runs)]
        for contender in contenders
    ]
    lines = [
        line
        if contender.peer
        else judged_by_budget(line, bench.settings.state.block_cache_mb, "".join(race.said for race in runs))
        for contender, line, runs in zip(contenders, measured, races, strict=True)
    ]
    last = bench.asked.runs - 1
    ran = [
        Race(contender, load, bench.where, last, bench.folder)
        for contender, line in zip(contenders, lines, strict=True)
        if line.verified
    ]
    return _Stated(with_ratios(lines), ran)


def restored(bench: Bench) -> Sequence[Line]:
    """Bring back what the work ``state`` made of the small values; made now if it was not asked for."""
    races = bench.states or _state(bench, bench.asked.keys, SMALL_BYTES).races
    return restore.run(races, bench)


WORKS: Final[Mapping[str, Callable[[Bench], Sequence[Line]]]] = {
    "windows": windows,
    "ingest": ingest,
    "latency": from_publish_to_commit,
    "skew": skew,
    "state": state,
    "restore": restored,
    "growth": growth.run,
    "soak": soak.run,
}
GOALS: Final[Mapping[str, Sequence[Goal]]] = {"latency": (Goal("p50_ms", 20), Goal("p99_ms", 60))}
"""Those that a line is held against; others compare lines, or runs (``README.md``)."""
