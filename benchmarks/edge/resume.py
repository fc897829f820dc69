"""Thousands of clients that come back at once, thousands of events behind, into a long history.

Before them, one after the other, clients of short finished streams that stand among its events.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.edge import finished
from benchmarks.edge.generator import Clients
from benchmarks.edge.results import Served
from benchmarks.edge.servers import Edge
from benchmarks.edge.writing import TENANT, stream_id
from benchmarks.results import OURS
from edge.options import EdgeOptions
from schemas.cursor import Cursor
from schemas.topics import OUTPUT, topic_version

if TYPE_CHECKING:
    from benchmarks.edge.bench import EdgeBench

HISTORY: Final = 1_000_000
CLIENTS: Final = 2_000
BEHIND: Final = 10_000
SPREAD: Final = 100
"""Clients of one stream are cut off at the same time, but not at the same event."""
LIVE_PER_S: Final = 20
TIMEOUT_S: Final = 180.0
READS: Final = "sluicegate_edge_history_reads_total"
SHARED: Final = "sluicegate_edge_history_shared_total"
READS_A_SPAN_MAX: Final = 2
"""One, and another where a span's beginnings differ: clients are cut off at different events."""


class _EdgeWithPast(Edge):
    """An edge on a stream that is old; the tail reads its last thousands again at start."""

    def before(self) -> None:
        """See Edge."""
        began_s = time.perf_counter()
        self.short = finished.beside(0, finished.STREAMS)
        events = self.bench.asked.sized(HISTORY)
        self.partition, self.offsets = self.writer.history(0, events, self.short)
        say(f"resume: {len(self.offsets)} events written in {time.perf_counter() - began_s:.0f} s")

    def place(self, seq: int) -> tuple[str, int]:
        """Return the cursor of an event, and the seq that follows it."""
        cursor = Cursor(topic_version(OUTPUT.name), self.partition, self.offsets[seq], seq)
        return cursor.encode(TENANT, stream_id(0)), seq + 1


def measure(bench: EdgeBench) -> Served:
    """Connect all at once, and have the stream go on meanwhile: the boundary is where events get lost."""
    count, behind = bench.asked.sized(CLIENTS), bench.asked.sized(BEHIND)
    work = (
        f"resume: {count} at once, {behind} events back in a history of {bench.asked.sized(HISTORY)}, "
        f"while the stream goes on with {LIVE_PER_S} events/s"
    )
    with _EdgeWithPast(bench, f"{OURS} edge", "resume") as server:
        short = finished.ask(server.port, server.path, server.short)
        first = len(server.offsets) - behind - 1
        places = [server.place(max(first - number, 0)) for number in range(min(SPREAD, behind))]
        before, counted, wrote = server.usage(), server.metrics(), server.writes()
        began_s = time.perf_counter()
        with Clients(
            bench.settings, server.port, server.path, count, places=places, pending=count
        ) as clients:
            next_seq = len(server.offsets)
            while True:
                server.send(0, next_seq)
                next_seq += 1
                time.sleep(1 / LIVE_PER_S)
                found = clients.snapshot()
                late = time.perf_counter() - began_s > TIMEOUT_S
                if late or (found.ready == count and found.next_min >= next_seq - LIVE_PER_S):
                    break
            server.flush()
            found = clients.until(lambda found: found.next_min >= next_seq, 10.0)
            took_s = time.perf_counter() - began_s
        after, told, writes = server.usage(), server.metrics(), server.writes() - wrote
    kafka_reads = int(told[READS] - counted[READS])
    spans = -(-(behind + SPREAD) // EdgeOptions().history_span_events)
    wanted = sum(next_seq - places[number % len(places)][1] for number in range(count))
    return Served(
        server.name,
        work,
        count,
        delivered_per_s=int(found.events / took_s),
        writes_per_s=int(writes / took_s),
        p50_ms=None,
        p99_ms=None,
        rss_kb_per_connection=round((after.rss_kb - before.rss_kb) / count, 1),
        cpu_s_per_million=round((after.cpu_s - before.cpu_s) * 1e6 / max(found.events, 1), 2),
        verified=short.whole
        and found.events == wanted
        and found.contiguous
        and not found.lost
        and found.next_min == next_seq
        and kafka_reads <= READS_A_SPAN_MAX * spans,
        more={
            "seconds": round(took_s, 1),
            "first_byte_ms": {"p50": short.at(0.5), "p99": short.at(0.99)},
            "events_per_write": round(found.events / max(writes, 1), 1),
            "reads_per_s": int(found.reads / took_s),
            "kafka_reads": kafka_reads,
            "kafka_reads_max": READS_A_SPAN_MAX * spans,
            "reads_shared": int(told[SHARED] - counted[SHARED]),
            "spans": spans,
        },
    )
