"""An edge that plays a recording, with no Kafka, registry or worker: the same hub, wire and console."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
import structlog

from edge.app import EdgeApp, compose
from edge.core import EdgeCore
from edge.frame import Frame, frame_of
from edge.history import Frames, SharedHistory, Span, SpanAsked
from edge.index import IndexEntry
from edge.options import EdgeOptions
from schemas.catalog import LocalSchemas
from schemas.envelope import Event, new_event_id, stream_key
from schemas.payloads import PayloadCodec
from schemas.published import SHOWN, time_text
from schemas.topics import STREAM_PARTITIONS, partition_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from fastapi import FastAPI

    from schemas.recording import RecordedEvent, RecordingHeader

log = structlog.get_logger(__name__)
_TOPIC_VERSION = 1
_ROUNDS_KEPT = 10
_BETWEEN_ROUNDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Playing:
    """How a recording is played."""

    speed: float = 1.0
    """Twice as fast is 2; 0 plays all at once."""
    loop: bool = False
    """Begin again when it is over, each time as a new stream."""


class MemoryLog:
    """What Kafka is to a real edge: all frames in order, to be read again from any offset."""

    def __init__(self) -> None:
        self._frames: dict[bytes, list[Frame]] = {}
        self._next_offset = 0

    @property
    def caught_up(self) -> bool:
        """See Source."""
        return True

    @property
    def problem(self) -> str:
        """See Source."""
        return ""

    @property
    def behind(self) -> Mapping[tuple[str, int], int]:
        """See Source."""
        return {}

    def position(self, _partition: int) -> int:
        """See Source."""
        return self._next_offset

    def index_is_read(self, _partition: int) -> bool:
        """See Source."""
        return True

    def low_offset(self, _partition: int) -> int:
        """See Source."""
        return 0

    def end_offset(self, _partition: int) -> int:
        """See Source."""
        return self._next_offset

    def append(self, key: bytes, make: Callable[[int], Frame]) -> Frame:
        """Put a frame at the end."""
        frame = make(self._next_offset)
        self._frames.setdefault(key, []).append(frame)
        self._next_offset += 1
        return frame

    def forget(self, key: bytes) -> None:
        """Let a stream go."""
        self._frames.pop(key, None)

    async def read(self, asked: SpanAsked) -> Span:
        """See History."""
        found = [
            frame
            for frame in self._frames.get(asked.key, ())
            if asked.from_offset <= frame.offset < asked.stop_offset
        ]
        frames, more = Frames(found[: asked.events_max]), found[asked.events_max :]
        return Span(frames, more[0].offset if more else asked.stop_offset)


class Player:
    """Puts the recorded events into the hub in the cadence in which they came, with their times rebased."""

    def __init__(
        self,
        core: EdgeCore,
        events_log: MemoryLog,
        header: RecordingHeader,
        events: list[RecordedEvent],
        playing: Playing,
    ) -> None:
        self._core = core
        self._log = events_log
        self._header = header
        self._events = events
        self._playing = playing

    async def run(self) -> None:
        """Play; returns when it is over, and never if it is to loop."""
        played = 0
        while True:
            stream_id = self._header.stream_id if played == 0 else self._round_id(played + 1)
            await self._play(stream_id)
            played += 1
            if not self._playing.loop:
                return
            if played >= _ROUNDS_KEPT:
                old = self._header.stream_id if played == _ROUNDS_KEPT else self._round_id(played - 9)
                key = stream_key(self._header.tenant, old)
                self._log.forget(key)
                self._core.index.remove(key)
                self._core.hub.forget(key)
            await asyncio.sleep(_BETWEEN_ROUNDS_S)

    def _round_id(self, number: int) -> str:
        return f"{self._header.stream_id[:120]}-{number}"

    async def _play(self, stream_id: str) -> None:
        key = stream_key(self._header.tenant, stream_id)
        partition = partition_of(key, STREAM_PARTITIONS)
        loop = asyncio.get_running_loop()
        started, started_us = loop.time(), time.time_ns() // 1_000
        for seq, recorded in enumerate(self._events):
            after_s = recorded.at_ms / 1_000 / self._playing.speed if self._playing.speed > 0 else 0.0
            wait_s = started + after_s - loop.time()
            if wait_s > 0 or seq % 500 == 499:
                await asyncio.sleep(max(wait_s, 0))
            self._emit(key, partition, stream_id, seq, recorded, started_us + int(after_s * 1_000_000))

    def _emit(
        self, key: bytes, partition: int, stream_id: str, seq: int, recorded: RecordedEvent, time_us: int
    ) -> None:
        event = self._event(stream_id, seq, recorded, time_us)

        def make(offset: int) -> Frame:
            frame = frame_of(
                event,
                topic_version=_TOPIC_VERSION,
                partition=partition,
                offset=offset,
                read_ms=int(time.monotonic() * 1_000),
            )
            frame.json = _shown(event, recorded)
            return frame

        frame = self._log.append(key, make)
        if seq == 0:
            self._core.index.put(key, self._entry(event, partition, frame.offset, recorded))
        self._core.index.saw(key, frame, partition)
        entry = self._core.index.get(key)
        if entry is not None and event.type == "end":
            entry.end_seq, entry.end_offset, entry.ended_us = seq, frame.offset, time_us
            entry.end_reason = str(recorded.payload.get("reason", ""))
        self._core.hub.publish([(key, frame)])

    def _event(self, stream_id: str, seq: int, recorded: RecordedEvent, time_us: int) -> Event:
        texts = recorded.texts
        return Event(
            event_id=new_event_id(),
            tenant=self._header.tenant,
            stream_id=stream_id,
            seq=seq,
            kind=self._header.kind,
            type=recorded.type,
            time=time_us,
            source=texts.get("source", ""),
            request_id=texts.get("request_id", ""),
            task_id=texts.get("task_id", ""),
            upstream_id=texts.get("upstream_id", ""),
            traceparent=texts.get("traceparent", ""),
            epoch=recorded.epoch,
            attempt=recorded.attempt,
            payload=b"",  # its JSON is what was recorded: no schema is needed to show it
            payload_schema=0,
        )

    def _entry(self, event: Event, partition: int, offset: int, recorded: RecordedEvent) -> IndexEntry:
        return IndexEntry(
            tenant=event.tenant,
            stream_id=event.stream_id,
            kind=event.kind,
            title=str(recorded.payload.get("title", "")),
            labels={},
            partition=partition,
            topic_version=_TOPIC_VERSION,
            opened_us=event.time,
            open_offset=offset,
            mark_seqs=[],
            mark_offsets=[],
            last_seq=event.seq,
            updated_us=event.time,
        )


def create_replay_app(
    header: RecordingHeader,
    events: Iterable[RecordedEvent],
    playing: Playing | None = None,
    options: EdgeOptions | None = None,
) -> EdgeApp:
    """Make an edge that plays a recording from when it starts; serve it with ``edge.server.serve``.

    All events are read here, so a broken recording is told before anything is served.

    Raises:
        BadRecording: an event of the recording is not what it should be.
        NetworkRefused: the options bind an address that is not loopback.
    """
    chosen = (options or EdgeOptions()).checked()
    core = EdgeCore(chosen, PayloadCodec(LocalSchemas()), topic_version=_TOPIC_VERSION)
    events_log = MemoryLog()
    core.feed_from(events_log, SharedHistory(events_log.read, chosen.history_cache_bytes_max))
    player = Player(core, events_log, header, list(events), playing or Playing())

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        core.start()
        core.all_revoked()  # there is no topic that could tell
        task = asyncio.create_task(player.run())
        task.add_done_callback(_tell)
        try:
            yield
        finally:
            task.cancel()
            await core.stop()

    return compose(core, None, life)


def _shown(event: Event, recorded: RecordedEvent) -> bytes:
    shown = {
        "type": event.type,
        "seq": event.seq,
        "time": time_text(event.time),
        "event_id": event.event_id,
    }
    for name, value in recorded.payload.items():
        shown[f"payload.{name}" if name in SHOWN else name] = value
    return orjson.dumps(shown)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("player_failed", cause=str(task.exception()))
