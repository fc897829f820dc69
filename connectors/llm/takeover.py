"""What a dead owner left of a partition: read from the ledger before any of its requests is taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import KafkaUnavailable
from connectors.llm.ledger import Known, attempt_of
from schemas.topics import LLM_ATTEMPTS

if TYPE_CHECKING:
    import threading

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.positions import PositionReader
    from schemas.wire import WireCodec

_LOOK_S: Final = 0.1
_STABLE_S_MAX: Final = 60.0
"""The transaction of an owner that died is ended by the broker within its time-out, which is below."""


class TakenOver:
    """Where a partition of requests begins, and what is known of the operations from there on."""

    __slots__ = ("known", "offset")

    def __init__(self, offset: int, known: dict[bytes, Known]) -> None:
        self.offset = offset
        self.known = known


def take_over(
    kafka: KafkaOptions,
    codec: WireCodec,
    positions: PositionReader,
    source: SourcePartition,
    cancelled: threading.Event,
) -> TakenOver:
    """Find out; blocks for some milliseconds, or until the transaction of a dead owner is over.

    Nobody can begin a call of this partition meanwhile: a start is a transaction with this group's
    generation, and that is ours.

    Raises:
        KafkaUnavailable, PositionRefused, NotAuthorized: it cannot be known.
    """
    committed = positions.committed(source.topic, source.partition, cancelled)
    low, _ = positions.ends(source.topic, source.partition)
    offset = low if committed is None else max(committed.offset, low)
    start = int(committed.note) if committed is not None and committed.note.isdecimal() else 0
    return TakenOver(offset, _read(kafka, codec, positions, source.partition, start, cancelled))


def _read(
    kafka: KafkaOptions,
    codec: WireCodec,
    positions: PositionReader,
    partition: int,
    start: int,
    cancelled: threading.Event,
) -> dict[bytes, Known]:
    topic = LLM_ATTEMPTS.named(kafka.topic_prefix)
    low, end = positions.ends(topic, partition)
    deadline = time.monotonic() + _STABLE_S_MAX
    while positions.stable_end(topic, partition) < end:
        if time.monotonic() > deadline or cancelled.wait(_LOOK_S):
            raise KafkaUnavailable(kafka.bootstrap_servers, f"{topic}[{partition}] holds an open transaction")
    found: dict[bytes, Known] = {}
    begin = max(start, low)
    if begin >= end:
        return found
    reader = CommittedReader(kafka, topic)
    try:
        for message in reader.read({partition: begin}, {partition: end}):
            value = message.value()
            if value is not None:
                row = attempt_of(codec.decode(value, LLM_ATTEMPTS.subject))
                found.setdefault(row.operation, Known()).take(row)
    finally:
        reader.close()
    return found
