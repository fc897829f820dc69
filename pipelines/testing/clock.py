"""Time in a test: ticks and silence come when the test moves the clock, and not when the machine's does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connectors.kafka.idle import IdleTime
from connectors.kafka.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.coordinator import Coordinator
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.positions import PositionReader
    from connectors.kafka.tails import Tails
    from schemas.envelope import Event

SECOND_US: Final = 1_000_000
"""A partition gets at most one tick each second, as in production."""


class SteppedTicker(Ticker):
    """The engine's ticker; what it appends in production on its own, it appends when told."""

    def __init__(self, kafka: KafkaOptions, encode: Callable[[Event], bytes]) -> None:
        super().__init__(kafka, encode)
        self._ticked: dict[SourcePartition, int] = {}

    def tick(self, unread: Collection[SourcePartition] = ()) -> int:  # noqa: ARG002 - as the engine calls it
        """Do nothing: the engine's own loop asks by the machine's clock."""
        return 0

    def next_us(self, unread: Collection[SourcePartition]) -> int | None:
        """Return when the next tick is due, None if nothing waits for time; paused partitions wait, too."""
        return min((due_us for source, due_us in self._due().items() if source not in unread), default=None)

    def tick_due(self, now_us: int, unread: Collection[SourcePartition]) -> None:
        """Append the ticks that are due, but of what nobody reads now, and wait until they stand there."""
        due = [source for source, due_us in self._due().items() if due_us <= now_us and source not in unread]
        self.tick_at(due, now_us)

    def tick_at(self, sources: Collection[SourcePartition], now_us: int) -> None:
        """Append a tick to each of the partitions, and wait until they stand in the log."""
        self._ticked.update(dict.fromkeys(sources, now_us))
        self._append(sources, now_us)
        if self._producer is not None:
            self._producer.flush(10)

    def _due(self) -> dict[SourcePartition, int]:
        return {
            source: max(deadline_us, self._ticked.get(source, 0) + SECOND_US)
            for source, deadline_us in self._deadlines.items()
        }


class SteppedIdle(IdleTime):
    """The engine's time on silent partitions; it passes when told, and as long as the test's clock says."""

    def __init__(self, reader: PositionReader, tails: Tails, now_us: Callable[[], int]) -> None:
        super().__init__(reader, tails)
        self._now_us = now_us

    def now_s(self) -> float:
        """See ``IdleTime``."""
        return self._now_us() / SECOND_US

    async def look(self, coordinator: Coordinator) -> None:
        """Do nothing: the engine's own loop asks by the machine's clock."""

    async def look_now(self, coordinator: Coordinator) -> bool:
        """Take the steps that are due; tell whether one of them is not committed yet. Then look again."""
        for silence in self._silences.values():
            if silence.counted is not None:  # its unit commits, or was refused: then it is taken once more
                silence.look_at = self.now_s()
        await super().look(coordinator)
        return any(silence.counted is not None for silence in self._silences.values())
