"""The work that stream processors are compared by: windows of ten seconds by key, a count and two sums.

Run as a worker of its own: ``python -m benchmarks.windows MODE PARTITIONS TAG``, where the mode is
``columns`` (a batch agent), ``events`` (an event agent), or ``each`` (an event agent whose every event is an
output, not the last of a unit of work).
"""

from __future__ import annotations

import json
import operator
import struct
import sys
import time
from dataclasses import replace
from functools import partial
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
    from collections.abc import Callable, Mapping, Sequence

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


def output_of(tag: str) -> TopicSpec:
    """Return the output topic of one run of one contender, for all read the same input."""
    return replace(OUTPUT, name=f"bench.windows.{tag}.v1")


def changelog_of(tag: str) -> TopicSpec:
    """Return its changelog."""
    return replace(CHANGELOG, name=f"bench.changelog.{tag}.v1")


def register_columns(app: RoleApp, tools: Tools, _options: WorkerOptions, tag: str) -> None:
    """Add the batch agent."""
    output, decode = output_of(tag), noted(tools.columns(SUBJECT))
    source = app.source(INPUT, agent="windows", columns=decode, changelog=changelog_of(tag))

    @app.agent(source)
    async def windows(stream: Stream) -> None:
        async for batch in stream.record_batches():
            fold(batch, output)


def fold(batch: ColumnBatch, output: TopicSpec) -> None:
    """Add a batch to its windows: grouped by Arrow, one read and one write a window."""
    columns = batch.columns
    start = pc.multiply(pc.divide(columns["time"], WINDOW_US), WINDOW_US)
    table = pa.table({"start": start, **{name: columns[name] for name in ("sensor", "amount", "cost")}})
    groups = table.group_by(["start", "sensor"], use_threads=False).aggregate(
        [([], "count_all"), ("amount", "sum"), ("cost", "sum")]
    )
    starts, sensors = groups["start"].to_pylist(), groups["sensor"].cast(pa.binary()).to_pylist()
    prefixes = {start: pack_time(start) for start in set(starts)}
    keys = [prefixes[start] + sensor for start, sensor in zip(starts, sensors, strict=True)]
    values = sums(
        batch.scope.state.multi_get(keys),
        *(groups[name].to_pylist() for name in ("count_all", "amount_sum", "cost_sum")),
    )
    batch.scope.state.put_many(keys, values)
    batch.scope.update_many(output, keys, values, partition=batch.scope.partition)
    batch.scope.count("counted", len(batch))


def sums(known: Sequence[bytes | None], *more: Sequence[float]) -> list[bytes]:
    """Return what windows come to: figures as they are stored, and what is added to each; by column, in C."""
    old = zip(*FIGURES.iter_unpack(b"".join([value or _EMPTY for value in known])), strict=True)
    return list(map(FIGURES.pack, *(map(operator.add, *columns) for columns in zip(old, more, strict=True))))


def register_events(app: RoleApp, tools: Tools, _options: WorkerOptions, tag: str, *, each: bool) -> None:
    """Add the event agent: updates supersede each other within a unit of work, or each is an output."""
    output, decode = output_of(tag), noted(tools.decoder(SUBJECT))
    source = app.source(INPUT, agent="windows", decode=decode, changelog=changelog_of(tag))

    @app.agent(source)
    async def windows(stream: Stream) -> None:
        async for reading in stream:
            count(stream.scope, reading, stream.scope.emit if each else stream.scope.update, output)


def count(scope: Scope, reading: Mapping[str, Any], write: Callable[..., None], output: TopicSpec) -> None:
    """Add one reading to its window."""
    key = pack_time(reading["time"] // WINDOW_US * WINDOW_US) + reading["sensor"].encode()
    n, amounts, costs = FIGURES.unpack(scope.state.get(key) or _EMPTY)
    value = FIGURES.pack(n + 1, amounts + reading["amount"], costs + reading["cost"])
    scope.state.put(key, value)
    write(output, key, value, partition=scope.partition)
    scope.count("counted")


def noted(decode: Callable[..., Any]) -> Callable[..., Any]:
    """Have the first call of a decoder told, from where the benchmark's clock runs; peers tell the same."""
    told = False

    def decoding(*arguments: Any) -> Any:
        nonlocal told
        if not told:
            told = True
            print(f"first record at {time.time_ns() // 1_000_000}", flush=True)
        return decode(*arguments)

    return decoding


def main(mode: str, partitions: int, tag: str) -> int:
    """Be the worker of one mode until a signal; ``tag`` names its topics and its group."""
    configure_logs()
    worker = worker_options(Settings())
    agents = {
        "columns": register_columns,
        "events": partial(register_events, each=False),
        "each": partial(register_events, each=True),
    }
    agent, role = partial(agents[mode], tag=tag), f"windows-{tag}"
    topics = [replace(spec, partitions=partitions) for spec in (INPUT, output_of(tag), changelog_of(tag))]
    return run_role(role, worker, Extension({role: [agent]}, topics, {SUBJECT: SCHEMA}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
