"""An index of due times over a store: what expires next is a range scan, not a walk over all keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from state.binary import after, pack_time, unpack_time

if TYPE_CHECKING:
    from state.store import StateView


class ExpiryIndex:
    """Entries ``prefix + due time + key``; who owns a key also keeps its due time, which is the truth.

    An entry says "look at this key then", not "delete it": the owner compares the entry with the due
    time that it keeps and ignores one that was moved. Deleting on the entry's word alone loses a key
    that was refreshed after the entry was read (Quix lost data so, twice).
    """

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._end = after(prefix)

    def key(self, due_us: int, key: bytes) -> bytes:
        """Return the store key of an entry, whose value is empty: for who writes many at once."""
        return self._prefix + pack_time(due_us) + key

    def put(self, view: StateView, due_us: int, key: bytes) -> None:
        """Enter ``key`` at ``due_us``."""
        view.put(self.key(due_us, key), b"")

    def remove(self, view: StateView, due_us: int, key: bytes) -> None:
        """Take the entry out."""
        view.delete(self.key(due_us, key))

    def due(self, view: StateView, now_us: int, limit: int) -> list[tuple[int, bytes]]:
        """Return at most ``limit`` entries with due time <= ``now_us``, earliest first."""
        if now_us < 0:
            return []
        at = len(self._prefix)
        pairs = view.first(self._prefix, self._prefix + pack_time(now_us + 1), limit)
        return [(unpack_time(entry, at), entry[at + 8 :]) for entry, _ in pairs]

    def earliest_us(self, view: StateView) -> int | None:
        """Return the earliest due time, None when there is none."""
        for entry, _ in view.first(self._prefix, self._end, 1):
            return unpack_time(entry, len(self._prefix))
        return None
