"""Sets of what was seen: de-duplication for a TTL, or of groups that are forgotten as a whole."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from state.binary import pack_time, unpack_time
from state.ttl import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from state.store import StateView

_NOTE = struct.Struct(">q")
_SEPARATOR = b"\x00"


@dataclass(frozen=True, slots=True)
class SeenOptions:
    """How long what was seen is known, in event time."""

    ttl_ms: int = 3_600_000
    """So long after it came first it is new again: as long as a producer may repeat itself, and no longer."""

    def __post_init__(self) -> None:
        if self.ttl_ms <= 0:
            raise ValueError(f"ttl_ms must be positive: {self}")


class Seen:
    """Members (event ids) that were seen within a TTL. A duplicate does not prolong it: one write a member.

    What has expired is not known any more, at once; ``expire`` deletes it, in bounded bites. Times are those
    of ``state.keyvalue.KeyValues``.
    """

    def __init__(self, prefix: bytes, options: SeenOptions) -> None:
        self._data = prefix + b"m"
        self._index = ExpiryIndex(prefix + b"x")
        self._ttl_us = options.ttl_ms * 1000

    def add(self, view: StateView, time_us: int, member: bytes, watermark_us: int) -> bool:
        """Take a member in; tell whether it is new: False for a duplicate, which changes nothing."""
        return not self.add_batch(view, [time_us], [member], [watermark_us])

    def add_batch(
        self, view: StateView, times_us: Sequence[int], members: Sequence[bytes], watermarks_us: Sequence[int]
    ) -> list[int]:
        """Take a batch in with one read and one write; return the rows that are duplicates.

        A row is judged at its own watermark (``state.columns.see_all``), and may repeat one before it in the
        batch: how records are cut into batches makes no difference.
        """
        names = [self._data + member for member in members]
        known = dict(zip(names, view.multi_get(names), strict=True))
        changes: dict[bytes, bytes | None] = {}
        duplicates = []
        rows = zip(names, members, times_us, watermarks_us, strict=True)
        for row, (name, member, time_us, watermark_us) in enumerate(rows):
            stored = known[name]
            if stored is not None:
                until_us = unpack_time(stored)
                if until_us > watermark_us:
                    duplicates.append(row)
                    continue
                changes[self._index.key(until_us, member)] = None
            until_us = max(time_us, 0) + self._ttl_us
            known[name] = changes[name] = pack_time(until_us)
            changes[self._index.key(until_us, member)] = b""
        if changes:
            view.put_many(list(changes), list(changes.values()))
        return duplicates

    def knows(self, view: StateView, member: bytes, watermark_us: int) -> bool:
        """Tell whether a member was seen, and take nothing in."""
        stored = view.get(self._data + member)
        return stored is not None and unpack_time(stored) > watermark_us

    def next_expiry_us(self, view: StateView) -> int | None:
        """Return the watermark at which the next member is forgotten, None when there is none."""
        return self._index.earliest_us(view)

    def expire(self, view: StateView, watermark_us: int, limit: int) -> int:
        """Delete members whose TTL is over, of at most ``limit`` entries; return how many were looked at."""
        due = self._index.due(view, watermark_us, limit)
        stored = view.multi_get([self._data + member for _, member in due])
        for (due_us, member), until in zip(due, stored, strict=True):
            self._index.remove(view, due_us, member)
            # The changelog may be cleaned up of a member before its entry: taken in anew, it is not gone.
            if until is not None and unpack_time(until) <= watermark_us:
                view.delete(self._data + member)
        return len(due)


class DedupeSet:
    """Members of groups (event ids of streams), each with a number to note (the seq it was given).

    Keys are ``prefix + group + 0x00 + member``: a group's members lie side by side, so forgetting one is
    a range scan, and one due time a group (in the owner's ``ExpiryIndex``) is enough however many members
    it has. A group must not contain 0x00. Members are put in and read under their ``key``, many at once.
    """

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix

    def key(self, group: bytes, member: bytes) -> bytes:
        """Return the store key of a member; its value is a note."""
        return self._prefix + group + _SEPARATOR + member

    def forget(self, view: StateView, group: bytes, limit: int) -> list[bytes]:
        """Delete at most ``limit`` members of a group; return their keys. Fewer than that: it is gone."""
        start = self._prefix + group
        keys = [key for key, _ in view.scan(start + _SEPARATOR, start + b"\x01", limit)]
        for key in keys:
            view.delete(key)
        return keys


def write_note(note: int) -> bytes:
    """Return the stored form of a note."""
    return _NOTE.pack(note)


def read_note(value: bytes) -> int:
    """Return the note of a stored value."""
    return int(_NOTE.unpack(value)[0])
