"""The unit that travels from the poll thread to an agent: consecutive records of one partition, decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

from confluent_kafka import Message

from connectors.kafka.headers import headers_of
from schemas.record import Record, headers_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from connectors.kafka.aside import Judge
    from connectors.kafka.decoding import DecodeGuard
    from schemas.record import Headers

    Chunker = Callable[[int, "Records", DecodeGuard], "Chunk"]
    """Makes a chunk of an epoch and its records, none left out; called on the poll thread."""


_record: Callable[[Iterable[Any]], Record] = partial(tuple.__new__, Record)  # as Record._make, all in C
_JOINED_MAX = 256
"""Records up to which chunks that wait are handed out as one: to hand out costs as much as twenty events."""


class SourcePartition(NamedTuple):
    """A partition of an input topic, the topic's name as it stands in Kafka."""

    topic: str
    partition: int


class Chunk(Protocol):
    """Consecutive records of one partition with what they decode to; ``EventChunk`` or ``ColumnChunk``."""

    source: SourcePartition
    epoch: int
    """Which fetch this belongs to; a rewind or a rebalance makes older ones void."""
    next_offset: int
    """Where the partition stands after this chunk: behind the last record of the fetch it came from."""
    size_bytes: int
    """Bytes of its records: what the hand-over is bounded by, beside their number."""
    append_us: int
    """Broker append time of its last record, microseconds."""
    attempts: int
    """How often handling it has failed."""
    handback: int
    """Number of the hand-back that its one record is (``handbacks.py``); -1 = it was fetched. Its record
    stands before where the partition is, which it does not move."""

    def __len__(self) -> int:
        """How many records."""

    @property
    def first(self) -> Record:
        """The record with the lowest offset."""

    def split(self, at: int) -> tuple[Chunk, Chunk]:
        """Cut into about the first ``at`` records and the rest; neither is empty."""

    def screened(self, judge: Judge) -> Chunk:
        """Return the chunk with the records set aside that ``judge`` says so of."""

    def joined(self, later: Chunk) -> Chunk | None:
        """Return one chunk of this one and what follows it, if that is as cheap as to hand out one."""


class Records:
    """Messages of one partition as a sequence of ``Record``, each made when it is asked for."""

    def __init__(self, source: SourcePartition, messages: Sequence[Message]) -> None:
        self.source = source
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        """One record, or a run of them."""
        if isinstance(index, slice):
            return Records(self.source, self._messages[index])
        message = self._messages[index]
        headers = headers_of((message,))
        return Record(
            *self.source,
            message.offset() or 0,
            message.timestamp()[1] * 1_000,
            message.key(),
            message.value(),
            () if headers is None else headers[0],
        )

    def __iter__(self) -> Iterator[Record]:
        # C makes them, without a line of ours for each: two thirds of the time.
        messages, (topic, partition) = self._messages, self.source
        headers = headers_of(messages)
        fields = zip(
            repeat(topic),
            repeat(partition),
            map(Message.offset, messages),
            [stamp * 1_000 for _, stamp in map(Message.timestamp, messages)],
            map(Message.key, messages),
            map(Message.value, messages),
            repeat(()) if headers is None else headers,
            strict=False,  # the repeats have no end
        )
        return map(_record, fields)

    @property
    def first(self) -> Record:
        """The record with the lowest offset."""
        return self[0]

    @property
    def next_offset(self) -> int:
        """Where the partition stands after them."""
        return (self._messages[-1].offset() or 0) + 1

    def values(self) -> list[bytes | None]:
        """Return the values alone."""
        return list(map(Message.value, self._messages))

    def keys(self, indexes: Iterable[int]) -> list[bytes | None]:
        """Return the keys of some records alone."""
        messages = self._messages
        return [messages[index].key() for index in indexes]

    def timestamps_us(self) -> list[int]:
        """Return the broker's append times alone, microseconds since the epoch."""
        return [stamp * 1_000 for _, stamp in map(Message.timestamp, self._messages)]

    def headers(self) -> Sequence[Headers]:
        """Return the headers alone."""
        return headers_of(self._messages) or [()] * len(self)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of all keys, values and headers; asked for by the cut into pieces and by the chunk."""
        messages = self._messages
        try:
            key_bytes = sum(map(len, map(Message.key, messages)))
        except TypeError:  # one has none; to look for it in each is what takes the time
            key_bytes = sum(len(message.key() or b"") for message in messages)
        headers = headers_of(messages)
        more_bytes = 0 if headers is None else sum(map(headers_bytes, headers))
        return sum(map(len, messages)) + key_bytes + more_bytes

    def pieces(self, bytes_max: int) -> list[Records]:
        """Cut into consecutive pieces of at most ``bytes_max`` bytes, or of one record that is larger."""
        if self.size_bytes <= bytes_max:
            return [self]
        pieces: list[list[Message]] = []
        left = 0
        for message, headers in zip(self._messages, self.headers(), strict=True):
            size_bytes = len(message) + len(message.key() or b"") + headers_bytes(headers)
            if size_bytes > left or not pieces:
                pieces.append([])
                left = bytes_max
            pieces[-1].append(message)
            left -= size_bytes
        return [Records(self.source, piece) for piece in pieces]


@dataclass(slots=True)
class EventChunk:
    """A ``Chunk`` of records one by one: each with what it decodes to, or the error that names why not."""

    source: SourcePartition
    epoch: int
    items: Sequence[tuple[Record, Any]]
    next_offset: int
    size_bytes: int = 0
    append_us: int = 0
    attempts: int = 0
    has_asides: bool = False
    """Some items are ``SetAside``."""
    handback: int = -1

    def __len__(self) -> int:
        return len(self.items)

    @property
    def first(self) -> Record:
        """See ``Chunk``."""
        return self.items[0][0]

    def split(self, at: int) -> tuple[EventChunk, EventChunk]:
        """See ``Chunk``; exactly at ``at``."""
        head, tail = self.items[:at], self.items[at:]
        head_bytes = min(sum(record.size_bytes for record, _ in head), self.size_bytes)
        rest_bytes = self.size_bytes - head_bytes
        append_us = head[-1][0].timestamp_us
        first = EventChunk(self.source, self.epoch, head, tail[0][0].offset, head_bytes, append_us)
        rest = EventChunk(self.source, self.epoch, tail, self.next_offset, rest_bytes, self.append_us)
        first.has_asides = rest.has_asides = self.has_asides
        return first, rest

    def joined(self, later: Chunk) -> EventChunk | None:
        """See ``Chunk``; small ones are, that nobody has handled yet."""
        if not isinstance(later, EventChunk) or self.epoch != later.epoch or self.attempts or later.attempts:
            return None
        if self.handback >= 0:  # nothing comes before one: it is put before what waits
            return None
        if len(self) + len(later) > _JOINED_MAX:
            return None
        return EventChunk(
            self.source,
            self.epoch,
            [*self.items, *later.items],
            later.next_offset,
            self.size_bytes + later.size_bytes,
            later.append_us,
            has_asides=self.has_asides or later.has_asides,
        )

    def screened(self, judge: Judge) -> EventChunk:
        """See ``Chunk``; they keep their places."""
        items = [(record, judge(record) or item) for record, item in self.items]
        if all(judged is item for (_, judged), (_, item) in zip(items, self.items, strict=True)):
            return self
        return replace(self, items=items, has_asides=True)


def events_of(decode: Callable[[Sequence[Record]], list[Any]]) -> Chunker:
    """Return a chunker over ``decode``, which gives for each record what it decodes to, or its error.

    One that raises is asked for each record alone: an event of its own would stop the worker, at each start.
    """

    def chunk(epoch: int, records: Records, guard: DecodeGuard) -> EventChunk:
        items: list[tuple[Record, Any]] = []
        has_asides = False
        for piece, aside in guard.pieces(records):
            rows = list(piece)
            has_asides = has_asides or aside is not None
            items += zip(rows, [aside] if aside is not None else _decoded(decode, rows), strict=True)
        last = items[-1][0]
        made = EventChunk(
            records.source, epoch, items, last.offset + 1, records.size_bytes, last.timestamp_us
        )
        made.has_asides = has_asides
        return made

    return chunk


def _decoded(decode: Callable[[Sequence[Record]], list[Any]], rows: Sequence[Record]) -> list[Any]:
    try:
        found = decode(rows)
    except Exception as raised:
        if is_no_fault_of_a_record(raised):
            raise
        error = raised
    else:
        if len(found) == len(rows):
            return found
        error = ValueError(f"{len(rows)} records were decoded to {len(found)} items")
    return [error] if len(rows) == 1 else [_decoded(decode, [row])[0] for row in rows]


def is_no_fault_of_a_record(error: Exception) -> bool:
    """Say whether an error may pass, or is to stop the worker, whichever record it is about."""
    return getattr(error, "transient", False) or getattr(error, "fatal", False)
