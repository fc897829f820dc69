"""What an agent sees of its state: one partition of one store, staged writes over committed data."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from state.errors import EffectTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


RECORD_OVERHEAD_BYTES = 512
"""A record batch's own header and framing, well rounded up: the broker's limit is on the batch."""


class StateView(Protocol):
    """One partition of a store inside a unit of work; writes are staged until the unit commits."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, or None."""

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of ``keys``, in their order."""

    def put(self, key: bytes, value: bytes) -> None:
        """Stage a write; ``value`` may be empty but a delete is said by ``delete``."""

    def delete(self, key: bytes) -> None:
        """Stage a delete, which becomes a tombstone in the changelog."""

    def scan(self, start: bytes, end: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        """Give at most ``limit`` pairs with ``start <= key < end`` in byte order, staged writes included.

        The pairs are collected before the first is given: writing while iterating is safe.
        """


class Backend(Protocol):
    """Committed data of one partition; written once a unit of work, by ``write``."""

    def get(self, key: bytes) -> bytes | None:
        """Return the committed value of ``key``, or None."""

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the committed values of ``keys``, in their order."""

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most ``limit`` committed pairs with ``start <= key < end`` in byte order."""

    def write(self, changes: Mapping[bytes, bytes | None], position: Position) -> None:
        """Apply ``changes`` (None deletes) and the changelog position in one atomic write."""

    def position(self) -> Position | None:
        """Return the changelog position of what is stored, None when nothing ever was."""

    def clear(self) -> None:
        """Forget all data and the position."""


class Store(Protocol):
    """The database of one agent on one worker: a backend a partition."""

    def partition(self, number: int) -> Backend:
        """Return the backend of a partition."""

    def size_bytes(self) -> int:
        """Return the bytes on disk."""

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
    """A ``StateView``: an ordered overlay of staged writes over a ``Backend``."""

    def __init__(self, backend: Backend, entry_bytes_max: int | None = None) -> None:
        self._backend = backend
        self._entry_bytes_max = entry_bytes_max
        self._staged: dict[bytes, bytes | None] = {}
        self._order: list[bytes] = []  # sorted keys of _staged, so that a scan merges without sorting
        self._marks: list[dict[bytes, bytes | _Absent | None]] = []

    def get(self, key: bytes) -> bytes | None:
        """See ``StateView``."""
        if key in self._staged:
            return self._staged[key]
        return self._backend.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``StateView``."""
        if not self._staged:
            return self._backend.multi_get(keys)
        missing = [key for key in keys if key not in self._staged]
        fetched = dict(zip(missing, self._backend.multi_get(missing), strict=True)) if missing else {}
        return [self._staged[key] if key in self._staged else fetched[key] for key in keys]

    def put(self, key: bytes, value: bytes) -> None:
        """See ``StateView``. Raises EffectTooLarge when the changelog would not take the entry."""
        if self._entry_bytes_max is not None:
            size_bytes = len(key) + len(value) + RECORD_OVERHEAD_BYTES
            if size_bytes > self._entry_bytes_max:
                raise EffectTooLarge("state value", size_bytes, self._entry_bytes_max)
        self._stage(key, value)

    def delete(self, key: bytes) -> None:
        """See ``StateView``."""
        self._stage(key, None)

    def scan(self, start: bytes, end: bytes, limit: int) -> Iterator[tuple[bytes, bytes]]:
        """See ``StateView``."""
        low, high = bisect_left(self._order, start), bisect_left(self._order, end)
        overlay = self._order[low:high]
        if not overlay:
            return iter(self._backend.scan(start, end, limit))
        # Each staged key can hide at most one committed pair, so this many are enough.
        committed = dict(self._backend.scan(start, end, limit + len(overlay)))
        committed.update((key, value) for key in overlay if (value := self._staged[key]) is not None)
        for key in overlay:
            if self._staged[key] is None:
                committed.pop(key, None)
        return iter(sorted(committed.items())[:limit])

    def savepoint(self) -> None:
        """Begin an event: what is staged after this can be undone alone. Savepoints nest."""
        self._marks.append({})

    def keep(self) -> None:
        """Keep what was staged since the last savepoint."""
        undo = self._marks.pop()
        if self._marks:
            for key, value in undo.items():
                self._marks[-1].setdefault(key, value)

    def undo(self) -> None:
        """Take back what was staged since the last savepoint."""
        for key, value in self._marks.pop().items():
            if isinstance(value, _Absent):
                del self._staged[key]
                del self._order[bisect_left(self._order, key)]
            else:
                self._staged[key] = value

    @property
    def staged(self) -> Mapping[bytes, bytes | None]:
        """What the unit of work would write; None deletes."""
        return self._staged

    def drop(self) -> None:
        """Forget all that is staged."""
        self._staged = {}
        self._order = []
        self._marks = []

    def _stage(self, key: bytes, value: bytes | None) -> None:
        if key not in self._staged:
            insort(self._order, key)
            if self._marks:
                self._marks[-1].setdefault(key, _ABSENT)
        elif self._marks:
            self._marks[-1].setdefault(key, self._staged[key])
        self._staged[key] = value


class _Absent:
    """Marks a key that was not staged when the savepoint began."""


_ABSENT = _Absent()
