"""Contenders at one work, one after the other and taking turns, each as often as was asked for."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks.bench import say
from benchmarks.race import Race
from benchmarks.results import median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.contenders import Contender
    from benchmarks.race import Load
    from benchmarks.results import Result


def contest(bench: Bench, entries: Sequence[tuple[Contender, Load]], work: str) -> list[Result]:
    """Return the median result of each entry, in their order; the machine's mood changes for all alike."""
    found: dict[int, list[Result]] = defaultdict(list)
    for number in range(bench.asked.runs):
        for entry, (contender, load) in enumerate(entries):
            say(f"{load.role}: {contender.name}, {load.count} events, run {number + 1} of {bench.asked.runs}")
            race = Race(contender, load, bench.where, number, bench.folder)
            found[entry].append(race.run(bench.settings, work))
    return [median(results) for results in found.values()]
