"""Connections on which nothing happens: what each holds of memory, and all of them take of a core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.edge.fanout import CONNECT_S
from benchmarks.edge.generator import Clients
from benchmarks.edge.results import Served
from connectors.files import files_max
from edge.files import OTHER_FILES

if TYPE_CHECKING:
    from benchmarks.edge.bench import EdgeBench
    from benchmarks.edge.servers import Contender

LOAD_MAX: Final = 20_000
SETTLE_S: Final = 3.0
SECONDS_MIN: Final = 16.0
"""A heartbeat's period and one second: each connection has had one."""
PER: Final = 10_000


def connections(bench: EdgeBench) -> int:
    """Return as many as the limit of open files gives, on both sides."""
    return bench.asked.sized(min(files_max() - OTHER_FILES, LOAD_MAX))


def measure(bench: EdgeBench, contender: Contender, work: str) -> Served:
    """Connect them all, and look at the server for longer than a heartbeat's period."""
    count = connections(bench)
    seconds = max(bench.asked.seconds, SECONDS_MIN)
    with contender.make(bench, contender.name, contender.slug) as server:
        before = server.usage()
        began_s = time.perf_counter()
        with Clients(bench.settings, server.port, server.path, count, pending=100) as clients:
            clients.ready(CONNECT_S)
            connect_s = time.perf_counter() - began_s
            connect_cpu_s = server.usage().cpu_s - before.cpu_s
            time.sleep(SETTLE_S)
            clients.reset()
            quiet = server.usage()
            time.sleep(seconds)
            after = server.usage()
            found = clients.snapshot()
    share = (after.cpu_s - quiet.cpu_s) / seconds
    return Served(
        contender.name,
        work,
        count,
        delivered_per_s=0,
        writes_per_s=int(found.reads / found.seconds),
        p50_ms=None,
        p99_ms=None,
        rss_kb_per_connection=round((after.rss_kb - before.rss_kb) / count, 1),
        cpu_s_per_million=None,
        verified=found.ready == count and not found.lost,
        more={
            "core_share_per_10000": round(share * PER / count, 4),
            "connects_per_s": int(count / connect_s),
            "connect_cpu_ms": round(connect_cpu_s * 1_000 / count, 3),
            "seconds": seconds,
        },
        note=f"{found.lost} connections cut off" if found.lost else "",
    )
