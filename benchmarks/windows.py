"""The work that stream processors are compared by: windows of ten seconds by key, a count and two sums.

Run as a worker of its own: ``python -m benchmarks.windows columns`` (a batch agent) or ``events``.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from ops.logs import configure_logs
from ops.settings import Settings
from ops.worker import worker_options
from pipelines.app import run_role
from pipelines.extension import Extension
from schemas.topics import TopicSpec
from state.binary import pack_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.stream import ColumnBatch, Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from state.scope import Scope

PARTITIONS: Final = 4
WINDOW_US: Final = 10_000_000
SUBJECT: Final = "bench.Reading"
SCHEMA: Final = json.dumps(
    {
        "type": "record",
        "namespace": "bench",
        "name": "Reading",
        "doc": "One reading of a sensor.",
        "fields": [
            {"name": "sensor", "type": "string", "doc": "Key."},
            {"name": "time", "type": "long", "doc": "Event time, microseconds."},
            {"name": "amount", "type": "long", "doc": "What is summed."},
            {"name": "cost", "type": "double", "doc": "What is summed."},
            {"name": "note", "type": "string", "doc": "So that the record has a usual size."},
        ],
    }
)
INPUT = TopicSpec("bench.readings.v1", "sensor", SUBJECT, PARTITIONS, -1, "delete", "Readings.")
OUTPUT = TopicSpec("bench.windows.v1", "sensor", "", PARTITIONS, -1, "delete", "Windows as they change.")
CHANGELOG = TopicSpec("bench.changelog.v1", "state key", "", PARTITIONS, -1, "compact", "State.")
FIGURES = struct.Struct(">qqd")  # count, sum of amounts, sum of costs
_EMPTY: Final = bytes(FIGURES.size)


def register_columns(app: RoleApp, tools: Tools, _options: WorkerOptions) -> None:
    """Add the batch agent."""
    source = app.source(INPUT, agent="windows", columns=tools.columns(SUBJECT), changelog=CHANGELOG)

    @app.agent(source)
    async def windows(stream: Stream) -> None:
        async for batch in stream.record_batches():
            fold(batch)


def fold(batch: ColumnBatch) -> None:
    """Add a batch to its windows: grouped by Arrow, one read and one write a window."""
    columns = batch.columns
    start = pc.multiply(pc.divide(columns["time"], WINDOW_US), WINDOW_US)
    table = pa.table({"start": start, **{name: columns[name] for name in ("sensor", "amount", "cost")}})
    groups = table.group_by(["start", "sensor"], use_threads=False).aggregate(
        [([], "count_all"), ("amount", "sum"), ("cost", "sum")]
    )
    found = groups.to_pydict()
    keys = [
        pack_time(at) + sensor.encode() for at, sensor in zip(found["start"], found["sensor"], strict=True)
    ]
    add(batch.scope, keys, list(zip(found["count_all"], found["amount_sum"], found["cost_sum"], strict=True)))
    batch.scope.count("counted", len(batch))


def register_events(app: RoleApp, tools: Tools, _options: WorkerOptions) -> None:
    """Add the event agent."""
    source = app.source(INPUT, agent="windows", decode=tools.decoder(SUBJECT), changelog=CHANGELOG)

    @app.agent(source)
    async def windows(stream: Stream) -> None:
        async for reading in stream:
            start = reading["time"] // WINDOW_US * WINDOW_US
            key = pack_time(start) + reading["sensor"].encode()
            add(stream.scope, [key], [(1, reading["amount"], reading["cost"])])
            stream.scope.count("counted")


def add(scope: Scope, keys: Sequence[bytes], figures: Sequence[tuple[Any, ...]]) -> None:
    """Add figures to what the store has, and say the new values."""
    for key, known, (count, amount, cost) in zip(keys, scope.state.multi_get(keys), figures, strict=True):
        n, amounts, costs = FIGURES.unpack(known or _EMPTY)
        value = FIGURES.pack(n + count, amounts + amount, costs + cost)
        scope.state.put(key, value)
        scope.update(OUTPUT, key, value, partition=scope.partition)


if __name__ == "__main__":
    configure_logs()
    worker = worker_options(Settings())
    agents = {"columns": register_columns, "events": register_events}
    extension = Extension({"windows": [agents[sys.argv[1]]]}, [INPUT, OUTPUT, CHANGELOG], {SUBJECT: SCHEMA})
    sys.exit(run_role("windows", worker, extension))
