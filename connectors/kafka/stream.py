"""What an agent iterates over: events one by one, or a partition's batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faust

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from connectors.kafka.coordinator import Coordinator
    from connectors.kafka.lease import Lease
    from schemas.record import Record


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one partition, in offset order, and the scope for their effects."""

    items: Sequence[tuple[Record, Any]]
    """Each record with what it decodes to: an event, or the ``WireError`` that says why it does not."""
    scope: Any
    topic: str
    partition: int
    next_offset: int
    """Where the partition stands after this batch."""


class Stream(faust.Stream[Any]):
    """A Faust stream whose items come from the role's coordinator; an item asked for = the last one done.

    ``async for event in stream`` gives typed events; what does not decode becomes a dead letter.
    ``async for batch in stream.batches()`` gives all there is of one partition, errors among it.
    """

    _lease: Lease | None = None
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
        return self

    async def __anext__(self) -> Any:
        """Give the next event."""
        while True:
            if self._lease is None or self._lease.void:
                self._lease = await self._coordinator.take(self._topic)
            item = self._lease.next_item()
            if item is None:
                self._coordinator.done(self._topic)
                self._lease = None
                continue
            self.record, event = item
            self.scope = self._lease.scope
            if isinstance(event, Exception):
                self.scope.dead_letter(self.record, type(event).__name__, str(event))
                self.scope.count("dead_letter")
                continue
            return event

    async def batches(self) -> AsyncIterator[Batch]:
        """Give batches of one partition each.

        Bound by ``chunk_events_max``; the effects of a batch that raises are undone, it is cut in halves
        until the event that fails is alone.
        """
        self._register()
        while True:
            lease = await self._coordinator.take(self._topic)
            lease.begin()
            chunk = lease.chunk
            yield Batch(chunk.items, lease.scope, *chunk.source, chunk.next_offset)
            self._coordinator.done(self._topic)

    def _register(self) -> None:
        self._lease = None
        # Iterating over a topic is what tells Faust's conductor to subscribe to it.
        self.app.topics.add(self.channel)
