"""Key-value state that expires: a value is kept for a TTL after its last write, in event time."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from state.binary import after
from state.ttl import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from state.store import StateView

_HEAD = struct.Struct(">qq")  # when the value expires, and under which time its entry stands in the index


@dataclass(frozen=True, slots=True)
class KeyValueOptions:
    """How long a value is kept, in event time."""

    ttl_ms: int = 3_600_000
    """A value is gone so long after the latest time at which it was written."""

    def __post_init__(self) -> None:
        if self.ttl_ms <= 0:
            raise ValueError(f"ttl_ms must be positive; scope.state itself keeps without one: {self}")


class KeyValue(NamedTuple):
    """A key with its value."""

    key: bytes
    value: bytes


class KeyValues:
    """Values by key. What has expired is not seen any more, at once; ``expire`` deletes it, in bounded bites.

    Each value has one entry in the index of due times, which a refresh leaves where it is: a key that is
    written a thousand times within its TTL costs one entry. When the entry falls due, it is moved on to when
    the value expires. So there are as many entries as values, and disk and changelog are bounded by what is
    alive.

    Times are microseconds: ``time_us`` is what ``Watermark.see`` returned of the record that writes, and
    ``watermark_us`` is ``Watermark.now_us``.
    """

    def __init__(self, prefix: bytes, options: KeyValueOptions) -> None:
        self._data = prefix + b"v"
        self._index = ExpiryIndex(prefix + b"x")
        self._ttl_us = options.ttl_ms * 1000

    def get(self, view: StateView, key: bytes, watermark_us: int) -> bytes | None:
        """Return the value of ``key``, None when there is none or it has expired."""
        return _alive(view.get(self._data + key), watermark_us)

    def get_many(self, view: StateView, keys: Sequence[bytes], watermark_us: int) -> list[bytes | None]:
        """Return the values of ``keys``, in their order."""
        return [_alive(stored, watermark_us) for stored in view.multi_get([self._data + key for key in keys])]

    def put(self, view: StateView, time_us: int, key: bytes, value: bytes) -> None:
        """Set the value of ``key``; a ``time_us`` before that of a write before does not shorten its life."""
        self._write(view, time_us, key, value, view.get(self._data + key))

    def add(
        self,
        view: StateView,
        time_us: int,
        key: bytes,
        watermark_us: int,
        fold: Callable[[bytes | None], bytes],
    ) -> bytes:
        """Fold an event into the value of its key, with one read; return the new value.

        ``fold`` is given the value (None = there is none, or it has expired) and returns the new one.
        """
        stored = view.get(self._data + key)
        value = fold(_alive(stored, watermark_us))
        self._write(view, time_us, key, value, stored)
        return value

    def add_batch(
        self,
        view: StateView,
        times_us: Sequence[int],
        keys: Sequence[bytes],
        watermarks_us: Sequence[int],
        fold: Callable[[list[bytes | None]], Sequence[bytes]],
    ) -> None:
        """Fold many partial results into the values of their keys, with one read and one write.

        Each row is one key, with the latest time of what was added up for it, and the watermark at the first
        of it: no two rows may name the same. ``fold`` is given the values as of those watermarks (None =
        there is none, or it has expired) and returns the new ones. A silence within a batch ends no value.
        """
        stored = view.multi_get([self._data + key for key in keys])
        values = fold(list(map(_alive, stored, watermarks_us)))
        changes: dict[bytes, bytes | None] = {}
        for time_us, key, value, before in zip(times_us, keys, values, stored, strict=True):
            changes |= self._written(time_us, key, value, before)
        view.put_many(list(changes), list(changes.values()))

    def delete(self, view: StateView, key: bytes) -> None:
        """Take a key out, if it is there."""
        stored = view.get(self._data + key)
        if stored is not None:
            self._index.remove(view, _HEAD.unpack_from(stored)[1], key)
            view.delete(self._data + key)

    def of(self, view: StateView, prefix: bytes, watermark_us: int, limit: int) -> list[KeyValue]:
        """Return the values whose key begins with ``prefix``, in key order, of at most ``limit`` stored."""
        begin = self._data + prefix
        return [
            KeyValue(stored[len(self._data) :], found)
            for stored, value in view.scan(begin, after(begin), limit)
            if (found := _alive(value, watermark_us)) is not None
        ]

    def next_expiry_us(self, view: StateView) -> int | None:
        """Return the watermark at which the next value may expire (a refresh moves it), None without any."""
        return self._index.earliest_us(view)

    def expire(self, view: StateView, watermark_us: int, limit: int) -> list[KeyValue]:
        """Delete what has expired, of at most ``limit`` values that are looked at; return it, each once.

        What was written anew after it had expired, and before this came to it, is not told: where that
        matters call this before the record's own write, as for windows.
        """
        due = self._index.due(view, watermark_us, limit)
        gone = []
        stored = view.multi_get([self._data + key for _, key in due])
        for (entry_us, key), value in zip(due, stored, strict=True):
            self._index.remove(view, entry_us, key)
            if value is None:
                continue  # the changelog was cleaned up of it, and not yet of its entry
            due_us, _ = _HEAD.unpack_from(value)
            if due_us > watermark_us:  # refreshed since; deleted on the entry's word it would be lost
                self._index.put(view, due_us, key)
                view.put(self._data + key, _HEAD.pack(due_us, due_us) + value[_HEAD.size :])
            else:
                view.delete(self._data + key)
                gone.append(KeyValue(key, value[_HEAD.size :]))
        return gone

    def _write(self, view: StateView, time_us: int, key: bytes, value: bytes, before: bytes | None) -> None:
        changes = self._written(time_us, key, value, before)
        view.put_many(list(changes), list(changes.values()))

    def _written(
        self, time_us: int, key: bytes, value: bytes, before: bytes | None
    ) -> dict[bytes, bytes | None]:
        """Return what a write changes: the value, and its entry in the index if it has none to rely on.

        A refresh leaves the entry where it is, for ``expire`` to move, unless its time has passed by now: a
        changelog that deletes by age may have lost it.
        """
        due_us = entry_us = max(time_us, 0) + self._ttl_us
        changes: dict[bytes, bytes | None] = {}
        if before is not None:
            before_us, before_entry_us = _HEAD.unpack_from(before)
            due_us = entry_us = max(due_us, before_us)
            if before_entry_us > time_us:
                entry_us = before_entry_us
            else:
                changes[self._index.key(before_entry_us, key)] = None
        if before is None or changes:
            changes[self._index.key(entry_us, key)] = b""
        changes[self._data + key] = _HEAD.pack(due_us, entry_us) + value
        return changes


def _alive(stored: bytes | None, watermark_us: int) -> bytes | None:
    if stored is None or _HEAD.unpack_from(stored)[0] <= watermark_us:
        return None
    return stored[_HEAD.size :]
