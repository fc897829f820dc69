"""What is no longer in memory: spans of one stream's past, each read once however many ask for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edge.frame import Frame


@dataclass(frozen=True, slots=True)
class SpanAsked:
    """Events of one stream between two offsets of its partition, ``stop_offset`` not included."""

    key: bytes
    partition: int
    from_offset: int
    stop_offset: int


@dataclass(frozen=True, slots=True)
class Span:
    """What was found; the next span starts at ``next_offset``."""

    frames: tuple[Frame, ...]
    next_offset: int
    truncated: bool = False
    """The partition no longer reaches back to where the span was to start."""
    passed: int = 0
    """Records of other streams that were read for it and passed over."""

    @property
    def size_bytes(self) -> int:
        """Estimate of what it holds in memory."""
        return 200 + sum(frame.size_bytes for frame in self.frames)


class History(Protocol):
    """Where the past is read from: Kafka, or a recording."""

    async def read(self, asked: SpanAsked) -> Span:
        """Give the span, or a first part of it. Raises HistoryUnavailable."""
        ...


class SharedHistory:
    """One read a span: those who ask while it is read wait for it, those who ask soon after get it again.

    A span goes by where it starts. One that was read before the present moved on is a first part of what
    is asked now, and its reader goes on from its end.
    """

    def __init__(self, read: Callable[[SpanAsked], Awaitable[Span]], cache_bytes_max: int) -> None:
        self._read = read
        self._cache_bytes_max = cache_bytes_max
        self._cache: OrderedDict[tuple[bytes, int], Span] = OrderedDict()
        self._reading: dict[tuple[bytes, int], asyncio.Task[Span]] = {}
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
            self._cache.move_to_end(place)
            return span
        task = self._reading.get(place)
        if task is None:
            self.reads += 1
            task = asyncio.get_running_loop().create_task(self._read_and_keep(asked))
            self._reading[place] = task
        else:
            self.shared += 1
        # One client that leaves must not end the read for the others.
        return await asyncio.shield(task)

    async def _read_and_keep(self, asked: SpanAsked) -> Span:
        place = (asked.key, asked.from_offset)
        try:
            span = await self._read(asked)
        finally:
            self._reading.pop(place, None)
        self.passed += span.passed
        former = self._cache.pop(place, None)
        self.bytes += span.size_bytes - (former.size_bytes if former else 0)
        self._cache[place] = span
        while self.bytes > self._cache_bytes_max:
            _, gone = self._cache.popitem(last=False)
            self.bytes -= gone.size_bytes
        return span
