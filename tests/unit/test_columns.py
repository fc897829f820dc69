"""A chunk of columns cut in two: each record is in one part, in offset order, whatever decodes."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.columns import ColumnChunk
from schemas.record import Record

SOURCE = SourcePartition("input", 3)
END = 1_000


def chunk_of(decodes):
    """One record for each item, at every third offset, that decodes or not."""
    records = [Record(*SOURCE, 3 * n, 100 * n, b"k", b"v") for n in range(len(decodes))]
    rows = [record for record, well in zip(records, decodes, strict=True) if well]
    errors = [
        (record, ValueError(str(record.offset)))
        for record, well in zip(records, decodes, strict=True)
        if not well
    ]
    batch = pa.RecordBatch.from_pydict({"offset": pa.array([record.offset for record in rows], pa.int64())})
    return ColumnChunk(SOURCE, 0, batch, rows, errors, END, 10 * len(decodes), records[-1].timestamp_us)


def offsets(chunk):
    return sorted([*chunk.batch["offset"].to_pylist(), *(record.offset for record, _ in chunk.errors)])


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.data())
def test_both_parts_hold_records_and_a_part_ends_where_the_next_begins(decodes, data):
    chunk = chunk_of(decodes)
    first, rest = chunk.split(data.draw(st.integers(1, len(chunk) - 1)))

    assert len(first) > 0
    assert len(rest) > 0
    assert offsets(first) + offsets(rest) == offsets(chunk)
    assert first.next_offset == rest.first.offset == min(offsets(rest))
    assert first.first.offset == min(offsets(first))
    assert rest.next_offset == END
    assert first.append_us == max(offsets(first)) // 3 * 100
    assert rest.append_us == chunk.append_us
    assert first.size_bytes + rest.size_bytes == chunk.size_bytes
    for part in (first, rest):
        assert part.batch["offset"].to_pylist() == [record.offset for record in part.records]


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_halving_comes_to_single_records(decodes):
    waiting, alone = [chunk_of(decodes)], []
    while waiting:
        chunk = waiting.pop(0)
        if len(chunk) == 1:
            alone.append(chunk.first.offset)
        else:
            waiting[:0] = chunk.split(len(chunk) // 2)

    assert alone == [3 * n for n in range(len(decodes))]
