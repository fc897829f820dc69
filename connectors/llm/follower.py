"""What all workers follow, each in whole: what is to be stopped, and the ledger."""

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
    from connectors.llm.ledger import EndReason
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_STOPS_RECENT: Final = 10_000
"""Cancels and time-outs a partition read again at a start: a dead worker may have had their requests."""
_ROWS_RECENT: Final = 500_000
"""Rows of the ledger a partition that are read again at a start, at the most: two an attempt, so a day of
three calls a second. Budgets know the day by them, figures the last minutes."""
_ROWS_SINCE_MS: Final = 24 * 3_600_000
_STOPPED_MAX: Final = 100_000
_ENDED_MAX: Final = 100_000


@dataclass(slots=True)
class _Batch:
    stops: list[tuple[bytes, EndReason]] = field(default_factory=list)
    rows: list[Attempt] = field(default_factory=list)


class Follower:
    """Knows which operations are to stop and which have ended; belongs to the loop."""

    def __init__(
        self,
        kafka: KafkaOptions,
        codec: WireCodec,
        loop: asyncio.AbstractEventLoop,
        *,
        stopped: Callable[[bytes, EndReason], None],
        saw: Callable[[Attempt], None],
    ) -> None:
        self._codec = codec
        self._stopped = stopped
        self._saw = saw
        self._control = LLM_CONTROL.named(kafka.topic_prefix)
        self._ledger = LLM_ATTEMPTS.named(kafka.topic_prefix)
        self._stops: OrderedDict[bytes, EndReason] = OrderedDict()
        self._ended: OrderedDict[bytes, EndReason] = OrderedDict()
        self._positions: dict[Place, int] = {}
        self._read: set[Place] = set()
        self._ready = asyncio.Event()
        self.problem = "Kafka has not answered yet"
        self._tailer = Tailer(
            kafka,
            [
                Followed(self._control, _STOPS_RECENT),
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

    def stopped(self, key: bytes) -> EndReason:
        """Say as what an operation is to end: cancelled or timed out of late; empty = it may go on."""
        return self._stops.get(key, "")

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
                    batch.stops.append((record.key or b"", self._stop_of(record)))
                else:
                    batch.rows.append(attempt_of(self._codec.decode(record.value, LLM_ATTEMPTS.subject)))
            except WireError as error:
                log.error(  # noqa: TRY400  # the cause is the data, not this code
                    "undecodable_row", partition=record.partition, offset=record.offset, cause=str(error)
                )
        return batch

    def _stop_of(self, record: Record) -> EndReason:
        """Read whether somebody cancelled, or ``ingest`` timed the stream out."""
        try:
            ended = self._codec.decode_event(record.value or b"").type == "end"
        except WireError:
            ended = False  # whatever it says, it is there to stop the call
        return "timed_out" if ended else "cancelled"

    def tail_batch(self, batch: _Batch, positions: Mapping[Place, int]) -> None:
        """See TailListener."""
        self._positions.update(positions)
        for row in batch.rows:
            if row.end_reason:
                _remember(self._ended, row.operation, row.end_reason, _ENDED_MAX)
            self._saw(row)
        for key, reason in batch.stops:
            _remember(self._stops, key, reason, _STOPPED_MAX)
            self._stopped(key, reason)

    def tail_caught_up(self, place: Place) -> None:
        """See TailListener."""
        self._read.add(place)
        if self._read >= {known for known in self._positions if known[0] == self._ledger}:
            self._ready.set()

    def tail_state(self, state: TailState) -> None:
        """See TailListener."""
        self.problem = state.problem


def _remember(held: OrderedDict[bytes, EndReason], key: bytes, reason: EndReason, most: int) -> None:
    held[key] = reason
    held.move_to_end(key)
    if len(held) > most:
        held.popitem(last=False)
