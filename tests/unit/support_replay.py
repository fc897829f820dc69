"""Hub, index and replay of an edge over a log in memory that a test cuts, stops and moves on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edge.encode import FrameJson
from edge.errors import HistoryUnavailable
from edge.flush import Flusher
from edge.frame import Frame, frame_of
from edge.history import Frames, SharedHistory, Span, SpanAsked
from edge.hub import Hub, HubBounds
from edge.index import IndexEntry, StreamIndex
from edge.join import Joined, Joiner
from edge.metrics import EdgeMetrics
from edge.replay import Replay
from schemas.catalog import LocalSchemas
from schemas.envelope import Event, stream_key
from schemas.kinds import BUILTIN_KINDS, KindTable
from schemas.payloads import PayloadCodec
from schemas.topics import partition_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.cursor import Cursor

KEY = stream_key("default", "s")
PARTITION = partition_of(KEY, 4)
EVENT = Event(
    "e", "default", "s", 0, "job", "log", 0, "test", "", "", "", "", epoch=0, attempt=0, payload=b"",
    payload_schema=1,
)  # fmt: skip


@dataclass
class Log:
    """What Kafka is: frames of two streams on one partition; ``low`` is where retention has cut it."""

    frames: list[tuple[bytes, Frame]] = field(default_factory=list)
    low: int = 0
    read_to: int = 0
    """Where the tail stands: behind the log, as a tail is."""
    span_frames: int = 3
    down: bool = False
    meanwhile: Callable[[], None] = lambda: None
    """What goes on while a read is under way."""

    index_read: bool = True

    def position(self, _partition: int) -> int:
        return self.read_to

    def index_is_read(self, _partition: int) -> bool:
        return self.index_read

    async def read(self, asked: SpanAsked) -> Span:
        await asyncio.sleep(0)
        if self.down:
            raise HistoryUnavailable("told to be down")
        self.meanwhile()
        start = max(asked.from_offset, self.low)
        found = [
            frame for key, frame in self.frames
            if key == asked.key and start <= frame.offset < asked.stop_offset
        ]  # fmt: skip
        truncated = asked.from_offset < self.low
        if len(found) > (most := min(self.span_frames, asked.events_max)):
            return Span(Frames(found[:most]), found[most - 1].offset + 1, truncated)
        return Span(Frames(found), max(asked.stop_offset, asked.from_offset), truncated)


def a_flusher() -> Flusher:
    """One that nothing is counted of."""
    return Flusher(EdgeMetrics(), FrameJson(PayloadCodec(LocalSchemas())), 1 << 20)


class Edge:
    """Hub, index and replay over a log in memory."""

    def __init__(self, ring_events_max: int = 4, kinds: KindTable = BUILTIN_KINDS) -> None:
        self.log = Log()
        self.hub = Hub(HubBounds(ring_events_max, 1 << 20, 1_000, 1 << 20), a_flusher())
        self.index = StreamIndex(100, 1 << 20)
        self.history = SharedHistory(self.log.read, 1 << 20)
        self.replay = Replay(self.history, self.index, self.log, topic_version=1, partitions=4)
        self.joiner = Joiner(self.hub, self.index, self.replay, kinds)
        self.next_seq = 0
        self.now_ms = 0
        self.lags = False
        """The index is not read: what is written to it meanwhile is ``written``."""
        self.written: list[IndexEntry | None] = []
        self._entry: IndexEntry | None = None

    def append(self, key: bytes = KEY, type_name: str = "log", *, bytes: int = 0, ago_ms: int = 0) -> Frame:  # noqa: A002
        """Append to the log; the tail has not read it yet."""
        offset = self.log.frames[-1][1].offset + 1 if self.log.frames else 0
        seq = self.next_seq if key == KEY else offset
        event = EVENT._replace(
            seq=seq, type=type_name, payload=b"x" * bytes, time=time.time_ns() // 1_000 - ago_ms * 1_000
        )
        frame = frame_of(event, topic_version=1, partition=PARTITION, offset=offset, read_ms=self.now_ms)
        self.log.frames.append((key, frame))
        if key == KEY:
            self.next_seq += 1
            self._list(frame)
        return frame

    def tail(self, records: int = 1_000_000) -> None:
        """Have the tail read on."""
        for key, frame in self.log.frames:
            if records and frame.offset >= self.log.read_to:
                self.log.read_to = frame.offset + 1
                self.index.saw(key, frame, PARTITION)
                self.hub.publish([(key, frame)])
                records -= 1

    def skip(self, records: int) -> None:
        """Have the tail pass over records that it cannot read, or that it lost its place at."""
        self.log.read_to = min(self.log.read_to + records, len(self.log.frames))

    def tail_again(self, records: int) -> None:
        """Have the tail read what it has read already."""
        start = max(self.log.read_to - records, 0)
        self.hub.publish([(k, f) for k, f in self.log.frames if start <= f.offset < self.log.read_to])

    @property
    def tailed_seq(self) -> int:
        """The last seq that the tail has come past, of the stream that the name stands for now."""
        passed = [f.seq for k, f in self.log.frames if k == KEY and f.offset < self.log.read_to]
        return passed[-1] if passed else -1

    def forget(self) -> None:
        """Have all rings empty themselves by age."""
        self.now_ms += 10_000
        self.hub.sweep(self.now_ms)

    def history_over(self) -> None:
        """Have the index say that the stream's history is over."""
        self._write(None)

    def join(self, cursor: Cursor | None = None) -> Joined:
        joined = self.joiner.join("default", "s", cursor, "test")
        assert isinstance(joined, Joined)
        return joined

    def read_index(self) -> None:
        """Have the index read to its end, in a batch of its own."""
        for entry in self.written:
            if entry is None:
                self.hub.forget(KEY, self.index.remove(KEY), self.log.read_to)
            else:
                self.index.put(KEY, entry)
                self.hub.listed(KEY, entry, self.log.read_to)
        self.written.clear()
        self.log.index_read = True

    def _write(self, entry: IndexEntry | None) -> None:
        self.written.append(entry)
        self.log.index_read = False
        if not self.lags:
            self.read_index()

    def _list(self, frame: Frame) -> None:
        if frame.type == "open":
            self._entry = IndexEntry(
                tenant="default", stream_id="s", kind="job", title="", labels={}, partition=PARTITION,
                topic_version=1, opened_us=0, open_offset=frame.offset, mark_seqs=[], mark_offsets=[],
                last_seq=0, updated_us=0,
            )  # fmt: skip
        elif self._entry is None or not (frame.seq % 5 == 0 or frame.type == "end"):
            return
        entry = self._entry
        if frame.seq and frame.seq % 5 == 0:
            events = [f.event for k, f in self.log.frames[:-1] if k == KEY and f.event is not None]
            entry = replace(
                entry,
                mark_seqs=[*entry.mark_seqs, frame.seq],
                mark_offsets=[*entry.mark_offsets, frame.offset],
                sized_seqs=[*entry.sized_seqs, frame.seq],
                sized_bytes=[*entry.sized_bytes, sum(len(one.payload) for one in events)],
            )
        if frame.type == "end":
            entry = replace(entry, end_seq=frame.seq, end_offset=frame.offset, end_reason="completed")
        self._entry = replace(entry, last_seq=frame.seq)
        self._write(replace(self._entry))  # the index keeps its own fresh
