"""What is no longer in memory: spans of one stream's past, each read once however many ask for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from edge.turns import Turns, heard, tenant_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from edge.frame import Frame
    from edge.group import Encoder

SPAN_EVENTS: Final = 1_000
"""Of a stream's events, where its spans end: all who read on from there ask for the same ones."""


@dataclass(frozen=True, slots=True)
class SpanAsked:
    """Events of one stream between two offsets of its partition, ``stop_offset`` not included."""

    key: bytes
    partition: int
    from_offset: int
    stop_offset: int
    events_max: int = SPAN_EVENTS


class Write(NamedTuple):
    """Frames as they go over a transport."""

    data: bytes
    events: int
    """Of the stream."""
    gaps: tuple[Frame, ...]
    """Those of them that tell of a gap."""
    next_seq: int
    next_offset: int
    """Where it goes on after them."""


class Frames(tuple["Frame", ...]):  # noqa: SLOT001  # what they have in common is kept in it
    """Events of the past that many are given as they are: what they have in common is made once.

    Without it each client's thousand events would be looked at one by one, and written anew: five
    microseconds an event, ten times what the same event costs out of the ring. Clients who all fell behind
    at once would never catch up.
    """

    @cached_property
    def whole(self) -> bool:
        """Whether each follows on from the one before, and none but the last ends its stream."""
        first = self[0].seq if self else 0
        return all(frame.seq == first + n for n, frame in enumerate(self)) and not any(
            frame.type == "end" for frame in self[:-1]
        )

    def writes(self, encoder: Encoder, bytes_max: int) -> Sequence[Write]:
        """Give the writes of all of them: to all clients of a transport the same objects."""
        writes = self._writes.get(encoder.name)
        if writes is None:
            writes = self._writes[encoder.name] = writes_of(self, encoder, bytes_max)
        return writes

    @property
    def size_bytes(self) -> int:
        """Estimate of what they hold in memory, with the writes of all of them that are kept: one soon is."""
        kept = sum(len(write.data) for writes in self._writes.values() for write in writes)
        return self._own_bytes + max(self._own_bytes // 4, kept)

    @cached_property
    def _own_bytes(self) -> int:
        return sum(frame.size_bytes for frame in self)

    @cached_property
    def _writes(self) -> dict[str, Sequence[Write]]:
        return {}


def writes_of(frames: Sequence[Frame], encoder: Encoder, bytes_max: int) -> Sequence[Write]:
    """Give the writes of frames, in order; none is above the bound but one of a single frame, or stateful."""
    data = encoder.encode(frames)
    if len(data) <= bytes_max or len(frames) == 1 or encoder.stateful:
        last, gaps = frames[-1], tuple(frame for frame in frames if frame.tells_of_a_gap)
        events = len(frames) - sum(not gap.unreadable for gap in gaps)
        return (Write(data, events, gaps, last.seq + 1, last.offset + 1),)
    step = ceil(len(frames) / ceil(len(data) / bytes_max))
    parts = [frames[at : at + step] for at in range(0, len(frames), step)]
    return [write for part in parts for write in writes_of(part, encoder, bytes_max)]


def first_of(frames: Sequence[Frame], bytes_max: int) -> tuple[Sequence[Frame], Sequence[Frame]]:
    """Cut frames in two: the first, about so many bytes and one frame at least, and the rest."""
    count, size_bytes = 1, frames[0].size_bytes
    for frame in frames[1:]:
        size_bytes += frame.size_bytes
        if size_bytes > bytes_max:
            break
        count += 1
    return frames[:count], frames[count:]


@dataclass(frozen=True, slots=True)
class Span:
    """What was found; the next span starts at ``next_offset``."""

    frames: Frames
    next_offset: int
    truncated: bool = False
    """The partition no longer reaches back to where the span was to start."""
    passed: int = 0
    """Records of other streams that were read for it and passed over."""

    @property
    def size_bytes(self) -> int:
        """Estimate of what it holds in memory now; it grows by a write for each transport that asks."""
        return 200 + self.frames.size_bytes


class History(Protocol):
    """Where the past is read from: Kafka, or a recording."""

    async def read(self, asked: SpanAsked) -> Span:
        """Give the span, or a first part of it. Raises HistoryUnavailable."""
        ...


@dataclass(slots=True)
class _Reading:
    """A span that is read now, or waits for its turn."""

    begun: bool = False
    waiters: int = 0
    task: asyncio.Task[Span] = field(init=False)


class SharedHistory:
    """One read a span: those who ask while it is read wait for it, those who ask soon after get it again.

    Reads wait for a turn (``edge/turns.py``), and are not made if by then nobody waits for them any more.
    A span goes by where it starts. One that was read before the present moved on is a first part of what
    is asked now, and its reader goes on from its end.
    """

    def __init__(
        self, read: Callable[[SpanAsked], Awaitable[Span]], cache_bytes_max: int, *, readers: int = 2
    ) -> None:
        """``readers``: how many reads may be made at a time."""
        self._read = read
        self._turns = Turns(readers)
        self._cache_bytes_max = cache_bytes_max
        self._cache: OrderedDict[tuple[bytes, int], Span] = OrderedDict()
        self._counted: dict[tuple[bytes, int], int] = {}
        self._reading: dict[tuple[bytes, int], _Reading] = {}
        self.bytes = 0
        self.reads = 0
        self.shared = 0
        self.passed = 0

    async def read(self, asked: SpanAsked) -> Span:
        """See History."""
        place = (asked.key, asked.from_offset)
        span = self._cache.get(place)
        if span is not None and asked.from_offset < span.next_offset <= asked.stop_offset:
            self.shared += 1
            self._keep(place, span)
            return span
        reading = self._reading.get(place)
        if reading is None:
            self._turns.check_room(tenant_of(asked.key))  # before a task is made: who is refused comes again
            reading = self._reading[place] = _Reading()
            reading.task = asyncio.get_running_loop().create_task(self._read_and_keep(asked, reading))
            reading.task.add_done_callback(heard)
        else:
            self.shared += 1
        reading.waiters += 1
        try:
            # One client that leaves must not end the read for the others.
            return await asyncio.shield(reading.task)
        finally:
            reading.waiters -= 1
            if not (reading.waiters or reading.begun):
                self._done(place, reading)
                reading.task.cancel()

    @property
    def waiting(self) -> int:
        """Reads that wait for their turn."""
        return self._turns.waiting

    async def _read_and_keep(self, asked: SpanAsked, reading: _Reading) -> Span:
        place = (asked.key, asked.from_offset)
        try:
            await self._turns.take(tenant_of(asked.key))
            try:
                reading.begun = True
                self.reads += 1
                span = await self._read(asked)
            finally:
                self._turns.give_back()
        finally:
            self._done(place, reading)
        self.passed += span.passed
        self._keep(place, span)
        return span

    def _done(self, place: tuple[bytes, int], reading: _Reading) -> None:
        """Have nobody wait for a read any more; the place may be read by another one already."""
        if self._reading.get(place) is reading:
            del self._reading[place]

    def _keep(self, place: tuple[bytes, int], span: Span) -> None:
        """Keep a span as the one asked for last, counted as it is now; the longest unasked give way."""
        self._cache[place] = span
        self._cache.move_to_end(place)
        self.bytes += (size := span.size_bytes) - self._counted.get(place, 0)
        self._counted[place] = size
        while self.bytes > self._cache_bytes_max:
            gone, _ = self._cache.popitem(last=False)
            self.bytes -= self._counted.pop(gone)
