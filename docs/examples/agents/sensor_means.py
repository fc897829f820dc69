"""A batch agent on the topic of ``sensors``: each reading once, and the mean of each sensor that speaks.

By column, with one read and one write each for the ids and for the sums of a batch. A sensor that says
nothing for ten minutes begins anew.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pyarrow as pa

from schemas.topics import DAY_MS, STREAM_PARTITIONS, TopicSpec
from state.columns import effective_us, see_all
from state.dedupe import Seen, SeenOptions
from state.keyvalue import KeyValueOptions, KeyValues
from state.schema import StoreSchema, key_values, kv, seen
from state.watermark import Watermark

if TYPE_CHECKING:
    from connectors.kafka.stream import ColumnBatch, Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from state.scope import Scope

READINGS = TopicSpec(
    "examples.readings.v1", "sensor", "examples.Reading", STREAM_PARTITIONS, DAY_MS, "delete", "Some twice."
)
MEANS = TopicSpec(
    "examples.sensor-means.v1", "sensor", "", STREAM_PARTITIONS, -1, "compact", "JSON: the latest mean."
)
CHANGELOG = TopicSpec(
    "examples.sensor-means.changelog.v1", "state key", "", READINGS.partitions, -1, "compact", "Its state."
)
TOPICS = (READINGS, MEANS, CHANGELOG)
READS = (READINGS,)

SEEN = SeenOptions(ttl_ms=DAY_MS)
ALIVE = KeyValueOptions(ttl_ms=600_000)
SUMS = struct.Struct(">qd")  # readings, and the sum of their temperatures
DISORDER_US = 2_000_000
CLOCK = b"c"
STORE = StoreSchema(
    parts=(
        seen("d", SEEN, key="id of a reading"),
        key_values("v", ALIVE, key="sensor", value=">qd"),
        kv("c", key="the watermark", value=">q"),
    )
)


class SensorMeans:
    """The agent's step."""

    def __init__(self) -> None:
        self.seen, self.sums = Seen(b"d", SEEN), KeyValues(b"v", ALIVE)

    def handle(self, batch: ColumnBatch) -> None:
        """Take a batch in, less what was in it, or before it, already."""
        scope, rows = batch.scope, batch.columns
        clock = Watermark(DISORDER_US)
        clock.load(scope.state, CLOCK)
        appended = pa.array(batch.timestamps_us())
        # The watermark at each row, as if they came one by one: how they are batched must not matter.
        now = see_all(clock, rows["time"], appended)
        times = effective_us(rows["time"], appended, now)
        ids = [each.encode() for each in rows["id"].to_pylist()]
        again = set(self.seen.add_batch(scope.state, times.to_pylist(), ids, now.to_pylist()))
        table = pa.table({"time": times, "now": now, "sensor": rows["sensor"], "celsius": rows["celsius"]})
        fresh = table.filter(pa.array([row not in again for row in range(len(batch))]))
        scope.count("duplicate", len(again))
        scope.count("counted", fresh.num_rows)
        if fresh.num_rows:
            self._add_up(scope, fresh)
        chores = 2 * len(batch)  # more than one batch can add
        self.seen.expire(scope.state, clock.now_us, chores)
        self.sums.expire(scope.state, clock.now_us, chores)
        clock.save(scope.state, CLOCK)

    def _add_up(self, scope: Scope, fresh: pa.Table) -> None:
        """Add readings to the sums of their sensors, and say the means.

        A row a sensor: with its latest time, from which it is kept, and with the watermark at its first
        reading, at which what was kept of it may have expired.
        """
        sums = fresh.group_by("sensor", use_threads=False).aggregate(
            [("time", "max"), ("now", "min"), ("celsius", "count"), ("celsius", "sum")]
        )
        keys = [sensor.encode() for sensor in sums["sensor"].to_pylist()]
        counts, totals = sums["celsius_count"].to_pylist(), sums["celsius_sum"].to_pylist()
        means: list[bytes] = []

        def fold(known: list[bytes | None]) -> list[bytes]:
            folded = []
            for value, more, celsius in zip(known, counts, totals, strict=True):
                readings, total = SUMS.unpack(value or bytes(SUMS.size))
                readings, total = readings + more, total + celsius
                folded.append(SUMS.pack(readings, total))
                means.append(json.dumps({"readings": readings, "celsius": total / readings}).encode())
            return folded

        times, nows = sums["time_max"].to_pylist(), sums["now_min"].to_pylist()
        self.sums.add_batch(scope.state, times, keys, nows, fold)
        scope.update_many(MEANS, keys, means, partition=scope.partition)


def register(app: RoleApp, tools: Tools, _options: WorkerOptions) -> None:
    """Add the agent to its role's app."""
    step = SensorMeans()
    source = app.source(
        READINGS,
        agent="sensor_means",
        columns=tools.columns(READINGS.subject),
        changelog=CHANGELOG,
        store=STORE,
        writes=(MEANS,),
    )

    @app.agent(source)
    async def sensor_means(stream: Stream) -> None:
        async for batch in stream.record_batches():
            step.handle(batch)
