"""An agent for tests of failures, copied into a folder of agents; its policy is that of its role's name.

It counts events by key, as ``counting_worker`` does, so that its output is 1, 2, 3, … if each event had one
effect. Values that begin with ``poison`` raise while the file ``MENDED`` is not there; ``exit`` and
``segfault`` end the process while it is not, when they are handled; ``unreadable`` when it is decoded.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from schemas.topics import TopicSpec

NAME = Path(__file__).stem
PARTITIONS = 4
INPUT = TopicSpec(f"{NAME}.input.v1", "key", "", PARTITIONS, -1, "delete", "events to count")
OUTPUT = TopicSpec(f"{NAME}.output.v1", "key", "", PARTITIONS, -1, "delete", "each count")
CHANGELOG = TopicSpec(f"{NAME}.changelog.v1", "key", "", PARTITIONS, -1, "compact", "counts")
TOPICS = (INPUT, OUTPUT, CHANGELOG)
READS = (INPUT,)
COUNT = struct.Struct(">q")
POLICIES = {"strict": "stop-partition", "lenient": "dead-letter", "batched": "dead-letter"}


def register(app, _tools, _options):
    source = app.source(
        INPUT,
        agent=NAME,
        decode=values_of,
        changelog=CHANGELOG,
        on_failure=POLICIES[NAME],
    )

    @app.agent(source)
    async def agent(stream):
        if NAME == "batched":
            async for batch in stream.batches():
                for record, value in batch.items:
                    count(batch.scope, record, value)
        else:
            async for value in stream:
                count(stream.scope, stream.record, value)


def values_of(records):
    if any(record.value.startswith(b"unreadable") for record in records) and not is_mended():
        os._exit(139)
    return [record.value for record in records]


def is_mended():
    return Path(os.environ["MENDED"]).exists()


def count(scope, record, value):
    fail(value)
    n = COUNT.unpack(scope.state.get(record.key) or bytes(COUNT.size))[0] + 1
    scope.state.put(record.key, COUNT.pack(n))
    scope.emit(OUTPUT, record.key, COUNT.pack(n) + value, partition=scope.partition)
    scope.count("counted")


def fail(value):
    if is_mended():
        return
    if value.startswith(b"poison"):
        raise ValueError("cannot be handled, password=hunter2")
    if value.startswith(b"exit"):
        os._exit(137)
    if value.startswith(b"segfault"):
        ctypes.string_at(0)
