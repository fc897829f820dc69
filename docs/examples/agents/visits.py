"""An event agent on a topic of JSON: the visits of a page, said when each is over.

A visit is a session: clicks of one visitor with no gap of half an hour between them.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, NamedTuple

from schemas.topics import DAY_MS, LATE_EVENTS, STREAM_PARTITIONS, TopicSpec
from state.schema import StoreSchema, kv, sessions
from state.sessions import SessionOptions, SessionWindows
from state.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.stream import Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.record import Record
    from state.scope import Scope

CLICKS = TopicSpec(
    "examples.clicks.v1", "visitor", "", STREAM_PARTITIONS, DAY_MS, "delete", "JSON: visitor, time (µs)."
)
VISITS = TopicSpec(
    "examples.visits.v1", "visitor", "", STREAM_PARTITIONS, DAY_MS, "delete", "JSON: each visit, once."
)
CHANGELOG = TopicSpec(
    "examples.visits.changelog.v1", "state key", "", CLICKS.partitions, -1, "compact", "State of visits."
)
TOPICS = (CLICKS, VISITS, CHANGELOG)
READS = (CLICKS,)

VISIT = SessionOptions(gap_ms=1_800_000, grace_ms=5_000)
COUNT = struct.Struct(">q")
DISORDER_US = 2_000_000
CLOCK = b"c"
CHORES, CHORES_IDLE = 256, 10_000  # done at once: while clicks come, and while nobody waits
STORE = StoreSchema(
    parts=(sessions("v", VISIT, key="visitor", value=">q"), kv("c", key="the watermark", value=">q"))
)


class Click(NamedTuple):
    """What a record says."""

    visitor: bytes
    time_us: int


def decode(records: Sequence[Record]) -> list[Click]:
    """Decode a list of records to a list as long; a record with which it raises becomes a dead letter."""
    rows = [json.loads(record.value or b"") for record in records]
    return [Click(row["visitor"].encode(), int(row["time"])) for row in rows]


def fold(joined: Sequence[bytes]) -> bytes:
    """Add a click to the sessions that it joins: none, one, or the two between which it stands."""
    return COUNT.pack(1 + sum(COUNT.unpack(value)[0] for value in joined))


class Visits:
    """The agent's steps: one for each click, and one for when none comes."""

    def __init__(self) -> None:
        self.sessions = SessionWindows(b"v", VISIT)

    def handle(self, scope: Scope, record: Record, click: Click) -> None:
        """Put a click into its visit."""
        clock = Watermark(DISORDER_US)
        clock.load(scope.state, CLOCK)
        clock.see(click.time_us, record.timestamp_us)
        if self.sessions.add(scope.state, click.time_us, click.visitor, clock.now_us, fold) is None:
            scope.late(record, time_us=click.time_us, watermark_us=clock.now_us)
        else:
            scope.count("counted")
        self._fall_due(scope, clock, CHORES)

    def on_idle(self, scope: Scope, silent_us: int) -> None:
        """Let time pass on a partition on which nobody clicks."""
        if self.sessions.next_close_us(scope.state) is None:
            return
        clock = Watermark(DISORDER_US)
        clock.load(scope.state, CLOCK)
        clock.idle(silent_us)
        self._fall_due(scope, clock, CHORES_IDLE)

    def _fall_due(self, scope: Scope, clock: Watermark, limit: int) -> None:
        for visit in self.sessions.closed(scope.state, clock.now_us, limit):
            said = {"visitor": visit.key.decode(), "start_us": visit.start_us, "end_us": visit.end_us}
            (said["clicks"],) = COUNT.unpack(visit.value)
            scope.emit(VISITS, visit.key, json.dumps(said).encode(), partition=scope.partition)
        self.sessions.expire(scope.state, clock.now_us, limit)
        clock.save(scope.state, CLOCK)


def register(app: RoleApp, _tools: Tools, _options: WorkerOptions) -> None:
    """Add the agent to its role's app."""
    step = Visits()
    source = app.source(
        CLICKS,
        agent="visits",
        decode=decode,
        changelog=CHANGELOG,
        store=STORE,
        writes=(VISITS,),
        late_to=LATE_EVENTS,
        on_idle=step.on_idle,
    )

    @app.agent(source)
    async def visits(stream: Stream) -> None:
        async for click in stream:
            step.handle(stream.scope, stream.record, click)
