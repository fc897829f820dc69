"""Helpers of the stores' binary codecs: big-endian times that sort, and texts with their length in front."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from schemas.record import UNREADABLE
from state.errors import StateError

if TYPE_CHECKING:
    from schemas.record import Headers

_TIME = struct.Struct(">q")
_LENGTH = struct.Struct(">H")
_COUNT, _LENGTHS = struct.Struct(">i"), struct.Struct(">ii")
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
    """Return the text at byte ``at`` and where the next value begins. Raises as ``unpack_texts``."""
    (text,), at = unpack_texts(data, at, 1)
    return text, at


def unpack_texts(data: bytes, at: int, count: int) -> tuple[list[str], int]:
    """Return so many texts from byte ``at`` on, and where the next value begins.

    Raises:
        CorruptValue: one is cut short, or is no UTF-8.
    """
    texts = []
    for _ in range(count):
        start = at + _LENGTH.size
        end = start + int.from_bytes(data[at:start], "big")
        if end > len(data):
            raise CorruptValue(f"a text at byte {at} is cut short: {len(data)} bytes are there")
        try:
            texts.append(data[start:end].decode())
        except UnicodeDecodeError as error:
            raise CorruptValue(f"a text at byte {at} cannot be read: {error}") from None
        at = end
    return texts, at


def pack_headers(headers: Headers) -> bytes:
    """Return a record's headers, byte for byte: how many, and of each its lengths, name and value."""
    if headers is UNREADABLE:
        return _COUNT.pack(-1)
    parts = [_COUNT.pack(len(headers))]
    for name, value in headers:
        data = name.encode()
        parts += (_LENGTHS.pack(len(data), -1 if value is None else len(value)), data, value or b"")
    return b"".join(parts)


def unpack_headers(data: bytes, at: int) -> tuple[Headers, int]:
    """Return the headers at byte ``at`` and where the next value begins.

    Raises:
        CorruptValue: they are cut short.
    """
    found: list[tuple[str, bytes | None]] = []
    try:
        (count,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        for _ in range(count):
            name_bytes, value_bytes = _LENGTHS.unpack_from(data, at)
            middle = at + _LENGTHS.size + name_bytes
            name, at = data[at + _LENGTHS.size : middle].decode(), middle + max(value_bytes, 0)
            found.append((name, None if value_bytes < 0 else data[middle:at]))
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptValue(f"headers at byte {at} of {len(data)} cannot be read: {error}") from None
    if at > len(data):
        raise CorruptValue(f"headers are cut short: {at} of {len(data)} bytes")
    return (UNREADABLE if count < 0 else tuple(found)), at


def after(prefix: bytes) -> bytes:
    """Return the least key that is greater than every key with ``prefix`` (which is not all 0xFF)."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1])
