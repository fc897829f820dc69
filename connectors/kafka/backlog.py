"""The chunks that were delivered and wait for an agent, by partition."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from connectors.kafka.chunk import Chunk, SourcePartition


class Backlog:
    """Queues of the partitions that are read; bounded by the hand-over's bounds, which the poll thread keeps.

    Args:
        on_void: told of each chunk that nobody will handle from here: it is read again, here or elsewhere.
    """

    def __init__(self, on_void: Callable[[Chunk], None]) -> None:
        self._on_void = on_void
        self._queues: dict[SourcePartition, deque[Chunk]] = {}
        self._held_until: dict[SourcePartition, float] = {}
        self._full: set[SourcePartition] = set()

    @property
    def records(self) -> int:
        """How many wait."""
        return sum(len(chunk) for queue in self._queues.values() for chunk in queue)

    def open(self, source: SourcePartition) -> None:
        """Take chunks of a partition from now on; what still waits of it is void."""
        self.close(source)
        self._queues[source] = deque()

    def keep_first(self, source: SourcePartition) -> None:
        """Keep the first chunk of a partition, and take none that come after it until it is opened anew.

        One that was under way would leave a hole behind those that are let go of here.
        """
        queue = self._queues[source]
        while len(queue) > 1:
            self._on_void(queue.pop())
        self._full.add(source)

    def close(self, source: SourcePartition) -> None:
        """Take none any more; those that wait are void."""
        self._held_until.pop(source, None)
        self._full.discard(source)
        for chunk in self._queues.pop(source, ()):
            self._on_void(chunk)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk; it is void if its partition takes none."""
        queue = self._queues.get(chunk.source)
        if queue is None or chunk.source in self._full:
            self._on_void(chunk)
            return
        # What trickled in while a unit was committed is handed out at once, not event by event.
        joined = queue[-1].joined(chunk) if queue else None
        if joined is None:
            queue.append(chunk)
        else:
            queue[-1] = joined

    def put_back(self, *chunks: Chunk, pause_s: float = 0.0) -> bool:
        """Have chunks of one partition, in this order, come before all others of it; after ``pause_s``.

        Returns whether they were kept: they are void if their partition takes none, paused meanwhile say.
        """
        if not chunks:
            return False
        source = chunks[0].source
        if source not in self._queues:
            for chunk in chunks:
                self._on_void(chunk)
            return False
        self._queues[source].extendleft(reversed(chunks))
        if pause_s:
            self._held_until[source] = time.monotonic() + pause_s
        return True

    def take(self, topic: str, stopped: Container[SourcePartition]) -> Chunk | None:
        """Take the next chunk of the topic's partition that waited longest: they take turns."""
        now = time.monotonic()
        for source, queue in self._queues.items():
            if source.topic != topic or not queue or source in stopped:
                continue
            if self._held_until.get(source, 0.0) <= now:
                chunk = queue.popleft()
                self._queues[source] = self._queues.pop(source)  # to the end of the turn
                return chunk
        return None

    def clear(self) -> None:
        """Let go of all that waits; the partitions stay open."""
        for queue in self._queues.values():
            for chunk in queue:
                self._on_void(chunk)
            queue.clear()
