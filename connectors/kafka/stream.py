"""What an agent iterates over: events one by one, or a partition's batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import faust

from connectors.kafka.aside import ProcessDied, SetAside, put_aside
from connectors.kafka.chunk import EventChunk, Records
from connectors.kafka.columns import ColumnChunk
from connectors.kafka.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pyarrow as pa

    from connectors.kafka.coordinator import Coordinator
    from connectors.kafka.lease import Lease
    from schemas.record import Record


_Chunk = TypeVar("_Chunk", EventChunk, ColumnChunk)


@dataclass(frozen=True, slots=True)
class ColumnBatch:
    """Consecutive records of one partition as Arrow columns, in offset order, and the scope for effects."""

    columns: pa.RecordBatch
    """A row a record: the fields of the source's schema."""
    records: Records | Sequence[Record]
    """The rows as they stand in the log, each made when it is asked for."""
    scope: Any
    topic: str
    partition: int
    next_offset: int
    """Where the partition stands after this batch."""

    def __len__(self) -> int:
        return len(self.records)

    def timestamps_us(self) -> list[int]:
        """Return the broker's append time of each row, microseconds since the epoch."""
        records = self.records
        if isinstance(records, Records):
            return records.timestamps_us()
        return [record.timestamp_us for record in records]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one partition, in offset order, and the scope for their effects."""

    items: Sequence[tuple[Record, Any]]
    """Each record with what the source's ``decode`` gave: an event or a row, None for a tombstone, or the
    ``WireError`` that says why it does not decode.
    """
    scope: Any
    topic: str
    partition: int
    next_offset: int
    """Where the partition stands after this batch."""


class Stream(faust.Stream[Any]):
    """A Faust stream whose items come from the role's coordinator; an item asked for = the last one done.

    ``async for event in stream`` gives typed events; what does not decode becomes a dead letter, or stops
    its partition, by the policy of the source.
    ``async for batch in stream.batches()`` gives all there is of one partition, errors among it.
    """

    _lease: Lease | None = None
    _one_by_one: AsyncIterator[Any] | None = None
    scope: Any = None
    """Scope of the event in hand."""
    record: Record | None = None
    """Record of the event in hand."""

    @property
    def _coordinator(self) -> Coordinator:
        coordinator: Coordinator = self.app.coordinator
        return coordinator

    @property
    def _topic(self) -> str:
        name: str = self.channel.get_topic_name()
        return name

    def __aiter__(self) -> AsyncIterator[Any]:
        """Begin anew: after a failure the coordinator has taken back what was in hand."""
        self._register()
        return self._events()

    async def __anext__(self) -> Any:
        """Give the next event to ``anext``; ``async for`` does not come by here."""
        if self._one_by_one is None:
            self._one_by_one = aiter(self)
        return await anext(self._one_by_one)

    async def _events(self) -> AsyncIterator[Any]:
        """Give events; a generator, as C runs it in a third of the time that ``__anext__`` would take."""
        while True:
            lease = self._lease = await self._coordinator.take(self._topic)
            self._expect(EventChunk, "stream.record_batches()")
            self.scope = lease.scope
            while not lease.void and (item := lease.next_item()) is not None:
                self.record, event = item
                if isinstance(event, Exception):
                    self._put_aside(self.record, event)
                else:
                    yield event
            if not lease.void:
                self._coordinator.done(self._topic)

    async def batches(self) -> AsyncIterator[Batch]:
        """Give batches of one partition each.

        Bound by ``chunk_events_max``; the effects of a batch that raises are undone, it is cut in halves
        until the event that fails is alone.
        """
        self._register()
        while True:
            lease = self._lease = await self._coordinator.take(self._topic)
            chunk = self._expect(EventChunk, "stream.record_batches()")
            lease.begin()
            items = self._kept(chunk) if chunk.has_asides else chunk.items
            if items:
                yield Batch(items, lease.scope, *chunk.source, chunk.next_offset)
            self._coordinator.done(self._topic)

    async def record_batches(self) -> AsyncIterator[ColumnBatch]:
        """Give batches of one partition as Arrow columns; what does not decode becomes a dead letter.

        As ``batches``: a batch that raises is undone and cut in halves until the record that fails is alone.
        The agent's source must be declared with ``columns``.
        """
        self._register()
        while True:
            lease = self._lease = await self._coordinator.take(self._topic)
            chunk = self._expect(ColumnChunk, "stream, or stream.batches()")
            lease.begin()
            for record, error in chunk.errors:
                self._put_aside(record, error)
            if chunk.batch.num_rows:
                yield ColumnBatch(chunk.batch, chunk.records, lease.scope, *chunk.source, chunk.next_offset)
            self._coordinator.done(self._topic)

    def _kept(self, chunk: EventChunk) -> Sequence[tuple[Record, Any]]:
        """Return what the agent of a batch is given: what is set aside is not its to decide."""
        for record, item in chunk.items:
            if isinstance(item, SetAside):
                self._put_aside(record, item)
        return [(record, item) for record, item in chunk.items if not isinstance(item, SetAside)]

    def _put_aside(self, record: Record, error: Exception) -> None:
        """Make a dead letter, or fail an agent whose events must not be passed over but by an operator."""
        assert self._lease is not None
        by_operator = isinstance(error, SetAside) and not isinstance(error, ProcessDied)
        if self._lease.strict and not by_operator:
            raise error
        put_aside(self._lease.scope, record, error)

    def _expect(self, kind: type[_Chunk], instead: str) -> _Chunk:
        """Return the chunk in hand; an agent that asks for the other kind is wrong for every event."""
        assert self._lease is not None
        chunk = self._lease.chunk
        if isinstance(chunk, kind):
            return chunk
        error = NotSupported(f"iterating so over {self._topic}", f"its source is declared for {instead}")
        self._coordinator.stop_for(error)
        raise error

    def _register(self) -> None:
        self._lease = None
        # Iterating over a topic is what tells Faust's conductor to subscribe to it.
        self.app.topics.add(self.channel)
