"""Which keys make most of a partition's records: a sketch that is small whatever the number of keys.

Misra and Gries, "Finding repeated elements" (1982), in the form that takes a batch at once: the merge of
Agarwal et al., "Mergeable Summaries" (PODS 2012). With ``k`` counters and ``n`` records taken in, a key's
count is never too high and at most ``n / (k + 1)`` too low, so no key with a larger share is missed.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.kafka.chunk import Chunk, Chunker, Records, SourcePartition
    from connectors.kafka.decoding import DecodeGuard

SAMPLES_MAX: Final = 64
"""Keys looked at in a chunk, spread over it: a chunk of thousands costs as much as one of 64."""
COUNTERS: Final = 64
_HALF_LIFE_S: Final = 60.0
"""What was hot an hour ago is not what somebody on call looks for."""
_RECORDS_MIN: Final = 100
"""With fewer a share says nothing."""
_NO_KEY: Final = b""


class Sketch:
    """Counts of the heaviest keys, as of Misra and Gries."""

    def __init__(self, counters: int = COUNTERS) -> None:
        self._counters = counters
        self.counts: Mapping[bytes, float] = {}
        """Never changed in place: whoever reads it on another thread has one state of it."""
        self.total = 0.0

    def add(self, counts: Mapping[bytes, float]) -> None:
        """Take in a batch: add it up, and lower all counts so far that no more than ``counters`` are left."""
        merged = dict(self.counts)
        for key, count in counts.items():
            merged[key] = merged.get(key, 0.0) + count
        if len(merged) > self._counters:
            floor = sorted(merged.values(), reverse=True)[self._counters]
            merged = {key: count - floor for key, count in merged.items() if count > floor}
        self.counts = merged
        self.total += sum(counts.values())

    def decay(self, factor: float) -> None:
        """Have what was taken in so far count less."""
        self.counts = {key: count * factor for key, count in self.counts.items()}
        self.total *= factor

    def top(self, limit: int, share_min: float) -> list[tuple[bytes, float]]:
        """Return at most ``limit`` keys with at least that share of the records, and their shares."""
        counts, total = self.counts, self.total
        if total < _RECORDS_MIN:
            return []
        shares = ((key, count / total) for key, count in counts.items())
        found = sorted((pair for pair in shares if pair[1] >= share_min), key=lambda pair: -pair[1])
        return found[:limit]


class HotKey(NamedTuple):
    """A key, and its share of the records of its partition in the last minutes."""

    key: bytes
    share: float


@dataclass(slots=True)
class _Watched:
    sketch: Sketch
    decayed: float


class HotKeys:
    """A sketch for each partition; fed on the poll thread, read by any."""

    def __init__(self) -> None:
        self._watched: dict[SourcePartition, _Watched] = {}

    def watching(self, chunker: Chunker) -> Chunker:
        """Return ``chunker`` with each of its chunks' keys looked at."""

        def chunk(epoch: int, records: Records, guard: DecodeGuard) -> Chunk:
            self.see(records.source, records)
            return chunker(epoch, records, guard)

        return chunk

    def see(self, source: SourcePartition, records: Records) -> None:
        """Look at some keys of a chunk; each stands for as many records as there are between two of them."""
        count = len(records)
        step = -(-count // SAMPLES_MAX)
        # Where it begins is drawn anew for each chunk, or keys that come in turns would be met unevenly.
        indexes = range(random.randrange(step), count, step)  # noqa: S311  # no secret
        keys: Sequence[bytes | None] = records.keys(indexes)
        watched = self._watched.get(source)
        now = time.monotonic()
        if watched is None:
            watched = self._watched[source] = _Watched(Sketch(), now)
        elapsed_s = now - watched.decayed
        if elapsed_s > _HALF_LIFE_S / 4:
            watched.sketch.decay(0.5 ** (elapsed_s / _HALF_LIFE_S))
            watched.decayed = now
        watched.sketch.add({key or _NO_KEY: n * step for key, n in Counter(keys).items()})

    def top(self, limit: int = 5, share_min: float = 0.05) -> dict[SourcePartition, list[HotKey]]:
        """Return the hottest keys of each partition."""
        return {
            source: [HotKey(*pair) for pair in watched.sketch.top(limit, share_min)]
            for source, watched in list(self._watched.items())
        }
