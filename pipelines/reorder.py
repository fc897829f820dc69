"""The reorder buffer: events of producer-numbered streams that wait in the store for a missing seq."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from schemas.record import UNREADABLE, Record, headers_bytes
from state.binary import (
    CorruptValue,
    pack_headers,
    pack_texts,
    pack_time,
    unpack_headers,
    unpack_text,
    unpack_time,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.record import Headers
    from state.store import StateView

_HEAD: Final = struct.Struct(">qqqqq")
_PAGE: Final = 64


@dataclass(frozen=True, slots=True)
class Waiting:
    """One event that waits: seq, record as fetched, effective time, the broker's clock then, epoch."""

    seq: int
    record: Record
    at_us: int
    arrived_us: int
    epoch: int

    @property
    def size_bytes(self) -> int:
        """What counts against the bound of the buffer."""
        return len(self.record.value or b"") + headers_bytes(self.record.headers)


class ReorderBuffer:
    """Waiting events by (stream, seq). The record's own bytes are kept, so that a dead letter has them."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix

    def put(self, view: StateView, key: bytes, waiting: Waiting) -> None:
        """Have an event wait."""
        record = waiting.record
        offset, headers = record.offset, b""
        if record.headers or record.headers is UNREADABLE:
            offset, headers = ~offset, pack_headers(record.headers)  # no offset is below zero: they follow
        head = _HEAD.pack(offset, record.timestamp_us, waiting.at_us, waiting.arrived_us, waiting.epoch)
        data = head + pack_texts(record.topic) + headers + (record.value or b"")
        view.put(self._at(key, waiting.seq), data)

    def get(self, view: StateView, partition: int, key: bytes, seq: int) -> Waiting | None:
        """Return the event that waits under ``seq``."""
        data = view.get(self._at(key, seq))
        return None if data is None else _read(partition, key, seq, data)

    def first(self, view: StateView, partition: int, key: bytes) -> Waiting | None:
        """Return the waiting event with the lowest seq."""
        return next(self._page(view, partition, key, 1), None)

    def delete(self, view: StateView, key: bytes, seq: int) -> None:
        """Take an event out."""
        view.delete(self._at(key, seq))

    def take_all(self, view: StateView, partition: int, key: bytes) -> Iterator[Waiting]:
        """Take out and give all events of a stream, by seq."""
        while page := list(self._page(view, partition, key, _PAGE)):
            for waiting in page:
                self.delete(view, key, waiting.seq)
                yield waiting

    def _page(self, view: StateView, partition: int, key: bytes, limit: int) -> Iterator[Waiting]:
        start = self._prefix + key
        for at, data in view.scan(start + b"\x00", start + b"\x01", limit):
            yield _read(partition, key, unpack_time(at, len(start) + 1), data)

    def _at(self, key: bytes, seq: int) -> bytes:
        return self._prefix + key + b"\x00" + pack_time(seq)


def _read(partition: int, key: bytes, seq: int, data: bytes) -> Waiting:
    if len(data) < _HEAD.size:
        raise CorruptValue(f"waiting event {seq} of {key!r} has {len(data)} bytes")
    offset, timestamp_us, at_us, arrived_us, epoch = _HEAD.unpack_from(data)
    topic, at = unpack_text(data, _HEAD.size)
    headers: Headers = ()
    if offset < 0:
        offset = ~offset
        headers, at = unpack_headers(data, at)
    record = Record(topic, partition, offset, timestamp_us, key, data[at:], headers)
    return Waiting(seq, record, at_us, arrived_us, epoch)
