"""What an agent sees of its state: one partition of one store, staged writes over committed data."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING, Protocol

from state.errors import EffectTooLarge
from state.journal import Journaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


RECORD_OVERHEAD_BYTES = 512
"""A record batch's own header and framing, well rounded up: the broker's limit is on the batch."""
_FEW = 16
"""Up to so many keys are put in their places one by one; more are sorted, which takes a walk over all."""
_FRONTS_MAX = 16
"""Ranges of one view whose front is known: an index or two of each store that an agent has in it."""


class StateView(Protocol):
    """One partition of a store inside a unit of work; writes are staged until the unit commits."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, or None."""

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of ``keys``, in their order."""

    def put(self, key: bytes, value: bytes) -> None:
        """Stage a write; ``value`` may be empty but a delete is said by ``delete``."""

    def put_many(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Stage many writes at once; None deletes. Of a key that is given twice the last value counts.

        A third of what so many ``put`` cost: for agents that take a batch at a time.
        """

    def delete(self, key: bytes) -> None:
        """Stage a delete, which becomes a tombstone in the changelog."""

    def scan(self, start: bytes, end: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        """Give at most ``limit`` pairs with ``start <= key < end`` in byte order, staged writes included.

        The pairs are collected before the first is given: writing while iterating is safe.
        """

    def last(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the last pairs of such a range, at most ``limit``, the last first."""

    def first(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the first pairs of such a range, at most ``limit``: for one that is emptied from its front.

        What is gone there is passed over once, and not at each call as by ``scan``: deletes stay in the way
        of who reads until the store has compacted them.
        """


class Backend(Protocol):
    """Committed data of one partition; written once a unit of work, by ``write``."""

    def get(self, key: bytes) -> bytes | None:
        """Return the committed value of ``key``, or None."""

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the committed values of ``keys``, in their order."""

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most ``limit`` committed pairs with ``start <= key < end`` in byte order."""

    def last(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the last committed pairs of such a range, at most ``limit``, the last first."""

    def write(self, changes: Mapping[bytes, bytes | None], position: Position) -> None:
        """Apply ``changes`` (None deletes) and the changelog position in one atomic write."""

    def position(self) -> Position | None:
        """Return the changelog position of what is stored, None when nothing ever was."""

    def clear(self) -> None:
        """Forget all data and the position."""


def sizes_of(keys: Sequence[bytes], values: Sequence[bytes | None]) -> list[int]:
    """Return the bytes of each key with its value; None has none. Raises ValueError for a key of None."""
    try:
        return list(map(add, map(len, keys), map(len, values)))  # type: ignore[arg-type]
    except TypeError:  # one is None; to look for it in each is what takes the time
        if None in keys:
            raise ValueError("a key is null: leave its row out, or give it a key of its own") from None
        return [len(key) + len(value or b"") for key, value in zip(keys, values, strict=True)]


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """How large one store is."""

    disk_bytes: int
    """Bytes of its files, the log of writes included."""
    memtable_bytes: int
    """Bytes in memory that are not in its tables yet."""
    keys_estimate: int
    """The store's own estimate, over all partitions: an overwritten key may count until it is compacted."""
    aside_bytes: int = 0
    """Bytes of files that could not be read and were set aside."""


class Store(Protocol):
    """The database of one agent on one worker: a backend a partition."""

    def partition(self, number: int) -> Backend:
        """Return the backend of a partition."""

    def figures(self) -> StoreFigures:
        """Return how large it is."""

    def close(self) -> None:
        """Let go of the folder."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where in its changelog partition a backend stands."""

    topic_id: str
    """Identity of the changelog topic: a topic made anew under the old name has another."""
    offset: int
    """The next changelog offset to apply."""
    written_us: int
    """Wall clock of the write, microseconds: older than the changelog keeps tombstones = rebuild."""


class StagedView:
    """A ``StateView``: an overlay of staged writes over a ``Backend``."""

    def __init__(self, backend: Backend, entry_bytes_max: int | None = None) -> None:
        self._backend = backend
        self._value_bytes_max = None if entry_bytes_max is None else entry_bytes_max - RECORD_OVERHEAD_BYTES
        self._overlay: Journaled[bytes, bytes | None] = Journaled()
        self.written_bytes = 0
        """Bytes of all writes of the unit, those that later ones replaced or undid included."""
        # Its keys in order, as of the last scan, and those that came since: most agents never scan.
        self._order: list[bytes] = []
        self._fresh: list[bytes] = []
        # Start of a range that ``first`` was asked for -> the key before which nothing stands in it: of the
        # unit, and as the unit before left it.
        self._fronts: dict[bytes, bytes] = {}
        self._fronts_committed: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """See ``StateView``."""
        try:
            return self._overlay.data[key]
        except KeyError:
            return self._backend.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``StateView``."""
        staged = self._overlay.data
        if not staged or staged.keys().isdisjoint(keys):
            return self._backend.multi_get(keys)
        missing = [key for key in keys if key not in staged]
        if not missing:
            return list(map(staged.__getitem__, keys))
        fetched = iter(self._backend.multi_get(missing))
        return [staged[key] if key in staged else next(fetched) for key in keys]

    def put(self, key: bytes, value: bytes) -> None:
        """See ``StateView``. Raises EffectTooLarge when the changelog would not take the entry."""
        size_bytes = len(key) + len(value)
        if self._value_bytes_max is not None and size_bytes > self._value_bytes_max:
            raise self._too_large(size_bytes, self._value_bytes_max)
        self.written_bytes += size_bytes
        self._stage(key, value)

    def put_many(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """See ``StateView``. Raises EffectTooLarge as ``put``, before anything of it is staged."""
        changes = dict(zip(keys, values, strict=True))
        sizes = sizes_of(keys, values)
        limit = self._value_bytes_max
        if limit is not None and max(sizes, default=0) > limit:
            raise self._too_large(max(sizes), limit)
        self.written_bytes += sum(sizes)
        self._fresh += changes.keys() - self._overlay.data.keys()
        self._overlay.put_many(changes)
        for start, front in self._fronts.items():
            came = (key for key, value in changes.items() if start <= key < front and value is not None)
            self._fronts[start] = min(came, default=front)

    def delete(self, key: bytes) -> None:
        """See ``StateView``."""
        self.written_bytes += len(key)
        self._stage(key, None)

    def scan(self, start: bytes, end: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        """See ``StateView``."""
        return iter(self._overlaid(self._backend.scan, start, end, limit))

    def last(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``StateView``."""
        return self._overlaid(self._backend.last, start, end, limit, reverse=True)

    def first(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``StateView``."""
        front = self._fronts.get(start, start)
        pairs = self._overlaid(self._backend.scan, front, end, limit) if front < end else []
        if limit > 0:
            if start not in self._fronts and len(self._fronts) >= _FRONTS_MAX:
                self._fronts.clear()
            self._fronts[start] = pairs[0][0] if pairs else max(front, end)
        return pairs

    def _overlaid(
        self,
        committed_pairs: Callable[[bytes, bytes, int], list[tuple[bytes, bytes]]],
        start: bytes,
        end: bytes,
        limit: int,
        *,
        reverse: bool = False,
    ) -> list[tuple[bytes, bytes]]:
        staged = self._overlay.data
        order = self._in_order()
        inside = range(bisect_left(order, start), bisect_left(order, end))
        if not inside:
            return committed_pairs(start, end, limit)
        # What is staged counts up to as many as are wanted: none that comes behind those is among them.
        live: dict[bytes, bytes] = {}
        gone: list[bytes] = []
        for at in reversed(inside) if reverse else inside:
            key = order[at]
            if (value := staged[key]) is None:
                gone.append(key)
            else:
                live[key] = value
                if len(live) >= limit:
                    break
        # Each that is gone can hide one committed pair, so this many are enough.
        found = dict(committed_pairs(start, end, limit + len(gone))) | live
        for key in gone:
            found.pop(key, None)
        return sorted(found.items(), reverse=reverse)[:limit]

    def savepoint(self) -> None:
        """Begin a step that can be undone alone. Savepoints nest."""
        self._overlay.savepoint()

    def keep(self) -> None:
        """Keep what was staged since the last savepoint."""
        self._overlay.keep()

    def next_step(self) -> None:
        """Keep the one step that there is and begin another: ``keep`` and ``savepoint`` in one."""
        self._overlay.forget()

    def undo(self) -> None:
        """Take back what was staged since the last savepoint."""
        staged = len(self._overlay.data)
        self._overlay.undo()
        if len(self._overlay.data) != staged:
            self._order = sorted(self._overlay.data)
            self._fresh.clear()
        self._fronts.clear()  # what was deleted may be there again

    @property
    def staged(self) -> Mapping[bytes, bytes | None]:
        """What the unit of work would write; None deletes."""
        return self._overlay.data

    def written(self) -> None:
        """Hear that what is staged was written to the backend; it is dropped next."""
        self._fronts_committed = dict(self._fronts)

    def drop(self) -> None:
        """Forget all that is staged."""
        self._overlay.clear()
        self._fronts = dict(self._fronts_committed)
        self.written_bytes = 0
        self._order.clear()
        self._fresh.clear()

    @staticmethod
    def _too_large(size_bytes: int, limit: int) -> EffectTooLarge:
        whole_bytes, limit_bytes = size_bytes + RECORD_OVERHEAD_BYTES, limit + RECORD_OVERHEAD_BYTES
        return EffectTooLarge("state value", whole_bytes, limit_bytes)

    def _stage(self, key: bytes, value: bytes | None) -> None:
        if key not in self._overlay.data:
            self._fresh.append(key)
        self._overlay.put(key, value)
        if value is not None:
            for start, front in self._fronts.items():
                if start <= key < front:
                    self._fronts[start] = key

    def _in_order(self) -> list[bytes]:
        if len(self._fresh) > _FEW:
            self._order += self._fresh
            self._order.sort()
        else:
            for key in self._fresh:
                insort(self._order, key)
        self._fresh.clear()
        return self._order
