"""The unit that travels from the poll thread to an agent: consecutive records of one partition, decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.record import Record


class SourcePartition(NamedTuple):
    """A partition of an input topic, the topic's name as it stands in Kafka."""

    topic: str
    partition: int


@dataclass(slots=True)
class Chunk:
    """Records in offset order with what they decode to: an event, or the error that names why not."""

    source: SourcePartition
    epoch: int
    """Which fetch this belongs to; a rewind or a rebalance makes older ones void."""
    items: Sequence[tuple[Record, Any]]
    next_offset: int
    """Where the partition stands after this chunk: behind the last record of the fetch it came from."""
    size_bytes: int = 0
    """Bytes of its keys and values: what the hand-over is bounded by, beside the number of records."""
    attempts: int = 0
    """How often handling it has failed."""

    def split(self, at: int) -> tuple[Chunk, Chunk]:
        """Cut into the first ``at`` records and the rest."""
        head, tail = self.items[:at], self.items[at:]
        head_bytes = min(sum(record.size_bytes for record, _ in head), self.size_bytes)
        first = Chunk(self.source, self.epoch, head, tail[0][0].offset, head_bytes)
        return first, Chunk(self.source, self.epoch, tail, self.next_offset, self.size_bytes - head_bytes)
