"""Chunks as columns: what a batch agent is handed, an Arrow batch of one partition."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from connectors.kafka.chunk import is_no_fault_of_a_record

if TYPE_CHECKING:
    from connectors.kafka.aside import Judge
    from connectors.kafka.chunk import Chunk, Chunker, Records, SourcePartition
    from connectors.kafka.decoding import DecodeGuard
    from schemas.record import Record


@dataclass(frozen=True, slots=True)
class Columns:
    """What values decode to: a batch of those that do, and why the others do not."""

    batch: pa.RecordBatch
    rows: Sequence[int]
    """Which value each row of the batch is, ascending."""
    errors: Sequence[tuple[int, Exception]]
    """Which values are none, ascending, each with what is wrong."""


Decode = Callable[[Sequence["bytes | None"]], Columns]


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
    handback: int = -1

    def __len__(self) -> int:
        return len(self.records) + len(self.errors)

    @property
    def first(self) -> Record:
        """See ``Chunk``; one that does not decode may stand before the rows."""
        row, error = self.records[:1], self.errors[:1]
        firsts: list[Record] = [*row, *(record for record, _ in error)]
        return min(firsts, key=_offset)

    def split(self, at: int) -> tuple[ColumnChunk, ColumnChunk]:
        """See ``Chunk``; what does not decode goes with the rows around it, or comes in halves where none is.

        A letter must not commit before the position has come to its record: it would be written once more.
        """
        boundary = self._boundary(at)
        rows = bisect_left(self.records, boundary, key=_offset)
        errors = bisect_left(self.errors, boundary, key=lambda error: error[0].offset)
        head_bytes = self.size_bytes * (rows + errors) // len(self)
        heads = [*self.records[rows - 1 : rows], *(record for record, _ in self.errors[errors - 1 : errors])]
        first = ColumnChunk(
            self.source, self.epoch, self.batch.slice(0, rows), self.records[:rows], self.errors[:errors],
            boundary, head_bytes, max(heads, key=_offset).timestamp_us,
        )  # fmt: skip
        rest = ColumnChunk(
            self.source, self.epoch, self.batch.slice(rows), self.records[rows:], self.errors[errors:],
            self.next_offset, self.size_bytes - head_bytes, self.append_us,
        )  # fmt: skip
        return first, rest

    def joined(self, later: Chunk) -> None:
        """See ``Chunk``: to join columns would be to copy them."""

    def screened(self, judge: Judge) -> ColumnChunk:
        """See ``Chunk``; they are no rows any more."""
        found = [(row, record, judge(record)) for row, record in enumerate(self.records)]
        asides = [(record, why) for _, record, why in found if why is not None]
        errors = [(record, judge(record) or error) for record, error in self.errors]
        if not asides and errors == list(self.errors):
            return self
        rows = [row for row, _, why in found if why is None]
        return replace(
            self,
            batch=self.batch.take(pa.array(rows, pa.int64())),
            records=[self.records[row] for row in rows],
            errors=sorted([*errors, *asides], key=lambda error: error[0].offset),
        )

    def _boundary(self, at: int) -> int:
        """Return the offset before which to cut, so that neither part is empty."""
        rows = len(self.records)
        if rows == 0:
            return self.errors[len(self.errors) // 2][0].offset
        boundary = self.records[min(at, rows - 1)].offset
        if boundary > self.first.offset:
            return boundary
        return self.errors[0][0].offset  # a single row stands before all that does not decode


def _sorted_out(decode: Decode, values: Sequence[bytes | None]) -> Columns:
    try:
        return decode(values)
    except Exception as error:
        if is_no_fault_of_a_record(error):
            raise
        if len(values) == 1:
            return _none(decode, error)
    return _merged([_sorted_out(decode, [value]) for value in values])


def _none(decode: Decode, error: Exception) -> Columns:
    """Return what a single value decodes to that does not."""
    return Columns(decode(()).batch, (), [(0, error)])


def _merged(singles: Sequence[Columns]) -> Columns:
    """Return the columns of values that were decoded one by one."""
    batches = pa.Table.from_batches([one.batch for one in singles]).combine_chunks().to_batches()
    return Columns(
        batches[0] if batches else singles[0].batch,
        [at for at, one in enumerate(singles) if one.rows],
        [(at, error) for at, one in enumerate(singles) for _, error in one.errors],
    )


def _offset(record: Record) -> int:
    return record.offset


def columns_of(decode: Decode) -> Chunker:
    """Return a chunker over ``decode``, which sorts values into columns and errors.

    One that raises is asked for each value alone, as ``events_of`` does.
    """

    def chunk(epoch: int, records: Records, guard: DecodeGuard) -> ColumnChunk:
        parts = [
            _sorted_out(decode, piece.values()) if aside is None else _none(decode, aside)
            for piece, aside in guard.pieces(records)
        ]
        found = _merged(parts) if len(parts) > 1 else parts[0]
        rows: Any = records if not found.errors else [records[row] for row in found.rows]
        errors = [(records[at], error) for at, error in found.errors]
        last = records[len(records) - 1]
        return ColumnChunk(
            records.source, epoch, found.batch, rows, errors, last.offset + 1, records.size_bytes,
            last.timestamp_us,
        )  # fmt: skip

    return chunk
