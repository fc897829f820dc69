"""An event agent and a batch agent in one app: the calls in streams of usage, then windows of them by model.

``calls`` takes one event at a time and gives each call the key that the windows need; ``call_windows`` takes
those calls as Arrow columns. One role: both commit in the same units of work.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from schemas.topics import DAY_MS, LATE_EVENTS, OUTPUT, STREAM_PARTITIONS, TopicSpec
from state.watermark import AHEAD_US_MAX, Watermark
from state.windows import TimeWindows, WindowOptions

if TYPE_CHECKING:
    from connectors.kafka.stream import ColumnBatch, Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.envelope import Event
    from schemas.wire import WireCodec
    from state.scope import Scope


def topic(name: str, subject: str, doc: str) -> TopicSpec:
    """Return a topic that keeps a day, by model."""
    return TopicSpec(name, "model", subject, STREAM_PARTITIONS, DAY_MS, "delete", doc)


CALLS = topic("examples.calls.v1", "examples.Call", "Each call, keyed by its model.")
WINDOWS = topic("examples.call-windows.v1", "examples.CallWindow", "Each window, when it closes.")
CHANGELOG = TopicSpec(
    "examples.call-windows.changelog.v1", "state key", "", CALLS.partitions, -1, "compact", "Open windows."
)
TOPICS = (CALLS, WINDOWS, CHANGELOG)
READS = (OUTPUT, CALLS)

WINDOW = WindowOptions(window_ms=10_000, grace_ms=5_000)
DISORDER_US = 1_000_000
FIGURES = struct.Struct(">qq")  # calls, sum of latencies
CLOCK = b"c"


class Calls:
    """The event agent's step."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def handle(self, scope: Scope, event: Event) -> None:
        """Give a call of a model on; raises ValueError where the model is not said."""
        if event.type != "usage":
            scope.count("ignored")
            return
        usage = self._tools.payloads.decode(event.payload_schema, event.payload)
        if not usage["model"]:
            raise ValueError("a call of no model")  # it becomes a dead letter
        call = {"model": usage["model"], "time": event.time, "latency_ms": usage["latency_ms"]}
        scope.emit(CALLS, usage["model"].encode(), self._tools.codec.encode(CALLS.subject, call))
        scope.count("called")


class CallWindows:
    """The batch agent's step."""

    def __init__(self, codec: WireCodec) -> None:
        self._codec = codec
        self.windows = TimeWindows(b"w", WINDOW)

    def handle(self, batch: ColumnBatch) -> None:
        """Add the calls of a batch to their windows, and say the windows that close by it."""
        scope, rows = batch.scope, batch.columns
        clock = Watermark(DISORDER_US)
        clock.load(scope.state, CLOCK)
        # The watermark at each row, as if they came one by one: how they are batched must not matter.
        ahead = pc.add(pa.array(batch.timestamps_us()), AHEAD_US_MAX)
        reached = pc.cumulative_max(pc.min_element_wise(rows["time"], ahead), start=clock.max_us)
        size_us = self.windows.size_us
        starts = pc.multiply(pc.divide(rows["time"], size_us), size_us)
        closes = pc.add(starts, size_us + WINDOW.grace_ms * 1_000)
        watermarks = pc.subtract(reached, DISORDER_US)
        is_late = pc.less_equal(closes, watermarks)
        for at in pc.indices_nonzero(is_late).to_pylist():
            time_us, watermark_us = rows["time"][at].as_py(), watermarks[at].as_py()
            scope.late(batch.records[at], time_us=time_us, watermark_us=watermark_us)
        self._fold(scope, pa.table({"start": starts, **rows.to_pydict()}).filter(pc.invert(is_late)))
        clock.max_us = reached[-1].as_py()
        chores = max(1_000, 2 * len(batch))  # more than one batch can open
        for window in self.windows.closed(scope.state, clock.now_us, chores):
            self._say(scope, window.key, window.start_us, window.value)
        self.windows.expire(scope.state, clock.now_us, chores)
        clock.save(scope.state, CLOCK)

    def _fold(self, scope: Scope, calls: pa.Table) -> None:
        """Add calls to their windows: grouped by Arrow, one read and one write a window."""
        groups = calls.group_by(["start", "model"], use_threads=False).aggregate(
            [([], "count_all"), ("latency_ms", "sum")]
        )
        for group in groups.to_pylist():
            key = group["model"].encode()
            known = self.windows.get(scope.state, group["start"], key) or bytes(FIGURES.size)
            calls_so_far, latency_ms = FIGURES.unpack(known)
            figures = FIGURES.pack(calls_so_far + group["count_all"], latency_ms + group["latency_ms_sum"])
            self.windows.put(scope.state, group["start"], key, figures)
        scope.count("counted", calls.num_rows)

    def _say(self, scope: Scope, key: bytes, start_us: int, value: bytes) -> None:
        calls, latency_ms = FIGURES.unpack(value)
        window = {"model": key.decode(), "start_us": start_us, "calls": calls, "latency_ms": latency_ms}
        scope.emit(WINDOWS, key, self._codec.encode(WINDOWS.subject, window), partition=scope.partition)


def register(app: RoleApp, tools: Tools, _options: WorkerOptions) -> None:
    """Add both agents to the role's app."""
    first, second = Calls(tools), CallWindows(tools.codec)
    events = app.source(OUTPUT, agent="calls", decode=tools.decode_events, writes=(CALLS,))
    rows = app.source(
        CALLS,
        agent="call_windows",
        columns=tools.columns(CALLS.subject),
        changelog=CHANGELOG,
        writes=(WINDOWS,),
        late_to=LATE_EVENTS,
    )

    @app.agent(events)
    async def calls(stream: Stream) -> None:
        async for event in stream:
            first.handle(stream.scope, event)

    @app.agent(rows)
    async def call_windows(stream: Stream) -> None:
        async for batch in stream.record_batches():
            second.handle(batch)
