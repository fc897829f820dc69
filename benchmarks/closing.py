"""Windows of ten seconds that close once and are forgotten after a time: the agent of the work ``soak``.

Run as a worker of its own: ``python -m benchmarks.closing PARTITIONS TAG``. Each window's figures are written
once, when it closes; its state is deleted when its TTL is over.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.windows import CHANGELOG, FIGURES, INPUT, OUTPUT, SCHEMA, SUBJECT, WINDOW_US
from ops.logs import configure_logs
from ops.settings import Settings
from ops.worker import worker_options
from pipelines.app import run_role
from pipelines.extension import Extension
from schemas.topics import MIB
from state.binary import pack_time
from state.watermark import Watermark
from state.windows import TimeWindows, WindowOptions

if TYPE_CHECKING:
    from connectors.kafka.stream import Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.topics import TopicSpec
    from state.scope import Scope

ROLE = "closing"
OPTIONS = WindowOptions(window_ms=WINDOW_US // 1_000, grace_ms=5_000, ttl_ms=30_000)
_WINDOWS = TimeWindows(b"w", OPTIONS)
_WATERMARK_KEY = b"m"
_AT_ONCE = 1_000
_NOTHING = bytes(FIGURES.size)


def output_of(tag: str) -> TopicSpec:
    """Return the topic of closed windows."""
    return replace(OUTPUT, name=f"bench.closed.{tag}.v1")


def changelog_of(tag: str) -> TopicSpec:
    """Return a changelog that forgets what no window needs any more, and so stays bounded.

    By default tombstones and the markers of transactions stay for seven days, for a worker that comes back
    as late. Here they go after five minutes, so that what is left is level before the run is judged. By
    ``retention.ms`` alone that takes longer than the run: the segment that Kafka makes of what it compacted
    must be full first, and then as old. Segments are as small as Kafka has them, so that it compacts them
    within the run.
    """
    return replace(
        CHANGELOG,
        name=f"bench.closing.{tag}.v1",
        cleanup="compact,delete",
        retention_ms=300_000,
        segment_ms=60_000,
        segment_bytes=MIB,
        tombstones_ms=300_000,
    )


def register(app: RoleApp, tools: Tools, _options: WorkerOptions, tag: str) -> None:
    """Add the batch agent."""
    output = output_of(tag)
    source = app.source(INPUT, agent=ROLE, columns=tools.columns(SUBJECT), changelog=changelog_of(tag))

    @app.agent(source)
    async def closing(stream: Stream) -> None:
        async for batch in stream.record_batches():
            step(batch.scope, batch.columns, max(batch.timestamps_us()), output)
            batch.scope.count("counted", len(batch))


def step(scope: Scope, columns: pa.RecordBatch, append_us: int, output: TopicSpec) -> None:
    """Add a batch to its windows, close those that it closes, forget those whose time is over."""
    watermark = Watermark(disorder_us=0)
    watermark.load(scope.state, _WATERMARK_KEY)
    start = pc.multiply(pc.divide(columns["time"], WINDOW_US), WINDOW_US)
    named = {name: columns[name] for name in ("sensor", "amount", "cost")}
    groups = pa.table({"start": start, **named}).group_by(["start", "sensor"], use_threads=False)
    sums = groups.aggregate([([], "count_all"), ("amount", "sum"), ("cost", "sum")])
    names = ("start", "sensor", "count_all", "amount_sum", "cost_sum")
    for at, sensor, *figures in zip(*(sums[name].to_pylist() for name in names), strict=True):
        key = sensor.encode()
        if not _WINDOWS.add(scope.state, at, key, watermark.now_us, partial(_plus, figures=figures)):
            scope.count("late", figures[0])
    watermark.see(pc.max(columns["time"]).as_py(), append_us)
    watermark.save(scope.state, _WATERMARK_KEY)
    while closed := _WINDOWS.closed(scope.state, watermark.now_us, _AT_ONCE):
        for window in closed:
            scope.emit(
                output, pack_time(window.start_us) + window.key, window.value, partition=scope.partition
            )
    while _WINDOWS.expire(scope.state, watermark.now_us, _AT_ONCE) == _AT_ONCE:
        pass


def _plus(known: bytes | None, figures: list[Any]) -> bytes:
    n, amounts, costs = FIGURES.unpack(known or _NOTHING)
    count, amount, cost = figures
    return FIGURES.pack(n + count, amounts + amount, costs + cost)


def main(partitions: int, tag: str) -> int:
    """Be a worker until a signal; ``tag`` names its topics and its group."""
    configure_logs()
    role = f"{ROLE}-{tag}"
    topics = [replace(spec, partitions=partitions) for spec in (INPUT, output_of(tag), changelog_of(tag))]
    extension = Extension({role: [partial(register, tag=tag)]}, topics, {SUBJECT: SCHEMA})
    return run_role(role, worker_options(Settings()), extension)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
