"""Time in a test: ticks come when the test moves the clock, and not when the machine's does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connectors.kafka.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.options import KafkaOptions
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

    def next_us(self) -> int | None:
        """Return when the next tick is due, None if nothing waits for time."""
        return min(self._due().values(), default=None)

    def tick_due(self, now_us: int) -> None:
        """Append the ticks that are due, and wait until they stand in the log."""
        self.tick_at([source for source, due_us in self._due().items() if due_us <= now_us], now_us)

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
