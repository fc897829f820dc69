"""Migrations of the state of sluicegate's own roles, applied by name as a user's are."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from schemas.topics import AGGREGATE_PARTIALS_CHANGELOG, AGGREGATE_WINDOWS_CHANGELOG
from state.schema import Migration

if TYPE_CHECKING:
    from collections.abc import Iterator

_USAGE_1: Final = struct.Struct(">BB10q")
_USAGE_2: Final = struct.Struct(">BB13q")


def _usage_told_apart(key: bytes, value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give windows the sums of what was estimated, and of what nobody counted; none of it was told: 0."""
    if key.startswith(b"ww"):
        _, final, *numbers = _USAGE_1.unpack(value)
        value = _USAGE_2.pack(2, final, *numbers[:8], 0, 0, 0, *numbers[8:])
    yield key, value


MIGRATIONS: Final = tuple(
    Migration("usage_told_apart", changelog, from_version=1, to_version=2, change=_usage_told_apart)
    for changelog in (AGGREGATE_PARTIALS_CHANGELOG, AGGREGATE_WINDOWS_CHANGELOG)
)
