"""What a dead owner left of a partition: read from the ledger before any of its requests is taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import KafkaUnavailable
from connectors.llm.ledger import Known, read_row
from schemas.topics import LLM_ATTEMPTS

if TYPE_CHECKING:
    import threading

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.positions import PositionReader
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_LOOK_S: Final = 0.1
_STABLE_S_MAX: Final = 120.0
"""The transaction of an owner that died is ended by the broker within its time-out, at most a minute."""


class TakenOver:
    """Where a partition of requests begins, and what is known of the operations from there on."""

    __slots__ = ("known", "note", "offset", "until")

    def __init__(self, offset: int, note: int, until: int, known: dict[bytes, Known]) -> None:
        self.offset = offset
        self.note = note
        """Where the ledger was read from."""
        self.until = until
        """Where the partition of requests ended."""
        self.known = known


def take_over(
    kafka: KafkaOptions,
    codec: WireCodec,
    positions: PositionReader,
    source: SourcePartition,
    cancelled: threading.Event,
) -> TakenOver:
    """Find out; blocks for some milliseconds, or until the transaction of a dead owner is over.

    Nobody else can put a call of this partition on the ledger meanwhile (``committer.py`` says why).

    Raises:
        KafkaUnavailable, PositionRefused, NotAuthorized: it cannot be known.
    """
    committed = positions.committed(source.topic, source.partition, cancelled)
    low, until = positions.ends(source.topic, source.partition)
    offset, note = low, 0
    if committed is not None:
        offset = max(committed.offset, low)
        note = int(committed.note) if committed.note.isdecimal() else 0
        if committed.offset < low:
            # Nobody will answer them: whoever asked is told by the deadline of the stream's kind.
            log.error("llm_requests_lost", partition=source.partition, first=committed.offset, kept_from=low)
    ledger = LLM_ATTEMPTS.named(kafka.topic_prefix)
    first, end = positions.ends(ledger, source.partition)
    if note > end:
        log.error("llm_ledger_cut", partition=source.partition, noted=note, ends_at=end)
        note = first
    _await_stable(kafka, positions, ledger, source.partition, end, cancelled)
    known = _read(kafka, codec, ledger, source.partition, max(note, first), end, offset)
    return TakenOver(offset, note, until, known)


def _await_stable(
    kafka: KafkaOptions,
    positions: PositionReader,
    topic: str,
    partition: int,
    end: int,
    cancelled: threading.Event,
) -> None:
    deadline = time.monotonic() + _STABLE_S_MAX
    while positions.stable_end(topic, partition) < end:
        if time.monotonic() > deadline or cancelled.wait(_LOOK_S):
            raise KafkaUnavailable(kafka.bootstrap_servers, f"{topic}[{partition}] holds an open transaction")


def _read(
    kafka: KafkaOptions, codec: WireCodec, topic: str, partition: int, begin: int, end: int, offset: int
) -> dict[bytes, Known]:
    """Read rows of requests from ``offset`` on: those before it are done with, and never come again."""
    found: dict[bytes, Known] = {}
    if begin >= end:
        return found
    reader = CommittedReader(kafka, topic)
    try:
        for message in reader.read({partition: begin}, {partition: end}):
            value = message.value()
            if value is None:
                continue
            row = read_row(codec, value, partition, message.offset())
            if row is None or row.request_offset < offset:
                continue
            found.setdefault(row.operation, Known()).take(row)
    finally:
        reader.close()
    return found
