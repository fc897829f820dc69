"""An event agent on a topic of its own: each reading once, the last one of each sensor, and who fell silent.

A gateway sends a reading again when it is not sure that it arrived: ``seen`` knows the ids of a day. ``last``
keeps what a sensor said last; what expires of it is a sensor that has said nothing for ten minutes.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

from pipelines.queries import key_value_query
from schemas.topics import DAY_MS, STREAM_PARTITIONS, TopicSpec
from state.dedupe import Seen, SeenOptions
from state.keyvalue import KeyValueOptions, KeyValues
from state.schema import StoreSchema, key_values, kv, seen
from state.watermark import Watermark

if TYPE_CHECKING:
    from typing import Any

    from connectors.kafka.stream import Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.record import Record
    from state.scope import Scope
    from state.store import StateView

READINGS = TopicSpec(
    "examples.readings.v1", "sensor", "examples.Reading", STREAM_PARTITIONS, DAY_MS, "delete", "Some twice."
)
SILENT = TopicSpec(
    "examples.silent-sensors.v1", "sensor", "", STREAM_PARTITIONS, DAY_MS, "delete", "JSON: its last reading."
)
CHANGELOG = TopicSpec(
    "examples.sensors.changelog.v1", "state key", "", READINGS.partitions, -1, "compact", "State of sensors."
)
TOPICS = (READINGS, SILENT, CHANGELOG)
READS = (READINGS,)

SEEN = SeenOptions(ttl_ms=DAY_MS)
LAST = KeyValueOptions(ttl_ms=600_000)
CELSIUS = struct.Struct(">d")
DISORDER_US = 2_000_000
CLOCK = b"c"
CHORES, CHORES_IDLE = 256, 10_000  # deleted at once: while readings come, and while nobody waits
STORE = StoreSchema(
    parts=(
        seen("d", SEEN, key="id of a reading"),
        key_values("v", LAST, key="sensor", value=">d"),
        kv("c", key="the watermark", value=">q"),
    )
)


def clock_of(view: StateView) -> Watermark:
    """Return the event time that is saved with a partition's state."""
    clock = Watermark(DISORDER_US)
    clock.load(view, CLOCK)
    return clock


class Sensors:
    """The agent's steps: one for each reading, and one for when none comes."""

    def __init__(self) -> None:
        self.seen, self.last = Seen(b"d", SEEN), KeyValues(b"v", LAST)

    def handle(self, scope: Scope, record: Record, reading: dict[str, Any]) -> None:
        """Take a reading in, unless it was before."""
        clock = clock_of(scope.state)
        time_us = clock.see(reading["time"], record.timestamp_us)
        self._fall_due(scope, clock, CHORES)
        if self.seen.add(scope.state, time_us, reading["id"].encode(), clock.now_us):
            self.last.put(scope.state, time_us, reading["sensor"].encode(), CELSIUS.pack(reading["celsius"]))
            scope.count("counted")
        else:
            scope.count("duplicate")
        clock.save(scope.state, CLOCK)

    def on_idle(self, scope: Scope, silent_us: int) -> None:
        """Let time pass on a partition of which all sensors are silent."""
        if self.last.next_expiry_us(scope.state) is None:
            return  # nothing waits for it, and nothing is committed
        clock = clock_of(scope.state)
        clock.idle(silent_us)
        self._fall_due(scope, clock, CHORES_IDLE)
        clock.save(scope.state, CLOCK)

    def _fall_due(self, scope: Scope, clock: Watermark, limit: int) -> None:
        self.seen.expire(scope.state, clock.now_us, limit)
        for sensor, value in self.last.expire(scope.state, clock.now_us, limit):
            said = {"sensor": sensor.decode(), "celsius": CELSIUS.unpack(value)[0]}
            scope.emit(SILENT, sensor, json.dumps(said).encode(), partition=scope.partition)


def register(app: RoleApp, tools: Tools, _options: WorkerOptions) -> None:
    """Add the agent to its role's app."""
    step = Sensors()
    source = app.source(
        READINGS,
        agent="sensors",
        decode=tools.decoder(READINGS.subject),
        changelog=CHANGELOG,
        store=STORE,
        writes=(SILENT,),
        query=key_value_query(
            step.last,
            lambda value: CELSIUS.unpack(value)[0],
            now_us=lambda view: clock_of(view).now_us,  # else what has expired is answered until deleted
        ),
        on_idle=step.on_idle,
    )

    @app.agent(source)
    async def sensors(stream: Stream) -> None:
        async for reading in stream:
            if reading is not None:  # a tombstone is no reading
                step.handle(stream.scope, stream.record, reading)
