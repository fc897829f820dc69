"""Helpers of the stores' binary codecs: big-endian times that sort, and texts with their length in front."""

from __future__ import annotations

import struct

from state.errors import StateError

_TIME = struct.Struct(">q")
_LENGTH = struct.Struct(">H")
TEXT_BYTES_MAX = 0xFFFF


class CorruptValue(StateError):
    """A stored value cannot be read: the store is damaged or was written by a newer version."""

    fatal = True  # no event's fault: as a dead letter it would take every event of the partition with it
    remedy = (
        "Stop the worker, move the partition's state away and start again: it is restored from the "
        "changelog. If the restored state cannot be read either, run the version that wrote it."
    )


def pack_time(time_us: int) -> bytes:
    """Return 8 bytes that sort as the times do; times before 1970 do not occur."""
    return _TIME.pack(max(time_us, 0))


def unpack_time(data: bytes, at: int = 0) -> int:
    """Return the time at byte ``at``, microseconds."""
    return int(_TIME.unpack_from(data, at)[0])


def pack_texts(*texts: str) -> bytes:
    """Return the texts one after another, each cut at 65,535 bytes."""
    parts: list[bytes] = []
    for text in texts:
        data = text.encode()
        if len(data) > TEXT_BYTES_MAX:
            data = data[:TEXT_BYTES_MAX].decode(errors="ignore").encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def unpack_text(data: bytes, at: int) -> tuple[str, int]:
    """Return the text at byte ``at`` and where the next value begins.

    Raises:
        CorruptValue: the text is cut short.
    """
    if at + 2 > len(data):
        raise CorruptValue(f"a text is missing at byte {at} of {len(data)}")
    end = at + 2 + int(_LENGTH.unpack_from(data, at)[0])
    if end > len(data):
        raise CorruptValue(f"a text at byte {at} is cut short: {end} of {len(data)} bytes")
    return data[at + 2 : end].decode(), end


def after(prefix: bytes) -> bytes:
    """Return the least key that is greater than every key with ``prefix`` (which is not all 0xFF)."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1])
