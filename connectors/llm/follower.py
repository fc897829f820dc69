"""What all workers follow, each in whole: what is to be stopped, and the ledger."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.tailer import Followed, Tailer
from connectors.llm.ledger import Attempt, read_row
from connectors.llm.lives import remember
from connectors.llm.readiness import Readiness
from schemas.errors import WireError
from schemas.topics import LLM_ATTEMPTS, LLM_CONTROL

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.tailer import Place
    from connectors.llm.ledger import EndReason
    from connectors.llm.lives import Lives
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_STOPS_RECENT: Final = 10_000
"""Cancels and time-outs a partition read again at a start: a dead worker may have had their requests."""
_ROWS_RECENT: Final = 500_000
"""Rows of the ledger a partition that are read again at a start, at the most: two an attempt, so a day of
three calls a second. Budgets know the day by them, figures the last minutes."""
_ROWS_SINCE_MS: Final = 24 * 3_600_000


@dataclass(slots=True)
class _Batch:
    stops: list[tuple[bytes, str, EndReason, int]] = field(default_factory=list)
    """With the stream's kind, and when it was said."""
    refused: list[tuple[bytes, str]] = field(default_factory=list)
    rows: list[tuple[Attempt, int]] = field(default_factory=list)
    """With when they were appended."""


class Follower(Readiness):
    """Tells ``lives`` which operations are to stop and which have ended; belongs to the loop.

    Before what stood there was read, a budget that is spent is not known to be, nor a stream that has ended.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        codec: WireCodec,
        loop: asyncio.AbstractEventLoop,
        lives: Lives,
        *,
        stopped: Callable[[bytes], None],
        refused: Callable[[bytes, str], None],
        saw: Callable[[Attempt], None],
    ) -> None:
        super().__init__("the ledger of the last day is being read")
        self._codec = codec
        self._lives = lives
        self._stopped = stopped
        self._open_refused = refused
        self._saw = saw
        self._control = LLM_CONTROL.named(kafka.topic_prefix)
        self._ledger = LLM_ATTEMPTS.named(kafka.topic_prefix)
        self._refused: OrderedDict[tuple[bytes, str], None] = OrderedDict()
        self._positions: dict[Place, int] = {}
        self._read: set[Place] = set()
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

    def refused(self, key: bytes, open_id: str) -> bool:
        """Say whether ``ingest`` refused an ``open`` of a stream of late: the stream was open already."""
        return (key, open_id) in self._refused

    def ledger_at(self, partition: int) -> int:
        """Return the position that a partition of the ledger was read to; 0 = none of it yet."""
        return self._positions.get((self._ledger, partition), 0)

    def _decode(self, records: Sequence[Record]) -> _Batch:
        batch = _Batch()
        for record in records:
            if record.value is None:
                continue
            if record.topic == self._ledger:
                row = read_row(self._codec, record.value, record.partition, record.offset)
                if row is not None:
                    batch.rows.append((row, record.timestamp_us))
                continue
            try:
                self._control_of(record, batch)
            except WireError as error:
                where = {"partition": record.partition, "offset": record.offset}
                log.error("undecodable_control", **where, cause=str(error))  # noqa: TRY400  # the data's fault
        return batch

    def _control_of(self, record: Record, batch: _Batch) -> None:
        """Read whether somebody cancelled, or ``ingest`` timed the stream out, or refused an open of it.

        What cannot be read (WireError) stops no call: it may say any of these, and the call is paid for.
        """
        key = record.key or b""
        event = self._codec.decode_event(record.value or b"")
        if event.type == "open":
            batch.refused.append((key, event.event_id))
        else:
            reason: EndReason = "timed_out" if event.type == "end" else "cancelled"
            batch.stops.append((key, event.kind, reason, record.timestamp_us))

    def tail_batch(self, batch: _Batch, positions: Mapping[Place, int]) -> None:
        """See TailListener."""
        self._positions.update(positions)
        for row, at_us in batch.rows:
            self._lives.took(row, at_us)
            self._saw(row)
        for key, open_id in batch.refused:
            remember(self._refused, (key, open_id), None)
            self._open_refused(key, open_id)
        for stop in batch.stops:
            self._lives.stop(*stop)
            self._stopped(stop[0])

    def tail_caught_up(self, place: Place) -> None:
        """See TailListener."""
        self._read.add(place)
        if self._read >= self._positions.keys():
            self._ready.set()
