"""What an agent iterates over: events one by one, or a partition's batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import faust
from faust.agents.agent import Agent
from faust.events import Event
from faust.exceptions import Skip
from faust.streams import _current_event
from faust.types.tuples import Message
from mode.utils.futures import maybe_async

from connectors.kafka.aside import ProcessDied, SetAside, put_aside
from connectors.kafka.chunk import EventChunk, Records
from connectors.kafka.columns import ColumnChunk
from connectors.kafka.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import pyarrow as pa

    from connectors.kafka.coordinator import Coordinator
    from connectors.kafka.lease import Lease
    from schemas.record import Headers, Record


_Chunk = TypeVar("_Chunk", EventChunk, ColumnChunk)

_LOG_APPEND_TIME = 1  # Kafka's number for it: all topics of the table are stamped by the broker
_BY_STEP = (
    "iterate over stream, stream.take(), or stream.batches(): a step is done when the next is asked for"
)
_BY_TOPIC = (
    "declare the other topic with app.source() and an agent of its own, and write to it by scope.emit(): it "
    "commits with the event's offset"
)
_JOINS = "keep what is to be joined in scope.state, and look it up there"


def _refused(name: str, instead: str) -> Callable[..., Any]:
    """Return a method of Faust's streams that is not in use here: it stops the worker, and says why."""

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise NotSupported(f"stream.{name}", instead)

    refuse.__name__, refuse.__doc__ = name, f"Not in use: {instead}."
    return refuse


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

    def headers(self) -> Sequence[Headers]:
        """Return the headers of each row, read when asked for: names and values in their order."""
        records = self.records
        return records.headers() if isinstance(records, Records) else [record.headers for record in records]


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

    Of Faust's own, ``events()``, ``items()``, ``enumerate()``, ``take()``, ``filter()``, ``add_processor()``
    and ``current_event`` hold with the same step; what would send, or acknowledge by itself, is refused.
    """

    _lease: Lease | None = None
    _one_by_one: AsyncIterator[Any] | None = None
    _begun = False  # to iterate
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
        processed = bool(self._processors)
        while True:
            lease = self._lease = await self._coordinator.take(self._topic)
            self._expect(EventChunk, "stream.record_batches()")
            self.scope = lease.scope
            while await self._coordinator.goes_on(lease):
                while not lease.void and (item := lease.next_item()) is not None:
                    self.record, event = item
                    if isinstance(event, Exception):
                        self._put_aside(self.record, event)
                        continue
                    if processed:
                        try:
                            event = await self._process(event)
                        except Skip:
                            lease.scope.count("filtered")
                            continue
                    yield event
            if not lease.void:
                self._coordinator.done(self._topic)

    async def take(self, max_: int, within: Any = None) -> AsyncIterator[list[Any]]:  # noqa: ARG002
        """Give lists of at most ``max_`` events of one partition, whose effects are one step.

        All there is at once: ``within`` bounds how long Faust waits for a list to fill, and here nothing is
        waited for. A list that raises is undone and halved until the event that fails is alone.
        """
        self._register()
        while True:
            lease = self._lease = await self._coordinator.take(self._topic)
            self._expect(EventChunk, "stream.record_batches()")
            self.scope = lease.scope
            while await self._coordinator.goes_on(lease):
                while not lease.void and (items := lease.next_items(max_)):
                    values = []
                    for record, event in items:
                        if isinstance(event, Exception):
                            self._put_aside(record, event)
                            continue
                        try:
                            values.append(await self._process(event))
                        except Skip:
                            lease.scope.count("filtered")
                    if values:
                        yield values
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
        raise NotSupported(f"iterating so over {self._topic}", f"its source is declared for {instead}")

    # -- what Faust's own methods stand on -------------------------------------------------------------

    def add_processor(self, processor: Any) -> None:
        """Have each value go by ``processor``, as ``filter`` does; for the next iteration over the stream.

        An agent that failed begins anew with the stream that it had, and adds its processors again: those of
        the iteration before are dropped.
        """
        if getattr(processor, "__func__", None) is Agent._maybe_unwrap_reply_request:  # noqa: SLF001
            return  # of an agent that yields: no event of ours is a request of Faust's
        if self._begun:
            self._processors.clear()
            self._begun = False
        super().add_processor(processor)

    async def _process(self, value: Any) -> Any:
        """Run the processors over a value; raises Skip for one that a filter does not let through."""
        for processor in self._processors:
            value = await maybe_async(processor(value))
        return value

    @property
    def current_event(self) -> Event | None:
        """The event in hand as Faust has it, made when asked for; None between two and with several."""
        record, lease = self.record, self._lease
        item = None if record is None or lease is None or lease.void else lease.in_hand
        if item is None:
            return None
        record, value = item
        seconds = record.timestamp_us / 1_000_000
        headers = list(record.headers) or None  # an event has them as a dict: of a name that repeats the last
        message = Message(
            record.topic, record.partition, record.offset, seconds, _LOG_APPEND_TIME, headers,
            record.key, record.value, None,
        )  # fmt: skip
        return Event(self.app, record.key, value, headers, message)

    noack = _refused("noack()", _BY_STEP)
    noack_take = _refused("noack_take()", _BY_STEP)
    take_events = _refused("take_events()", "stream.take() has the values, stream.batches() the records too")
    take_with_timestamp = _refused("take_with_timestamp()", "stream.batches() has record.timestamp_us")
    through = _refused("through()", _BY_TOPIC)
    echo = _refused("echo()", _BY_TOPIC)
    group_by = _refused("group_by()", _BY_TOPIC)
    combine = __and__ = _refused("combine()", _JOINS)
    join = left_join = inner_join = outer_join = _refused("join()", _JOINS)

    def _register(self) -> None:
        self._lease = self.record = None
        self._begun = True
        # ``faust.current_event()`` calls what stands there, in Faust a weak reference that each event sets.
        _current_event.set(lambda: self.current_event)
        # Iterating over a topic is what tells Faust's conductor to subscribe to it.
        self.app.topics.add(self.channel)
