"""A worker for tests of the engine: counts events by key in its store and appends each count.

Run as a process of its own, so that it can be killed: ``python -m tests.support.counting_worker OPTIONS``.
The output of key k is 1, 2, 3, … in order if, and only if, each event had one effect.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from connectors.kafka.columns import Columns, columns_of
from connectors.kafka.membership import ConsumerOptions
from connectors.kafka.options import KafkaOptions
from connectors.kafka.ports import CoordinatorOptions
from pipelines.engine import Engine, EngineOptions
from pipelines.metrics import WorkerMetrics
from pipelines.role import RoleApp
from pipelines.slots import Slot
from pipelines.tools import Tools
from schemas.catalog import LocalSchemas
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.topics import TopicSpec
from schemas.wire import WireCodec

PARTITIONS = 4
INPUT = TopicSpec("counting.input.v1", "key", "", PARTITIONS, -1, "delete", "events to count")
OUTPUT = TopicSpec("counting.output.v1", "key", "", PARTITIONS, -1, "delete", "each count")
CHANGELOG = TopicSpec("counting.changelog.v1", "key", "", PARTITIONS, -1, "compact", "counts")
EXPIRING = replace(CHANGELOG, cleanup="compact,delete", retention_ms=3_600_000)
COUNT = struct.Struct(">q")

BROKEN = b"broken"
"""A value that does not decode to a row."""
POISON = b"poison"
"""The agent raises on this value whenever it sees it."""
STUMBLE = b"stumble"
"""The agent raises on this value the first time in a process."""


def values_of(records):
    """Decode for agents of events: a value is itself."""
    return [record.value for record in records]


def plain(values):
    """Decode for an agent of columns: one column, of all values but ``BROKEN``."""
    rows = [row for row, value in enumerate(values) if value != BROKEN]
    batch = pa.RecordBatch.from_pydict({"value": pa.array([values[row] for row in rows], pa.binary())})
    errors = [(row, ValueError("broken")) for row, value in enumerate(values) if value == BROKEN]
    return Columns(batch, rows, errors)


def build(
    *,
    bootstrap,
    prefix,
    state_dir,
    mode,
    identity="",
    assignment="range",
    guarantee="exactly-once",
    cleanup="compact",
):
    """Build the app; ``mode`` is ``event``, ``batch`` or ``columns``."""
    changelog = CHANGELOG if cleanup == "compact" else EXPIRING
    slot = Slot(state_dir, "counting", identity)
    group = f"{prefix}counting"
    schemas = LocalSchemas()
    options = EngineOptions(
        kafka=KafkaOptions(bootstrap, prefix),
        group=group,
        transactional_id=f"{group}.{slot.identity}",
        transaction_timeout_ms=10_000,
        state_dir=slot.folder,
        consumer=ConsumerOptions(group, f"counting-{slot.identity}", assignment),
        coordinator=CoordinatorOptions(),
        guarantee=guarantee,
    )
    tools = Tools(WireCodec(schemas), PayloadCodec(schemas), BUILTIN_KINDS)
    app = RoleApp("counting", Engine(options, tools, WorkerMetrics("counting")), slot=slot, web_enabled=False)
    how = {"columns": columns_of(plain)} if mode == "columns" else {"decode": values_of}
    source = app.source(INPUT, agent="counting", changelog=changelog, **how)
    stumbled: set[tuple[int, int]] = set()

    def count(scope, record, value):
        n = COUNT.unpack(scope.state.get(record.key) or bytes(8))[0] + 1
        scope.state.put(record.key, COUNT.pack(n))
        scope.emit(OUTPUT, record.key, COUNT.pack(n) + value, partition=record.partition)
        if value == POISON:
            raise ValueError("poison")
        if value == STUMBLE and (record.partition, record.offset) not in stumbled:
            stumbled.add((record.partition, record.offset))
            raise ValueError("stumble")

    @app.agent(source)
    async def agent(stream):
        await AGENTS[mode](stream, count)

    return app


async def count_events(stream, count):
    async for value in stream:
        count(stream.scope, stream.record, value)


async def count_batches(stream, count):
    async for batch in stream.batches():
        for record, value in batch.items:
            count(batch.scope, record, value)


async def count_columns(stream, count):
    async for batch in stream.record_batches():
        for record, value in zip(batch.records, batch.columns["value"].to_pylist(), strict=True):
            count(batch.scope, record, value)


def die_before_commit(transaction, after):
    """Have the process end when so many units have committed and the next has been acknowledged."""
    commit, left = transaction.commit, itertools.count(after, -1)

    def dying():
        if next(left) <= 0:
            os._exit(137)
        commit()

    transaction.commit = dying


AGENTS = {"event": count_events, "batch": count_batches, "columns": count_columns}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["state_dir"] = Path(given["state_dir"])
    commits_max = given.pop("commits_max", None)
    counting = build(**given)
    if commits_max is not None:
        die_before_commit(counting.engine.transaction, commits_max)
    counting.Worker(
        loglevel="warning", quiet=True, redirect_stdouts=False, override_logging=False
    ).execute_from_commandline()
