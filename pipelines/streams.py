"""What ingest remembers of one stream, and its binary form."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from state.binary import CorruptValue, pack_texts, unpack_text, unpack_texts

STREAM: Final = b"s"
"""Prefix of streams in the store."""
TYPES_MAX: Final = 64
"""Types counted by name a stream; what is beyond is counted under ``OTHER_TYPES``."""
OTHER_TYPES: Final = "other"
UPSTREAM_IDS_MAX: Final = 16


class Status(IntEnum):
    """Where a stream stands in ``open → data* → end``."""

    PENDING = 0
    """No ``open`` yet: events with a later seq wait for it in the reorder buffer."""
    OPEN = 1
    ENDED = 2
    """Known until its history is over, so that what comes late is told from what is unknown."""


@dataclass(slots=True)
class Stream:
    """One stream. Times are microseconds since the epoch, event time; 0 = not yet."""

    key: bytes
    kind: str
    status: Status = Status.PENDING
    numbered: bool = True
    """The producer numbers its events itself; else every seq it sends is -1."""
    members_gone: bool = False
    """The event ids were forgotten: end + TTL is over."""
    next_seq: int = 0
    """The output's next seq: ingest's own counter, contiguous from 0."""
    expected: int = 0
    """The producer's next seq."""
    epoch: int = 0
    attempt: int = 0
    opened_us: int = 0
    first_data_us: int = 0
    last_data_us: int = 0
    last_event_us: int = 0
    ended_us: int = 0
    longest_silence_us: int = 0
    started_at_us: int = 0
    """Effective time (see ``Watermark.see``) of ``open``: the total time-out counts from it."""
    active_at_us: int = 0
    """Effective time of the last accepted event: the idle time-out counts from it."""
    idle_timeout_us: int = 0
    total_timeout_us: int = 0
    forget_at_us: int = 0
    """The event ids are kept until then; set by the end."""
    unlist_at_us: int = 0
    """The stream is known, and listed in the index, until then; set by the end."""
    alarm_us: int = 0
    """Where the stream stands in the index of deadlines; never later than its next deadline."""
    hole_alarm_us: int = 0
    """The same in the index of holes, in broker append time."""
    waiting: int = 0
    """Events in the reorder buffer, with their bytes, and the broker append time since when the first
    hole is waited for."""
    waiting_bytes: int = 0
    waiting_since_us: int = 0
    total_bytes: int = 0
    cost_nanos: int = 0
    cost_known_events: int = 0
    cost_unknown_events: int = 0
    revision: int = 0
    """Revision of the structured record; counts from ``started_at_us``, so that it also grows over the
    lives of an id."""
    request_id: str = ""
    task_id: str = ""
    end_reason: str = ""
    upstream_ids: list[str] = field(default_factory=list)
    by_type: dict[str, list[int]] = field(default_factory=dict)
    """Type → [events, payload bytes]."""

    def deadline_us(self) -> int | None:
        """Return the event time at which something is due without a further event."""
        if self.status is Status.PENDING:
            return None
        if self.status is Status.ENDED:
            return self.unlist_at_us if self.members_gone else self.forget_at_us
        return min(self.active_at_us + self.idle_timeout_us, self.started_at_us + self.total_timeout_us)

    def hole_us(self, reorder_us: int) -> int | None:
        """Return the broker append time until which the first hole is waited for; None = there is none.

        What is waited for is a late delivery, so event time has no part in it: an event dated 2099, or
        a neighbour that is hours ahead, must not cut the wait short.
        """
        return self.waiting_since_us + reorder_us if self.waiting else None

    def tally(self, event_type: str, size_bytes: int) -> None:
        """Count an event of the output."""
        counted = self.by_type.get(event_type)
        if counted is None:
            name = event_type if len(self.by_type) < TYPES_MAX else OTHER_TYPES
            counted = self.by_type.setdefault(name, [0, 0])
        counted[0] += 1
        counted[1] += size_bytes
        self.total_bytes += size_bytes

    def name_upstream(self, upstream_id: str) -> None:
        """Remember an upstream call; the first ``UPSTREAM_IDS_MAX`` different ones are kept."""
        if upstream_id not in self.upstream_ids and len(self.upstream_ids) < UPSTREAM_IDS_MAX:
            self.upstream_ids.append(upstream_id)

    def shrink(self) -> None:
        """Drop what nobody asks of an ended stream, whose record is written: it is kept for days."""
        self.upstream_ids, self.by_type = [], {}
        self.request_id = self.task_id = ""


_VERSION: Final = 2
_FLAG_NUMBERED, _FLAG_MEMBERS_GONE, _STATUS_SHIFT = 1, 2, 4
_LONGS: Final = (  # in the order of the fields: a stream is made of them as they are read
    "next_seq", "expected", "epoch", "attempt", "opened_us", "first_data_us", "last_data_us", "last_event_us",
    "ended_us", "longest_silence_us", "started_at_us", "active_at_us", "idle_timeout_us", "total_timeout_us",
    "forget_at_us", "unlist_at_us", "alarm_us", "hole_alarm_us", "waiting", "waiting_bytes",
    "waiting_since_us", "total_bytes", "cost_nanos", "cost_known_events", "cost_unknown_events", "revision",
)  # fmt: skip
_HEAD: Final = struct.Struct(f">BB{len(_LONGS)}qBB")
_NUMBERS: Final = attrgetter(*_LONGS)
_COUNTS: Final = struct.Struct(">qq")


def write_stream(stream: Stream) -> bytes:
    """Return the stored form: version, flags, numbers, sizes of the lists, texts, counts by type."""
    flags = stream.status << _STATUS_SHIFT
    flags |= _FLAG_NUMBERED * stream.numbered | _FLAG_MEMBERS_GONE * stream.members_gone
    upstream_ids, by_type = stream.upstream_ids, stream.by_type
    return b"".join((
        _HEAD.pack(_VERSION, flags, *_NUMBERS(stream), len(upstream_ids), len(by_type)),
        _texts(stream.kind, stream.request_id, stream.task_id, stream.end_reason, *upstream_ids),
        *[_texts(name) + _COUNTS.pack(*counted) for name, counted in by_type.items()],
    ))  # fmt: skip


# A stream's stay the same, event after event: some 5 KiB each at worst, so 20 MiB.
_texts: Final = lru_cache(maxsize=4_096)(pack_texts)


def read_stream(key: bytes, data: bytes) -> Stream:
    """Return the stream of a stored form.

    Raises:
        CorruptValue: the bytes are cut short, or of a version that this code does not know.
    """
    if len(data) < _HEAD.size or data[0] != _VERSION:
        raise CorruptValue(f"state of stream {key!r}: {len(data)} bytes of version {data[:1].hex()}")
    _, flags, *numbers, upstreams, types = _HEAD.unpack_from(data)
    (kind, request_id, task_id, end_reason, *upstream_ids), at = unpack_texts(data, _HEAD.size, 4 + upstreams)
    values: list[Any] = [
        key, kind, Status(flags >> _STATUS_SHIFT), bool(flags & _FLAG_NUMBERED),
        bool(flags & _FLAG_MEMBERS_GONE), *numbers, request_id, task_id, end_reason, upstream_ids,
    ]  # fmt: skip
    stream = Stream(*values)
    for _ in range(types):
        name, at = unpack_text(data, at)
        if at + _COUNTS.size > len(data):
            raise CorruptValue(f"state of stream {key!r} is cut short at byte {at}")
        stream.by_type[name] = list(_COUNTS.unpack_from(data, at))
        at += _COUNTS.size
    return stream


KNOWN_MAX: Final = 4_096
"""Streams that ``KnownStreams`` holds, some 2 KiB each and 6 KiB at worst: 8 MiB, at worst 24."""
_KNOWN_BYTES_MAX: Final = 1_024
"""Of the stored form; most take 300. What has many types and upstream calls is decoded each time."""


class KnownStreams:
    """Streams as they were last written, so that those which come again soon need not be decoded.

    The stored form decides, and only a stream that was written as just these bytes is given for them. So it
    does not matter what became of the unit that wrote it: one that was undone, a restore or another owner
    leave other bytes in the store, and those are decoded.
    """

    def __init__(self, streams_max: int = KNOWN_MAX) -> None:
        self._streams_max = streams_max
        self._streams: dict[bytes, tuple[bytes, Stream]] = {}  # the longest unused first

    def __len__(self) -> int:
        return len(self._streams)

    def take(self, key: bytes, data: bytes) -> Stream:
        """Return the stream of a stored form, for the caller to change: it is not known any more.

        Raises CorruptValue as ``read_stream``.
        """
        known = self._streams.pop(key, None)
        return known[1] if known is not None and known[0] == data else read_stream(key, data)

    def write(self, stream: Stream) -> bytes:
        """Return the stored form, and know the stream by it: the caller changes it no more."""
        data = write_stream(stream)
        # Little comes after an end, and of those that ended there are many.
        if stream.status is Status.ENDED or len(data) > _KNOWN_BYTES_MAX:
            self._streams.pop(stream.key, None)
            return data
        self._streams[stream.key] = data, stream
        if len(self._streams) > self._streams_max:
            del self._streams[next(iter(self._streams))]
        return data
