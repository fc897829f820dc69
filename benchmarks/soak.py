"""A long run: load at a steady rate, windows with a TTL, two workers killed at random moments.

1. A thread appends readings at the rate; their event time is now.
2. Each of two workers is killed (SIGKILL) every 15 to 60 s and started again after 0.5 to 12 s, by a seed:
   some come back within the session's time-out and find their partitions, for some the other takes over.
3. Every ten seconds memory and disk of the workers and the size of the changelog are noted.
4. At the end time is moved on, so that all windows close. Each window must have been written exactly once,
   with the sums that a plain loop over the same readings gives.
5. From ten minutes on the trend of each size must be flat (``flat.py``); a shorter run is not judged.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.closing import changelog_of, output_of
from benchmarks.contenders import CLOSING
from benchmarks.flat import flat, growth
from benchmarks.mortal import Mortal
from benchmarks.race import Race
from benchmarks.readback import read_back
from benchmarks.steady import SteadyLoad
from benchmarks.windows import INPUT, PARTITIONS
from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.bench import Bench
    from benchmarks.flat import Sample

WORKERS: Final = 2
SAMPLE_S: Final = 10.0
SETTLED_S: Final = 600.0
"""The changelog is bounded from then on: five minutes are kept, and the broker looks each five minutes."""
GROWTH_MAX: Final = {"memory": 0.2, "state on disk": 0.5, "changelog": 0.5}
"""Windows that were never forgotten would grow by 1.0 from the tenth to the thirtieth minute; the teeth of
compactions and restarts move the trend by less than 0.2."""
TOOTH_S: Final = 360.0
"""The longest that the changelog may grow before the broker takes something off: it looks each five minutes,
and a segment is a minute old before it is one to be looked at."""
LAST_S: Final = 180.0
_TURN_S: Final = 0.1


@dataclass(frozen=True)
class Soaked:
    """The line of the work."""

    name: str
    work: str
    guarantee: str
    events: int
    records_per_s: int
    kills: int
    windows: int
    lag_events_max: int
    peak_rss_mb: int
    """Of one worker."""
    state_mb_max: int
    changelog_mb_max: int
    memory_growth: float | None
    """By ``flat.growth``, as are the next two; None = the run was too short to tell."""
    state_growth: float | None
    changelog_growth: float | None
    flat: bool | None
    verified: bool
    """Each window was written once, with the right sums."""
    cpu_s_per_million: float | None = None
    """Not told: workers that are killed take theirs with them."""
    note: str = ""

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        return asdict(self)


@dataclass
class Samples:
    """What was noted, by kind; memory of each worker by itself."""

    memory: list[Sample] = field(default_factory=list)
    state: list[Sample] = field(default_factory=list)
    changelog: list[Sample] = field(default_factory=list)
    lag_max: int = 0

    def after(self, since_s: float) -> list[float | None]:
        """Return the growth of each from then on."""
        return [
            growth([sample for sample in kind if sample[0] >= since_s], tooth_s)
            for kind, tooth_s in ((self.memory, 0.0), (self.state, 0.0), (self.changelog, TOOTH_S))
        ]


@dataclass(frozen=True)
class _Run:
    """One soak: its workers, and where the sizes are looked up."""

    race: Race
    workers: Sequence[Mortal]
    logs: Path
    """The broker's folder of logs."""
    began: float
    samples: Samples

    @property
    def changelog(self) -> str:
        """The changelog's name as it stands in Kafka."""
        return changelog_of(self.race.tag).named(self.race.load.kafka.topic_prefix)

    def sample(self) -> None:
        """Note all sizes, and tell how it goes."""
        samples, now_s = self.samples, round(time.monotonic() - self.began, 1)
        memory = [worker.rss_bytes() for worker in self.workers]
        samples.memory += [(now_s, float(rss)) for rss in memory if rss is not None]
        state = sum(worker.state_bytes() for worker in self.workers)
        samples.state.append((now_s, float(state)))
        changelog = sum(
            path.stat().st_size
            for folder in self.logs.glob(f"{self.changelog}-*")
            for path in folder.glob("*.log")
        )
        samples.changelog.append((now_s, float(changelog)))
        lag = self.race.load.count - self.race.committed()
        samples.lag_max = max(samples.lag_max, lag)
        each = "/".join("-" if rss is None else str(rss >> 20) for rss in memory)
        say(
            f"soak: {now_s:.0f} s, {self.race.load.count} events, lag {lag}, memory {each} MB, "
            f"state {state >> 20} MB, changelog {changelog >> 20} MB, "
            f"{sum(worker.kills for worker in self.workers)} kills"
        )


def run(bench: Bench) -> list[Soaked]:
    """Soak, and judge."""
    asked = bench.asked
    kafka = KafkaOptions(bench.where.kafka, f"bench{time.time_ns()}.")
    ensure_topics(kafka, [INPUT])
    load = SteadyLoad(kafka, bench.registry())
    races = [Race(CLOSING, load, bench.where, 0, bench.folder, member=number) for number in range(WORKERS)]
    first = races[0]
    ensure_topics(kafka, [output_of(first.tag), changelog_of(first.tag)])
    say(f"soak: {asked.minutes:g} min at {asked.rate} events/s, SEED={asked.seed}")
    command, chance = first.command(bench.settings), random.Random(asked.seed)
    workers: list[Mortal] = []
    stopped, began = threading.Event(), time.monotonic()
    until = began + asked.minutes * 60
    appending = threading.Thread(target=load.run, args=(asked.rate, until, stopped), daemon=True)
    try:
        workers += [Mortal(race, command, chance) for race in races]
        appending.start()
        logs = next(bench.settings.data_dir.rglob(f"{INPUT.named(kafka.topic_prefix)}-0")).parent
        going = _Run(first, workers, logs, began, Samples())
        note = _soak(going, appending)
        took_s = time.monotonic() - began
        stopped.set()
        appending.join()
        left = [worker.live() for worker in workers]
        load.end()
        note = note or load.failed or first.wait([left[0]], load.count, LAST_S)
        _, difference = read_back(first.output, load.check())
    finally:
        stopped.set()
        for worker in workers:
            worker.end()
    return [_judged(going, asked.minutes, took_s, note or difference)]


def _soak(going: _Run, appending: threading.Thread) -> str:
    """Kill, start and sample as long as readings are appended; says what went wrong."""
    next_sample = going.began + SAMPLE_S
    while appending.is_alive():
        time.sleep(_TURN_S)
        for worker in going.workers:
            if failed := worker.turn():
                return failed
        if time.monotonic() >= next_sample:
            next_sample += SAMPLE_S
            going.sample()
    return ""


def _judged(going: _Run, minutes: float, took_s: float, note: str) -> Soaked:
    load, samples = going.race.load, going.samples
    assert isinstance(load, SteadyLoad)
    growths = samples.after(SETTLED_S)
    flats = [flat(share, most) for share, most in zip(growths, GROWTH_MAX.values(), strict=True)]
    grew = [f"{kind} grew" for kind, one in zip(GROWTH_MAX, flats, strict=True) if one is False]
    return Soaked(
        name=going.race.contender.name,
        work=f"soak: {minutes:g} min at {load.count / took_s:.0f} events/s, {PARTITIONS} partitions, "
        f"{WORKERS} workers killed at random",
        guarantee=going.race.contender.guarantee,
        events=load.count,
        records_per_s=int(load.count / took_s),
        kills=sum(worker.kills for worker in going.workers),
        windows=len(load.expected),
        lag_events_max=samples.lag_max,
        peak_rss_mb=_most_mb(samples.memory),
        state_mb_max=_most_mb(samples.state),
        changelog_mb_max=_most_mb(samples.changelog),
        memory_growth=growths[0],
        state_growth=growths[1],
        changelog_growth=growths[2],
        flat=None if None in flats else all(flats),
        verified=not note,
        note="; ".join(filter(None, (note, *grew, "too short to judge growth" if None in flats else ""))),
    )


def _most_mb(samples: Sequence[Sample]) -> int:
    return int(max((figure for _, figure in samples), default=0.0)) >> 20
