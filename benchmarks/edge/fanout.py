"""One stream to many: the highest rate that a server holds, each event delivered to each client in time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.edge.generator import Clients, NotServed
from benchmarks.edge.results import P99_MS_MAX, Served
from benchmarks.edge.steady import Held, Load

if TYPE_CHECKING:
    from benchmarks.edge.bench import EdgeBench
    from benchmarks.edge.servers import Contender, Server

PROBE_S: Final = 3.0
DOUBLINGS_MAX: Final = 5
HALVINGS_MAX: Final = 5
BISECTIONS: Final = 2
HOLDS_MAX: Final = 3
LESS: Final = 0.85
CONNECT_S: Final = 90.0
RATE_MIN: Final = 0.5


def highest(  # the work's own words
    bench: EdgeBench,
    contender: Contender,
    work: str,
    subscribers: int,
    *,
    first_rate: float,
    p99_ms_max: float = P99_MS_MAX,
) -> Served:
    """Look for the highest rate by short probes, then hold it for as long as was asked for."""
    with contender.make(bench, contender.name, contender.slug) as server:
        before = server.usage()
        with Clients(
            bench.settings, server.port, server.path, subscribers, first_seq=0, pending=100
        ) as clients:
            clients.ready(CONNECT_S)
            load = Load(server, clients, p99_ms_max=p99_ms_max)
            load.settle()
            connected = server.usage()
            rate = _search(load, contender.name, first_rate)
            held = _held(load, contender.name, rate, bench.asked.seconds)
    line = served(contender.name, work, subscribers, held)
    each_kb = (connected.rss_kb - before.rss_kb) / subscribers
    return replace(line, rss_kb_per_connection=round(each_kb, 1), note=why_not(held))


def at(  # the work's own words
    bench: EdgeBench,
    server: Server,
    work: str,
    subscribers: int,
    rate: float,
    *,
    p99_ms_max: float = P99_MS_MAX,
) -> Served:
    """Hold one given rate."""
    before = server.usage()
    with Clients(bench.settings, server.port, server.path, subscribers, first_seq=0, pending=100) as clients:
        clients.ready(CONNECT_S)
        load = Load(server, clients, p99_ms_max=p99_ms_max)
        load.settle()
        connected = server.usage()
        held = load.hold(rate, bench.asked.seconds)
    line = served(server.name, work, subscribers, held)
    each_kb = (connected.rss_kb - before.rss_kb) / subscribers
    return replace(line, rss_kb_per_connection=round(each_kb, 1), note=why_not(held))


def served(name: str, work: str, subscribers: int, held: Held) -> Served:
    """Make the line of a load."""
    found = held.found
    span_s = max(found.seconds, held.seconds)
    writes = found.reads if held.writes is None else held.writes
    return Served(
        name,
        work,
        subscribers,
        delivered_per_s=int(held.delivered_per_s),
        writes_per_s=int(writes / span_s),
        p50_ms=round(found.p50_ms, 1),
        p99_ms=round(found.p99_ms, 1),
        rss_kb_per_connection=None,
        cpu_s_per_million=round(held.cpu_s * 1e6 / found.events, 2) if found.events else None,
        verified=held.complete and not found.lost,
        more={
            "events_per_s": round(held.taken_per_s / held.streams, 1),
            "events_per_write": round(found.events / max(writes, 1), 1),
            "reads_per_s": int(found.reads / span_s),
            "held": held.kept,
            "seconds": round(held.seconds, 1),
        },
    )


def _search(load: Load, name: str, first_rate: float) -> float:
    """Return the highest rate that was held for a probe; 0 if none was."""
    best, failed = 0.0, 0.0
    rate = first_rate
    for _ in range(DOUBLINGS_MAX):
        if not _probe(load, name, rate):
            failed = rate
            break
        best, rate = rate, 2 * rate
    for _ in range(HALVINGS_MAX):
        if best or rate < RATE_MIN:
            break
        rate /= 2
        if _probe(load, name, rate):
            best = rate
        else:
            failed = rate
    for _ in range(BISECTIONS if best and failed else 0):
        middle = (best * failed) ** 0.5
        if _probe(load, name, middle):
            best = middle
        else:
            failed = middle
    return best


def _probe(load: Load, name: str, rate: float) -> bool:
    """Whether a rate is held for a moment; tried twice, for one hiccup is more than a hundredth."""
    return _tried(load, name, rate) or _tried(load, name, rate)


def _tried(load: Load, name: str, rate: float) -> bool:
    held = load.hold(rate, PROBE_S)
    kept = held.kept
    say(
        f"{name}: {rate:.0f} events/s {'held' if kept else 'not held'}: "
        f"{held.delivered_per_s:,.0f} delivered a second, p99 {held.found.p99_ms:.0f} ms"
    )
    if not kept and not load.settle():
        raise NotServed(f"at {rate:.0f} events/s it was more than a minute behind: {held.found}")
    return kept


def _held(load: Load, name: str, rate: float, seconds: float) -> Held:
    """Hold a rate, or as much less as it takes; the last try is what is told."""
    held = load.hold(max(rate, RATE_MIN), seconds)
    for _ in range(HOLDS_MAX - 1):
        if held.kept:
            break
        say(f"{name}: {rate:.0f} events/s not held for {seconds:.0f} s, p99 {held.found.p99_ms:.0f} ms")
        load.settle()
        rate *= LESS
        held = load.hold(max(rate, RATE_MIN), seconds)
    return held


def why_not(held: Held) -> str:
    """Say why a load was not held, or that connections were lost before it; empty if neither."""
    found = held.found
    if held.kept:
        return f"{found.lost} connections cut off" if found.lost else ""
    if not held.complete:
        return (
            f"not all delivered: {found.gaps} lost, {found.doubles} twice, {found.lost} connections cut off, "
            f"the last client at seq {found.next_min}"
        )
    bound = f"bound {held.p99_ms_max:.0f}"
    return f"not held: p99 {found.p99_ms:.0f} ms ({bound}), {held.taken_per_s:.0f} events/s taken"
