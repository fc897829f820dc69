"""THE table of works: what is measured, by the name that ``WORKS=`` selects it with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.edge import fanout, idle, latency, resume, stalled, streams
from benchmarks.edge.results import not_had
from benchmarks.edge.servers import CONTENDERS
from benchmarks.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from benchmarks.edge.bench import EdgeBench
    from benchmarks.edge.results import Served
    from benchmarks.edge.servers import Contender

FANOUT: Final = 1_000
CROWD: Final = 10_000
CROWD_RATE: Final = 50
NCHAN_CROWD_RATE: Final = 6.0
CROWD_P99_MS_MAX: Final = 1_000.0
"""No server brings one event to ten thousand clients within 100 ms on two cores; nchan's saturation is looked
for, which is when it gets further behind with each event."""


def among(bench: EdgeBench, *slugs: str) -> list[Contender]:
    """Return ours, and of the others those that are wanted; of the slugs, if some are named."""
    return [
        each
        for each in CONTENDERS
        if (not each.peer or each.peer in bench.asked.peers) and (not slugs or each.slug in slugs)
    ]


def each(
    contenders: list[Contender], work: str, subscribers: int, measure: Callable[[Contender], Served]
) -> Iterator[Served]:
    """Measure one after the other; one that cannot be had, or that breaks, is a line with the reason."""
    for contender in contenders:
        say(f"{work}: {contender.name}")
        try:
            yield measure(contender)
        except Exception as error:  # noqa: BLE001  whatever it is: the others are still measured
            said = getattr(error, "stderr", None)
            yield not_had(contender.name, work, subscribers, f"{type(error).__name__}: {said or error}")


def fan_out(bench: EdgeBench) -> Iterator[Served]:
    """One stream, a thousand clients, the highest rate."""
    count = bench.asked.sized(FANOUT)
    work = f"fanout: 1 stream, {count} subscribers, highest rate with p99 under {fanout.P99_MS_MAX:.0f} ms"

    def measure(contender: Contender) -> Served:
        return fanout.highest(bench, contender, work, count, first_rate=contender.first_rate)

    return each(among(bench), work, count, measure)


def crowd(bench: EdgeBench) -> Iterator[Served]:
    """One stream, ten thousand clients: ours at the goal's rate, nchan at the highest that it holds."""
    count = bench.asked.sized(CROWD)
    work = f"crowd: 1 stream, {count} subscribers: ours at {CROWD_RATE} events/s, nchan at its highest rate"

    def measure(contender: Contender) -> Served:
        if contender.peer:
            return fanout.highest(
                bench, contender, work, count, first_rate=NCHAN_CROWD_RATE, p99_ms_max=CROWD_P99_MS_MAX
            )
        with contender.make(bench, contender.name, contender.slug) as server:
            return fanout.at(bench, server, work, count, CROWD_RATE, p99_ms_max=CROWD_P99_MS_MAX)

    return each(among(bench, "edge", "edge-two", "nchan"), work, count, measure)


def idle_connections(bench: EdgeBench) -> Iterator[Served]:
    """As many connections as the limit of open files gives, and nothing happens on them."""
    count = idle.connections(bench)
    work = f"idle: {count} connections"
    slugs = ("edge", "fastapi", "sse-starlette", "nchan", "pushpin")
    return each(among(bench, *slugs), work, count, lambda one: idle.measure(bench, one, work))


def _ours(measure: Callable[[EdgeBench], Iterable[Served]]) -> Callable[[EdgeBench], Iterator[Served]]:
    return lambda bench: iter(measure(bench))


WORKS: Final[Mapping[str, Callable[[EdgeBench], Iterator[Served]]]] = {
    "fanout": fan_out,
    "crowd": crowd,
    "streams": _ours(lambda bench: [streams.measure(bench)]),
    "idle": idle_connections,
    "stalled": _ours(stalled.measure),
    "resume": _ours(lambda bench: [resume.measure(bench)]),
    "latency": _ours(latency.measure),
}
GOALS: Final[Mapping[str, Sequence[Goal]]] = {
    "streams": (Goal("p99_ms", streams.P99_MS_MAX),),
    "latency": (Goal("p50_ms", 30), Goal("p99_ms", 100)),
    "idle": (Goal("rss_kb_per_connection", 6),),
}
"""Those that a line is held against; others compare lines (``README.md``)."""
