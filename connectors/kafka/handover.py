"""How much is handed over and not yet handled, and what the poll thread does about too much."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.kafka.chunk import Chunk

_PATIENCE_S = 1.0  # a rebalance waits so long at most; heartbeats are librdkafka's own thread's


class HandOver:
    """Counts what others have in hand; bounded by records and by bytes.

    A short while nobody polls: a pause would throw away what librdkafka has fetched ahead, to be fetched
    again (its issue 5343). Held up for longer, partitions are paused, and polling goes on.
    """

    def __init__(self, records_max: int, bytes_max: int) -> None:
        self._records_max, self._bytes_max = records_max, bytes_max
        self._records = self._bytes = 0
        self._lock = threading.Lock()
        self._full_since: float | None = None
        self.pauses = False
        """Partitions are paused for it."""

    @property
    def takes_nothing(self) -> bool:
        """Whether it is full, and for so short a time that nobody polls."""
        return self._full_since is not None and not self.pauses

    def given(self, chunks: Iterable[Chunk]) -> None:
        """Count chunks that are handed over."""
        with self._lock:
            for chunk in chunks:
                self._records += len(chunk)
                self._bytes += chunk.size_bytes

    def handled(self, records: int, size_bytes: int) -> None:
        """Count so many records, of so many bytes, as done with; from any thread."""
        with self._lock:
            self._records -= records
            self._bytes -= size_bytes

    def regulate(self, *, held_up: bool) -> Literal["pause", "resume"] | None:
        """Say what is to be done with the partitions; ``held_up``: more waits that cannot be handed over.

        Once full it goes on below half, so that it does not flutter.
        """
        filled = max(self._records / self._records_max, self._bytes / self._bytes_max)
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now if filled >= 1 or held_up else None
        elif filled <= 0.5 and not held_up:
            self._full_since = None
            if self.pauses:
                self.pauses = False
                return "resume"
        elif not self.pauses and now - self._full_since > _PATIENCE_S:
            self.pauses = True
            return "pause"
        return None

    def forget_pauses(self) -> None:
        """No partition is left that was paused for it."""
        self._full_since, self.pauses = None, False
