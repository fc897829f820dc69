"""A dict whose latest steps can be taken back: what is staged in a unit of work, under its savepoints."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

K = TypeVar("K")
V = TypeVar("V")


class _Absent:
    """Stands in the journal for a key that was not there."""


_ABSENT: Final = _Absent()


class Journaled(Generic[K, V]):
    """Last values by key. A savepoint is a place in the journal of what was there before each write.

    An event agent sets one savepoint an event: setting and keeping it costs a list operation or two, whatever
    the event does; only ``undo`` walks back.
    """

    __slots__ = ("_journal", "_marks", "data", "forget")

    def __init__(self) -> None:
        self.data: dict[K, V] = {}
        """To be read; written by ``put`` alone."""
        self._journal: list[tuple[K, V | _Absent]] = []
        self.forget = self._journal.clear
        """Keep the one step that there is and begin the next: its savepoint stands where the other stood."""
        self._marks: list[int] = []

    def put(self, key: K, value: V) -> None:
        """Set a value, the last one of its key."""
        if self._marks:
            self._journal.append((key, self.data.get(key, _ABSENT)))
        self.data[key] = value

    def put_many(self, values: Mapping[K, V]) -> None:
        """Set many values; what costs is one entry of the journal each, and nothing without a savepoint."""
        if self._marks:
            self._journal.extend(zip(values, map(self.data.get, values, repeat(_ABSENT)), strict=False))
        self.data.update(values)

    def savepoint(self) -> None:
        """Begin a step that can be undone alone. Savepoints nest."""
        self._marks.append(len(self._journal))

    def keep(self) -> None:
        """Keep the step, as a part of the one that is around it."""
        self._marks.pop()
        if not self._marks:
            self._journal.clear()

    def undo(self) -> None:
        """Take the step back."""
        mark = self._marks.pop()
        for key, before in reversed(self._journal[mark:]):
            if isinstance(before, _Absent):
                del self.data[key]
            else:
                self.data[key] = before
        del self._journal[mark:]

    def clear(self) -> None:
        """Forget all, savepoints too. What was read from ``data`` stays with its reader."""
        self.data = {}
        self._journal.clear()
        self._marks.clear()
