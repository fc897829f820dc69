"""How far each partition of requests is done with, while thousands of its requests are under way."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.kafka.chunk import SourcePartition


@dataclass(slots=True, eq=False)
class Tenure:
    """One time that a partition is ours, from its take-over until it is taken away: each is another."""

    source: SourcePartition
    next_offset: int
    note: int
    """Where the ledger was read from at the take-over: what dead owners did stands behind it."""
    until: int
    """Where the partition ended then: a request before it may have been a dead owner's."""
    under_way: dict[int, int] = field(default_factory=dict)
    """Offset of a request → where the ledger stood when it was first taken; in the order of the offsets."""
    done: set[int] = field(default_factory=set)


class Offsets:
    """The contiguous watermark of each partition; safe to share between threads.

    Beside it stands where the ledger was when the oldest request that is not done with was first taken, by us
    or by an owner before us: whoever takes the partition over reads the ledger from there, and finds every
    call that those requests have cost, however many owners died over them.
    """

    def __init__(self) -> None:
        self._tenures: dict[SourcePartition, Tenure] = {}
        self._lock = threading.Lock()

    def start(self, source: SourcePartition, offset: int, note: int, until: int) -> Tenure:
        """Begin with a partition that was taken over."""
        tenure = Tenure(source, offset, note, until)
        with self._lock:
            self._tenures[source] = tenure
        return tenure

    def stop(self, sources: Iterable[SourcePartition]) -> None:
        """Forget partitions that were taken away."""
        with self._lock:
            for source in sources:
                self._tenures.pop(source, None)

    def tenure(self, source: SourcePartition) -> Tenure | None:
        """Return the one that lasts, None if the partition is not ours."""
        return self._tenures.get(source)

    def lasts(self, tenure: Tenure) -> bool:
        """Say whether a partition is still ours, and was so all the time."""
        return self._tenures.get(tenure.source) is tenure

    def take(self, tenure: Tenure, offset: int, ledger_now: int) -> None:
        """Note that a request is under way."""
        with self._lock:
            tenure.under_way[offset] = tenure.note if offset < tenure.until else ledger_now
            tenure.next_offset = offset + 1

    def finish(self, tenure: Tenure, offset: int) -> None:
        """Note that a request is done with; again is as once."""
        with self._lock:
            if offset not in tenure.under_way:
                return
            tenure.done.add(offset)
            for first in list(tenure.under_way):
                if first not in tenure.done:
                    break
                tenure.done.discard(first)
                del tenure.under_way[first]

    def position(self, tenure: Tenure, ledger_now: int) -> tuple[int, int] | None:
        """Return (offset to commit, the ledger's position beside it), None if the partition is not ours."""
        with self._lock:
            if not self.lasts(tenure):
                return None
            oldest = next(iter(tenure.under_way.items()), None)
            if oldest is not None:
                return oldest
            return tenure.next_offset, tenure.note if tenure.next_offset < tenure.until else ledger_now

    def under_way(self) -> int:
        """How many requests are not done with."""
        with self._lock:
            return sum(len(each.under_way) - len(each.done) for each in self._tenures.values())
