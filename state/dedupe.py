"""A set of what was seen, in groups that are forgotten as a whole: de-duplication until end + TTL."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from state.store import StateView

_NOTE = struct.Struct(">q")
_SEPARATOR = b"\x00"


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
