"""The in-memory twins of a store and of its backend: for fast tests and agents without a disk."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from state.store import StoreFigures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from state.store import Position


class MemoryBackend:
    """A ``state.store.Backend`` in a dict with ordered keys."""

    def __init__(self) -> None:
        self._data: dict[bytes, bytes] = {}
        self._order: list[bytes] = []
        self._position: Position | None = None

    def get(self, key: bytes) -> bytes | None:
        """See ``Backend``."""
        return self._data.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Backend``."""
        return [self._data.get(key) for key in keys]

    def scan(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``Backend``."""
        low, high = bisect_left(self._order, start), bisect_left(self._order, end)
        return [(key, self._data[key]) for key in self._order[low : min(high, low + limit)]]

    def last(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """See ``Backend``."""
        low, high = bisect_left(self._order, start), bisect_left(self._order, end)
        return [(key, self._data[key]) for key in reversed(self._order[max(low, high - limit) : high])]

    def write(self, changes: Mapping[bytes, bytes | None], position: Position) -> None:
        """See ``Backend``."""
        for key, value in changes.items():
            if value is not None:
                if key not in self._data:
                    insort(self._order, key)
                self._data[key] = value
            elif self._data.pop(key, None) is not None:
                del self._order[bisect_left(self._order, key)]
        self._position = position

    def __len__(self) -> int:
        return len(self._data)

    def position(self) -> Position | None:
        """See ``Backend``."""
        return self._position

    def clear(self) -> None:
        """See ``Backend``."""
        self._data.clear()
        self._order.clear()
        self._position = None


class MemoryStore:
    """A ``state.store.Store`` without a disk; it keeps what it holds over ``close``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._backends: dict[int, MemoryBackend] = {}

    def partition(self, number: int) -> MemoryBackend:
        """See ``Store``."""
        return self._backends.setdefault(number, MemoryBackend())

    def figures(self) -> StoreFigures:
        """See ``Store``; nothing is on a disk."""
        return StoreFigures(0, 0, sum(len(backend) for backend in self._backends.values()))

    def close(self) -> None:
        """See ``Store``."""
