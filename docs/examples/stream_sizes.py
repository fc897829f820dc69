"""A batch agent: keeps each stream's events and payload bytes, and says the new totals once a batch."""

from __future__ import annotations

import json
import struct
import sys
from collections import Counter
from typing import TYPE_CHECKING

from ops.logs import configure_logs
from ops.settings import Settings
from ops.worker import worker_options
from pipelines.app import run_role
from pipelines.extension import Extension
from schemas.envelope import TICK, Event
from schemas.topics import OUTPUT, STREAM_PARTITIONS, TopicSpec

if TYPE_CHECKING:
    from connectors.kafka.stream import Batch, Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools

SIZES = TopicSpec(
    name="examples.sizes.v1",
    key="tenant/stream_id",
    subject="",
    partitions=STREAM_PARTITIONS,
    retention_ms=-1,
    cleanup="compact",  # the latest total of each stream is enough
    doc="Events and payload bytes of each stream so far.",
)
CHANGELOG = TopicSpec(
    name="examples.sizes.changelog.v1",
    key="state key",
    subject="",
    partitions=OUTPUT.partitions,
    retention_ms=-1,
    cleanup="compact",
    doc="State of the agent stream_sizes; the truth of its RocksDB.",
)
TOTALS = struct.Struct(">qq")  # events, bytes


def register(app: RoleApp, tools: Tools, _options: WorkerOptions) -> None:
    """Add the agent to its role's app."""
    source = app.source(
        OUTPUT, agent="stream_sizes", decode=tools.decode_events, changelog=CHANGELOG, writes=(SIZES,)
    )

    @app.agent(source)
    async def stream_sizes(stream: Stream) -> None:
        async for batch in stream.batches():
            add_up(batch)


def add_up(batch: Batch) -> None:
    """Fold one batch into the totals: plain code, so it can be tested with a list."""
    scope = batch.scope
    events: Counter[bytes] = Counter()
    sizes: Counter[bytes] = Counter()
    for record, item in batch.items:
        if isinstance(item, Exception):  # its bytes did not decode: a batch agent says what becomes of it
            scope.dead_letter(record, type(item).__name__, str(item))
            scope.count("dead_letter")
        elif not isinstance(item, Event) or item.type == TICK:  # a tick moves time and is no event
            scope.count("ignored")
        else:
            events[item.key] += 1
            sizes[item.key] += len(item.payload)
            scope.count("counted")
    keys, totals = list(events), []
    for key, known in zip(keys, scope.state.multi_get(keys), strict=True):
        count, size = TOTALS.unpack(known or bytes(TOTALS.size))
        count, size = count + events[key], size + sizes[key]
        totals.append(TOTALS.pack(count, size))
        total = {"stream": key.decode(), "events": count, "bytes": size}
        scope.emit(SIZES, key, json.dumps(total).encode(), partition=scope.partition)
    scope.state.put_many(keys, totals)


if __name__ == "__main__":
    configure_logs()
    mine = Extension(roles={"stream_sizes": [register]}, topics=[SIZES, CHANGELOG])
    sys.exit(run_role("stream_sizes", worker_options(Settings()), mine))
