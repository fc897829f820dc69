"""What an agent's step is given: one partition's records in, effects out, inside one unit of work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from schemas.record import Headers, Record
    from schemas.topics import TopicSpec
    from state.store import StateView


class Scope(Protocol):
    """One partition in one unit of work. Effects take place only if the unit commits, all or none."""

    @property
    def partition(self) -> int:
        """Number of the input partition; outputs keep it."""

    @property
    def state(self) -> StateView:
        """The agent's store, this partition's part."""

    def emit(
        self,
        topic: TopicSpec,
        key: bytes,
        value: bytes | None,
        *,
        partition: int | None = None,
        on_offset: Callable[[int], None] | None = None,
        headers: Headers = (),
    ) -> None:
        """Have a record appended; ``partition`` None = by key (murmur2), ``headers`` as Kafka keeps them.

        ``on_offset`` is called with the record's offset after it was appended and before the unit
        commits; it may still change ``state`` and ``emit`` without ``on_offset``. This is how an index
        holds offsets of the very unit that wrote them.
        """

    def update(
        self, topic: TopicSpec, key: bytes, value: bytes | None, *, partition: int | None = None
    ) -> None:
        """Have the last value given for a key be appended, once a unit of work: for results that supersede.

        Under load a count that changes a thousand times between two commits is one record, not a thousand.
        """

    def update_many(
        self,
        topic: TopicSpec,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        *,
        partition: int | None = None,
    ) -> None:
        """As ``update`` for each key and value; for agents that take a batch at a time."""

    def dead_letter(self, record: Record, cause: str, detail: str) -> None:
        """Have a record that cannot be handled kept with its bytes and coordinates."""

    def late(
        self,
        record: Record,
        *,
        time_us: int,
        watermark_us: int,
        outcome: str = "late",
        detail: str = "",
    ) -> None:
        """Count an input that came after what it belongs to had closed, and route it as its source says.

        With ``late_to`` at the source it is appended there, with its bytes, coordinates, event time
        (``time_us``) and the watermark; without, it is counted and dropped.
        """

    def count(self, outcome: str, n: int = 1) -> None:
        """Count inputs by outcome (``output``, a verdict, ``dead_letter``); kept if the unit commits."""
