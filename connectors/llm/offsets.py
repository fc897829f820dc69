"""How far each partition of requests is done with, while thousands of its requests are under way."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.kafka.chunk import SourcePartition


@dataclass(slots=True)
class _Partition:
    next_offset: int
    under_way: dict[int, int] = field(default_factory=dict)
    """Offset of a request → position of the ledger when it was taken; in the order of the offsets."""
    done: set[int] = field(default_factory=set)


class Offsets:
    """The contiguous watermark of each partition; safe to share between threads.

    Beside it stands where the ledger was when the oldest request under way was taken: whoever takes the
    partition over reads the ledger from there, and finds every call that those requests have cost.
    """

    def __init__(self) -> None:
        self._partitions: dict[SourcePartition, _Partition] = {}
        self._lock = threading.Lock()

    def start(self, source: SourcePartition, offset: int) -> None:
        """Begin with a partition that was assigned."""
        with self._lock:
            self._partitions[source] = _Partition(offset)

    def stop(self, sources: Iterable[SourcePartition]) -> None:
        """Forget partitions that were taken away."""
        with self._lock:
            for source in sources:
                self._partitions.pop(source, None)

    def owns(self, source: SourcePartition) -> bool:
        """Say whether a partition is ours."""
        return source in self._partitions

    def take(self, source: SourcePartition, offset: int, ledger_offset: int) -> None:
        """Note that a request is under way."""
        with self._lock:
            partition = self._partitions.get(source)
            if partition is not None:
                partition.under_way[offset] = ledger_offset
                partition.next_offset = offset + 1

    def finish(self, source: SourcePartition, offset: int) -> None:
        """Note that a request is done with; again is as once."""
        with self._lock:
            partition = self._partitions.get(source)
            if partition is None or offset not in partition.under_way:
                return
            partition.done.add(offset)
            for first in list(partition.under_way):
                if first not in partition.done:
                    break
                partition.done.discard(first)
                del partition.under_way[first]

    def position(self, source: SourcePartition, ledger_now: int) -> tuple[int, int] | None:
        """Return (offset to commit, ledger's position beside it), None if the partition is not ours."""
        with self._lock:
            partition = self._partitions.get(source)
            if partition is None:
                return None
            oldest = next(iter(partition.under_way.items()), None)
            return oldest if oldest is not None else (partition.next_offset, ledger_now)

    def under_way(self) -> int:
        """How many requests are not done with."""
        with self._lock:
            return sum(len(each.under_way) - len(each.done) for each in self._partitions.values())
