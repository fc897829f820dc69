"""Clients that stop reading among as many that read: who reads must not notice, and memory must not grow."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from benchmarks.bench import say
from benchmarks.edge.fanout import CONNECT_S, served
from benchmarks.edge.generator import Clients
from benchmarks.edge.servers import Edge
from benchmarks.edge.steady import Load
from benchmarks.results import OURS

if TYPE_CHECKING:
    from benchmarks.edge.bench import EdgeBench
    from benchmarks.edge.results import Served

EACH: Final = 2_000
RATE: Final = 100.0
RECEIVE_BUFFER: Final = 16_384
"""Bytes of the socket of one that stops: the kernel's own grows to megabytes, and would hide it for long."""
WARM_S: Final = 3.0
GIVEN_UP_S: Final = 75.0
"""Twice the edge's bound for one that takes nothing (30 s), and a margin."""
COUNTERS: Final = (
    "sluicegate_edge_connections_closed_total",
    "sluicegate_edge_slow_closed_total",
    "sluicegate_edge_slow_dropped_events_total",
    "sluicegate_edge_gaps_total",
)


def measure(bench: EdgeBench) -> list[Served]:
    """Have the readers alone, then beside those that stop, until the edge has given these up."""
    count = bench.asked.sized(EACH)
    name = f"{OURS} edge"
    work = f"stalled: {count} that read at {RATE:.0f} events/s, beside {count} that stop reading"
    with (
        Edge(bench, name, "stalled") as server,
        Clients(bench.settings, server.port, server.path, count, first_seq=0) as readers,
    ):
        readers.ready(CONNECT_S)
        load = Load(server, readers)
        load.settle()
        load.hold(RATE, WARM_S)
        alone = load.hold(RATE, bench.asked.seconds)
        with Clients(
            bench.settings, server.port, server.path, count, receive_buffer=RECEIVE_BUFFER
        ) as stalled:
            stalled.ready(CONNECT_S)
            stalled.stall(count)
            begun = server.usage()
            load.hold(RATE, WARM_S)
            with _Peak(server) as peak:
                beside = load.hold(RATE, bench.asked.seconds)
                given_up = _until_given_up(server, load, count)
    lines = [
        served(f"{name}, readers alone", work, count, alone),
        served(f"{name}, beside the stalled", work, 2 * count, beside),
    ]
    ratio = beside.found.p99_ms / max(alone.found.p99_ms, 0.1)
    counted = {key.removeprefix("sluicegate_edge_"): int(value) for key, value in given_up.items()}
    more = {
        "p99_ratio": round(ratio, 2),
        "rss_growth_mb": round((peak.rss_kb - begun.rss_kb) / 1_024, 1),
        "rss_growth_kb_per_stalled": round((peak.rss_kb - begun.rss_kb) / count, 1),
        "counters": counted,
    }
    ended = sum(value for key, value in counted.items() if key.startswith("connections_closed_total"))
    complete = beside.complete and ended == count
    lines[1] = replace(lines[1], verified=complete, more={**lines[1].more, **more})
    return lines


class _Peak:
    """The most that a server's processes held while it is entered, looked at once a second."""

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

    def _run(self) -> None:
        while not self._over.wait(1.0):
            self.rss_kb = max(self.rss_kb, self._server.usage().rss_kb)


def _until_given_up(server: Edge, load: Load, count: int) -> dict[str, float]:
    """Publish on until the edge has closed all that stopped; returns its counters."""
    deadline = time.monotonic() + GIVEN_UP_S
    while True:
        load.hold(RATE, 2.0)
        found = {
            key: value
            for key, value in server.metrics().items()
            if key.startswith(COUNTERS) and value and "created" not in key
        }
        closed = sum(value for key, value in found.items() if key.startswith(COUNTERS[0]))
        if closed >= count or time.monotonic() > deadline:
            say(f"stalled: {closed:.0f} of {count} given up")
            return found
