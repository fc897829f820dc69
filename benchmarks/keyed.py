"""State by key: a count, two sums and the last note of each, read, changed and written back; no windows.

Run as a worker of its own: ``python -m benchmarks.keyed PARTITIONS TAG``. It tells when all partitions are
restored, which is what the work ``restore`` waits for, and what its stores use of their budget at most, by
which the work ``state`` judges it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from benchmarks.windows import CHANGELOG, FIGURES, INPUT, SCHEMA, SUBJECT, noted
from ops.logs import configure_logs
from ops.settings import Settings
from ops.worker import worker_options
from pipelines.app import run_role
from pipelines.extension import Extension
from schemas.topics import MIB

if TYPE_CHECKING:
    from connectors.kafka.stream import ColumnBatch, Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.topics import TopicSpec

ROLE = "keyed"
STORE = "counts"
READY = "ready at"
HOLD = "stores hold"
_LOOK_S, _MEMORY_S = 0.01, 0.1
_NOTHING = FIGURES.pack(0, 0, 0.0)


def changelog_of(tag: str) -> TopicSpec:
    """Return the changelog of one run of one contender, as Kafka Streams would name it."""
    return replace(CHANGELOG, name=f"sluicegate.{ROLE}-{tag}-{STORE}-changelog")


def register(app: RoleApp, tools: Tools, _options: WorkerOptions, tag: str) -> None:
    """Add the batch agent."""
    columns = noted(tools.columns(SUBJECT))
    source = app.source(INPUT, agent=ROLE, columns=columns, changelog=changelog_of(tag))

    @app.agent(source)
    async def keyed(stream: Stream) -> None:
        async for batch in stream.record_batches():
            fold(batch)

    @app.task
    async def tell() -> None:
        while app.not_ready() is not None:  # noqa: ASYNC110  the engine has no event to wait for
            await asyncio.sleep(_LOOK_S)
        print(f"{READY} {time.time_ns() // 1_000_000}", flush=True)
        most_mb = -1
        while not app.should_stop:
            used_mb = -(-app.engine.partitions.memory.block_cache_bytes() // MIB)
            if used_mb > most_mb:
                most_mb = used_mb
                print(f"{HOLD} {most_mb} MB", flush=True)
            await asyncio.sleep(_MEMORY_S)


def fold(batch: ColumnBatch) -> None:
    """Add a batch to its keys: grouped by Arrow, one read and one write a key."""
    table = pa.Table.from_batches([batch.columns])
    groups = table.group_by("sensor", use_threads=False).aggregate(
        [([], "count_all"), ("amount", "sum"), ("cost", "sum"), ("note", "last")]
    )
    groups = groups.sort_by("sensor")  # neighbours in the store are read, and written, at half the cost
    names = ("sensor", "count_all", "amount_sum", "cost_sum", "note_last")
    sensors, *columns = (groups[name].to_pylist() for name in names)
    keys = [sensor.encode() for sensor in sensors]
    state = batch.scope.state
    values = []
    for known, count, amount, cost, note in zip(state.multi_get(keys), *columns, strict=True):
        n, amounts, costs = FIGURES.unpack_from(known or _NOTHING)
        values.append(FIGURES.pack(n + count, amounts + amount, costs + cost) + note.encode())
    state.put_many(keys, values)
    batch.scope.count("counted", len(batch))


def main(partitions: int, tag: str) -> int:
    """Be the worker until a signal; ``tag`` names its topics and its group."""
    configure_logs()
    role = f"{ROLE}-{tag}"
    topics = [replace(spec, partitions=partitions) for spec in (INPUT, changelog_of(tag))]
    extension = Extension({role: [partial(register, tag=tag)]}, topics, {SUBJECT: SCHEMA})
    return run_role(role, worker_options(Settings()), extension)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
