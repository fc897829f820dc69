"""What all workers follow, each in whole: cancels, and the ledger."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.tailer import Followed, Tailer
from connectors.llm.ledger import Attempt, attempt_of
from schemas.errors import WireError
from schemas.topics import LLM_ATTEMPTS, LLM_CONTROL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.tailer import Place, TailState
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_CANCELS_RECENT: Final = 10_000
"""Cancels a partition that are read again at a start: one may be for a request that a dead worker had."""
_ROWS_RECENT: Final = 500_000
"""Rows of the ledger a partition that are read again at a start, at the most: two an attempt, so a day of
three calls a second. Budgets know the day by them, figures the last minutes."""
_ROWS_SINCE_MS: Final = 24 * 3_600_000
_CANCELLED_MAX: Final = 100_000
_ENDED_MAX: Final = 100_000


@dataclass(slots=True)
class _Batch:
    cancels: list[bytes] = field(default_factory=list)
    rows: list[Attempt] = field(default_factory=list)


class Follower:
    """Knows which operations were cancelled and which have ended; belongs to the loop."""

    def __init__(
        self,
        kafka: KafkaOptions,
        codec: WireCodec,
        loop: asyncio.AbstractEventLoop,
        *,
        cancelled: Callable[[bytes], None],
        saw: Callable[[Attempt], None],
    ) -> None:
        self._codec = codec
        self._cancelled = cancelled
        self._saw = saw
        self._control = LLM_CONTROL.named(kafka.topic_prefix)
        self._ledger = LLM_ATTEMPTS.named(kafka.topic_prefix)
        self._cancels: OrderedDict[bytes, None] = OrderedDict()
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._positions: dict[Place, int] = {}
        self._read: set[Place] = set()
        self._ready = asyncio.Event()
        self.problem = "Kafka has not answered yet"
        self._tailer = Tailer(
            kafka,
            [
                Followed(self._control, _CANCELS_RECENT),
                Followed(self._ledger, _ROWS_RECENT, time.time_ns() // 1_000_000 - _ROWS_SINCE_MS),
            ],
            self._decode,
            self,
            loop,
        )

    def start(self) -> None:
        """Begin to follow."""
        self._tailer.start()

    def stop(self) -> None:
        """Stop; waits for the thread a moment."""
        self._tailer.stop()
        self._tailer.join(5.0)

    async def ready(self) -> None:
        """Wait until what stood in the ledger was read: before, a budget that is spent is not known to be."""
        await self._ready.wait()

    def is_cancelled(self, key: bytes) -> bool:
        """Say whether somebody asked lately that an operation be stopped."""
        return key in self._cancels

    def has_ended(self, key: bytes) -> bool:
        """Say whether an operation is known to be over."""
        return key in self._ended

    def ledger_at(self, partition: int) -> int:
        """Return the position that a partition of the ledger was read to; 0 = none of it yet."""
        return self._positions.get((self._ledger, partition), 0)

    def _decode(self, records: Sequence[Record]) -> _Batch:
        batch = _Batch()
        for record in records:
            if record.value is None:
                continue
            try:
                if record.topic == self._control:
                    batch.cancels.append(record.key or b"")
                else:
                    batch.rows.append(attempt_of(self._codec.decode(record.value, LLM_ATTEMPTS.subject)))
            except WireError as error:
                log.error(  # noqa: TRY400  # the cause is the data, not this code
                    "undecodable_row", partition=record.partition, offset=record.offset, cause=str(error)
                )
        return batch

    def tail_batch(self, batch: _Batch, positions: Mapping[Place, int]) -> None:
        """See TailListener."""
        self._positions.update(positions)
        for row in batch.rows:
            if row.end_reason:
                _remember(self._ended, row.operation, _ENDED_MAX)
            self._saw(row)
        for key in batch.cancels:
            _remember(self._cancels, key, _CANCELLED_MAX)
            self._cancelled(key)

    def tail_caught_up(self, place: Place) -> None:
        """See TailListener."""
        self._read.add(place)
        if self._read >= {known for known in self._positions if known[0] == self._ledger}:
            self._ready.set()

    def tail_state(self, state: TailState) -> None:
        """See TailListener."""
        self.problem = state.problem


def _remember(held: OrderedDict[bytes, None], key: bytes, most: int) -> None:
    held[key] = None
    held.move_to_end(key)
    if len(held) > most:
        held.popitem(last=False)
