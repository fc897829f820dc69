"""Clients that stop reading among as many that read: who reads must not notice, and memory must not grow.

For each policy of backpressure (``kinds/policies.py``), in a stream of its own:

1. The readers alone, and then as many more clients, which stop reading once they have all that there is.
2. Events go on until all of these are past their kind's bound and the policy has done what it does.
3. The readers again: their p99 beside the stalled, and the memory meanwhile.
4. Those that stopped read on. What the edge has counted must be what they were told, each of them.

Those of the first policy then stop once more, for good, until the edge has given all of them up.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from benchmarks.bench import say
from benchmarks.edge.fanout import CONNECT_S, served
from benchmarks.edge.generator import Clients, NotServed
from benchmarks.edge.kinds.policies import BEHIND_EVENTS_MAX, KINDS
from benchmarks.edge.servers import Edge
from benchmarks.edge.steady import Held, Load
from benchmarks.edge.writing import line_now, stream_id
from benchmarks.results import OURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.edge.bench import EdgeBench
    from benchmarks.edge.generator import Snapshot
    from benchmarks.edge.results import Served
    from schemas.kinds import Kind

EACH: Final = 2_000
RATE: Final = 100.0
RECEIVE_BUFFER: Final = 16_384
"""Bytes of the socket of one that stops: the kernel's own grows to megabytes, and would hide it for long."""
WARM_S: Final = 3.0
HOLD_S_MAX: Final = 15.0
"""The edge gives up who takes nothing for 30 s: the stalled must outlive the load beside them."""
STEP_S: Final = 0.5
ACTED_S: Final = 30.0
READ_ON_S: Final = 30.0
COUNTED_S: Final = 5.0
GIVEN_UP_S: Final = 75.0
"""Twice the edge's bound for one that takes nothing (30 s), and a margin."""
GROWTH_KB_MAX: Final = 6.0
GROWTH_MB_MAX: Final = 8.0
"""What memory may grow by beside the stalled: so much for each, and so much for the ring and the allocator.
A reference a client and event would be 24 MB for 2,000 clients and 15 s, a copy 900 MB."""
PREFIX: Final = "sluicegate_edge_"
COUNTERS: Final = (
    "connections_closed_total",
    "gaps_total",
    "slow_closed_total",
    "slow_dropped_events_total",
    "slowed_publishes_total",
    "slowed_streams_total",
)
"""All that a policy counts, whatever its labels."""
Counts = dict[str, int]


def measure(bench: EdgeBench) -> Iterator[Served]:
    """Measure each policy; the last readers have left before the next come."""
    with Edge(bench, f"{OURS} edge", "stalled", kinds=[kind.name for kind in KINDS]) as server:
        for number in range(len(KINDS)):
            yield from of_policy(bench, server, number, for_good=number == 0)


def of_policy(bench: EdgeBench, server: Edge, number: int, *, for_good: bool = False) -> Iterator[Served]:
    """Measure the policy of one kind; ``for_good``: see the module."""
    kind, count = KINDS[number], bench.asked.sized(EACH)
    seconds = min(bench.asked.seconds, HOLD_S_MAX)
    work = f"stalled, {kind.name}: {count} that read at {RATE:.0f} events/s, beside {count} that stop reading"
    path = server.path.replace("{stream}", str(number))
    with Clients(bench.settings, server.port, path, count, first_seq=0) as readers:
        readers.ready(CONNECT_S)
        load = Load(server, readers, first=number)
        load.settle()
        load.hold(RATE, WARM_S)
        alone = load.hold(RATE, seconds)
        yield served(f"{server.name}, readers alone", work, count, alone)
        with Clients(
            bench.settings, server.port, path, count, receive_buffer=RECEIVE_BUFFER, first_seq=0
        ) as stalled:
            stalled.ready(CONNECT_S)
            stalled.until(lambda found: found.next_min >= load.next_seq, CONNECT_S)
            before, begun = counts(server), server.usage()
            stalled.stall(count)
            refused = _until_acted(server, load, number, count, before)
            stopped = server.usage()
            with _Peak(server) as peak:
                beside = load.hold(RATE, seconds)
            growth = Growth(count, peak.rss_kb - stopped.rss_kb)
            seen = _read_on(stalled, load, kind, count)
            whole = is_whole(kind, seen, count, load.next_seq)
            wanted = expected(kind, seen, count, refused)
            told = _counted(server, before, wanted)
            if for_good:
                stalled.stall(count)
                _until_given_up(server, load, count, before)
                wanted |= {closed("stalled"): count}
                told = _counted(server, before, wanted)
    yield replace(
        line := served(f"{server.name}, beside the stalled", work, 2 * count, beside),
        verified=beside.complete and told == wanted and whole and growth.is_flat,
        more={
            **line.more,
            "p99_ratio": round(beside.found.p99_ms / max(alone.found.p99_ms, 0.1), 2),
            "rss_growth_mb": round(growth.rss_kb / 1_024, 1),
            "rss_growth_mb_max": round(growth.kb_max / 1_024, 1),
            "rss_kb_per_stalled": round((stopped.rss_kb - begun.rss_kb) / count, 1),
            "counters": told,
        },
        note=_why_not(beside, seen, told, wanted, growth, whole=whole),
    )


@dataclass(frozen=True)
class Growth:
    """Of the edge's memory beside so many that read nothing."""

    stalled: int
    rss_kb: float

    @property
    def kb_max(self) -> float:
        """What it may be."""
        return GROWTH_KB_MAX * self.stalled + GROWTH_MB_MAX * 1_024

    @property
    def is_flat(self) -> bool:
        """Whether it is within that."""
        return self.rss_kb <= self.kb_max


# -- what is counted ------------------------------------------------------------------------------------


def counts(server: Edge) -> Counts:
    """Return all counters of policies, with their labels, without the prefix that they have in common."""
    found = {key.removeprefix(PREFIX): int(value) for key, value in server.metrics().items()}
    return {key: value for key, value in found.items() if key.partition("{")[0] in COUNTERS}


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> Counts:
    """Return by how much counters have risen; those that have not are left out."""
    risen = {key: value - before.get(key, 0) for key, value in after.items()}
    return {key: value for key, value in sorted(risen.items()) if value}


def closed(reason: str) -> str:
    """Name the counter of connections that ended for a reason."""
    return f'connections_closed_total{{reason="{reason}",transport="sse"}}'


def expected(kind: Kind, seen: Snapshot, count: int, refused: int) -> Counts:
    """Return what a policy must have counted, and nothing else, once all have read on: by what they saw."""
    policy = kind.backpressure
    of = f'{{kind="{kind.name}",policy="{policy.then}",transport="sse"}}'
    if policy.then == "terminate":
        wanted = {f"slow_closed_total{of}": count, closed("slow"): count}
    else:
        wanted = {f"slow_dropped_events_total{of}": seen.missed, "gaps_total": seen.declared}
    if policy.policy == "slow_producer":
        stream, publishes = f'{{kind="{kind.name}"}}', f'{{kind="{kind.name}",transport="http"}}'
        wanted |= {f"slowed_streams_total{stream}": 1, f"slowed_publishes_total{publishes}": refused}
    return {key: value for key, value in wanted.items() if value}


def is_whole(kind: Kind, seen: Snapshot, count: int, events: int) -> bool:
    """Whether each that stopped was told what it must be, and has each event or a gap that stands for it.

    ``events``: what the stream has had, from its beginning on.
    """
    if seen.gaps or seen.doubles or seen.failed or seen.refused:
        return False
    if kind.backpressure.then == "terminate":
        return seen.sent_away == seen.lost == count and not seen.declared
    given = seen.events + seen.missed == count * events
    return given and seen.declared >= count and not (seen.sent_away or seen.lost)


# -- what is done ---------------------------------------------------------------------------------------


def _until_acted(server: Edge, load: Load, number: int, count: int, before: Counts) -> int:
    """Publish until all that stopped are past their bound and were dealt with; returns refused publications.

    Raises:
        NotServed: that did not come about.
    """
    policy = KINDS[number].backpressure
    deadline = time.monotonic() + ACTED_S
    while server.metrics()[f"{PREFIX}slow_connections"] < count:
        if time.monotonic() > deadline:
            raise NotServed(f"not all {count} clients were found to take nothing in {ACTED_S:.0f} s")
        load.hold(RATE, STEP_S)
    load.hold(RATE, BEHIND_EVENTS_MAX / RATE + STEP_S)
    refused = 0
    while True:
        levels, told = server.metrics(), changes(before, counts(server))
        slowed = levels[f"{PREFIX}slowed_producers"] > 0
        if slowed:
            refused += _refuses(server, number)
        if policy.policy == "terminate":
            acted = sum(value for key, value in told.items() if key.startswith("slow_closed")) >= count
        else:
            acted = policy.policy != "slow_producer" or bool(refused and not slowed)
        if acted:
            return refused
        if time.monotonic() > deadline:
            raise NotServed(f"{policy.policy} did nothing in {ACTED_S:.0f} s: {told}")
        load.hold(RATE, STEP_S)


def _refuses(server: Edge, number: int) -> bool:
    """Whether a publication to a stream is refused for now; nobody numbers it if it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        event = {"type": "log", "payload": {"line": line_now()}}
        path = f"/v1/streams/{stream_id(number)}/events?kind={KINDS[number].name}"
        connection.request("POST", path, json.dumps(event), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer.status == http.HTTPStatus.TOO_MANY_REQUESTS


def _read_on(stalled: Clients, load: Load, kind: Kind, count: int) -> Snapshot:
    """Have all that stopped read again, and be abreast; or, where they were let go, hear of it."""
    stalled.stall(0)
    load.hold(RATE, STEP_S)

    def done(found: Snapshot) -> bool:
        if kind.backpressure.then == "terminate":
            return found.lost >= count
        return found.next_min >= load.next_seq

    return stalled.until(done, READ_ON_S)


def _until_given_up(server: Edge, load: Load, count: int, before: Counts) -> None:
    """Publish on until the edge has closed all that stopped."""
    deadline = time.monotonic() + GIVEN_UP_S
    given_up = 0
    while given_up < count and time.monotonic() < deadline:
        load.hold(RATE, 2.0)
        given_up = changes(before, counts(server)).get(closed("stalled"), 0)
    say(f"stalled: {given_up} of {count} given up")


def _counted(server: Edge, before: Counts, wanted: Counts) -> Counts:
    """Return what the edge has counted; an end is counted a moment after its client has heard of it."""
    deadline = time.monotonic() + COUNTED_S
    while (told := changes(before, counts(server))) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return told


def _why_not(
    beside: Held, seen: Snapshot, told: Counts, wanted: Counts, growth: Growth, *, whole: bool
) -> str:
    causes = []
    if not beside.complete:
        causes.append(f"the readers had not all: {beside.found}")
    if not whole:
        causes.append(f"those that stopped were not told all: {seen}")
    if told != wanted:
        causes.append(f"counted {told}, and not {wanted}")
    if not growth.is_flat:
        causes.append(f"memory grew by {growth.rss_kb / 1_024:.1f} MB")
    return "; ".join(causes)


class _Peak:
    """The most that a server's processes held while it is entered, looked at five times a second."""

    def __init__(self, server: Edge) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.rss_kb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            self._look()

    def _look(self) -> None:
        self.rss_kb = max(self.rss_kb, self._server.usage().rss_kb)
