"""Chunks as columns: what a batch agent is handed, an Arrow batch of one partition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from connectors.kafka.chunk import Chunker, Records, SourcePartition
    from schemas.record import Record


@dataclass(frozen=True, slots=True)
class Columns:
    """What values decode to: a batch of those that do, and why the others do not."""

    batch: pa.RecordBatch
    rows: Sequence[int]
    """Which value each row of the batch is, ascending."""
    errors: Sequence[tuple[int, Exception]]
    """Which values are none, ascending, each with what is wrong."""


@dataclass(slots=True)
class ColumnChunk:
    """A ``connectors.kafka.chunk.Chunk`` of an Arrow batch, and of the records that are not in it."""

    source: SourcePartition
    epoch: int
    batch: pa.RecordBatch
    records: Records | Sequence[Record]
    """The batch's records, row by row."""
    errors: Sequence[tuple[Record, Exception]]
    next_offset: int
    size_bytes: int
    append_us: int
    attempts: int = field(default=0)

    def __len__(self) -> int:
        return len(self.records) + len(self.errors)

    @property
    def first(self) -> Record:
        """See ``Chunk``; one that does not decode may stand before it."""
        return self.records[0] if len(self.records) else self.errors[0][0]

    def split(self, at: int) -> tuple[ColumnChunk, ColumnChunk]:
        """See ``Chunk``; what does not decode stays with the first part."""
        rows = self.batch.num_rows
        at = min(at, rows - 1)  # only rows can fail, so there are some
        head_bytes = self.size_bytes * at // rows
        next_offset = self.records[at].offset
        first = ColumnChunk(
            self.source, self.epoch, self.batch.slice(0, at), self.records[:at], self.errors,
            next_offset, head_bytes, self.records[at - 1].timestamp_us,
        )  # fmt: skip
        rest = ColumnChunk(
            self.source, self.epoch, self.batch.slice(at), self.records[at:], (),
            self.next_offset, self.size_bytes - head_bytes, self.append_us,
        )  # fmt: skip
        return first, rest


def columns_of(decode: Callable[[Sequence[bytes | None]], Columns]) -> Chunker:
    """Return a chunker over ``decode``, which sorts values into columns and errors."""

    def chunk(epoch: int, records: Records) -> ColumnChunk:
        found = decode(records.values())
        rows: Any = records if not found.errors else [records[row] for row in found.rows]
        errors = [(records[at], error) for at, error in found.errors]
        last = records[len(records) - 1]
        return ColumnChunk(
            records.source, epoch, found.batch, rows, errors, last.offset + 1, records.size_bytes,
            last.timestamp_us,
        )  # fmt: skip

    return chunk
