"""A thousand streams of ten clients each, all the way through Kafka and the agents, and where that breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.edge.agents import EdgeWithAgents
from benchmarks.edge.fanout import CONNECT_S, served, why_not
from benchmarks.edge.generator import Clients, NotServed
from benchmarks.edge.steady import Held, Load
from benchmarks.results import OURS

if TYPE_CHECKING:
    from benchmarks.edge.bench import EdgeBench
    from benchmarks.edge.results import Served

STREAMS: Final = 1_000
EACH: Final = 10
RATE: Final = 5.0
P99_MS_MAX: Final = 150.0
OPENED_S: Final = 60.0
WARM_S: Final = 45.0
"""Until then a broker that was just started compiles itself, for half a core of the two."""
STEPS_MAX: Final = 7
STEP: Final = 1.25
"""Up to 24 events/s a stream: more than ``ingest`` alone takes of so many streams on two cores."""
STEP_S: Final = 8.0


def measure(bench: EdgeBench) -> Served:
    """Hold the rate of the goal, then raise it until it is held no more."""
    streams = bench.asked.sized(STREAMS)
    subscribers = streams * EACH
    work = (
        f"streams: {streams} streams, {EACH} subscribers each, {RATE:.0f} events/s each, by Kafka and ingest"
    )
    with EdgeWithAgents(bench, f"{OURS} edge", "agents", streams=streams) as server:
        before = server.usage()
        with Clients(
            bench.settings, server.port, server.path, subscribers, streams=streams, first_seq=0
        ) as clients:
            clients.ready(CONNECT_S)
            load = Load(server, clients, streams=streams, p99_ms_max=P99_MS_MAX)
            if not load.settle(OPENED_S):
                raise NotServed(f"not all streams were opened in {OPENED_S:.0f} s: {clients.snapshot()}")
            connected = server.usage()
            load.hold(RATE, WARM_S)
            load.settle()
            worker_s = server.worker_cpu_s()
            held = load.hold(RATE, bench.asked.seconds)
            worker_s = server.worker_cpu_s() - worker_s
            limits = raised(load) if held.kept else lowered(load, held)
    line = served(server.name, work, subscribers, held)
    return replace(
        line,
        note=why_not(held),
        rss_kb_per_connection=round((connected.rss_kb - before.rss_kb) / subscribers, 1),
        more={
            **line.more,
            "ingest_cpu_s_per_million_events": round(worker_s * 1e6 / held.published, 1),
            **limits,
        },
    )


def raised(load: Load) -> dict[str, object]:
    """Raise the rate until it is not held for some seconds, or has been raised often enough."""
    best = rate = RATE
    for _ in range(STEPS_MAX):
        rate *= STEP
        held = load.hold(rate, STEP_S)
        outcome = "held" if held.kept else "not held"
        say(f"streams: {rate:.1f} events/s a stream {outcome}: p99 {held.found.p99_ms:.0f} ms")
        if not held.kept:
            return _limits(best, rate, held)
        best = rate
    return _limits(best, None)


def lowered(load: Load, broke: Held) -> dict[str, object]:
    """Lower the rate until it is held for some seconds, or has been lowered often enough."""
    rate = RATE
    for _ in range(STEPS_MAX):
        broke_at, rate = rate, rate / STEP
        load.settle()
        held = load.hold(rate, STEP_S)
        outcome = "held" if held.kept else "not held"
        say(f"streams: {rate:.1f} events/s a stream {outcome}: p99 {held.found.p99_ms:.0f} ms")
        if held.kept:
            return _limits(rate, broke_at, broke)
        broke = held
    return _limits(None, rate, broke)


def _limits(best: float | None, broke_at: float | None, held: Held | None = None) -> dict[str, object]:
    """Say the highest rate a stream that was held, the lowest that was not, and why that was not."""
    return {
        "holds_events_per_s": best and round(best, 1),
        "breaks_at_events_per_s": broke_at and round(broke_at, 1),
        "breaks_by": why_not(held) if held is not None else "",
    }
