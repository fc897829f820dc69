"""A decoder that raises is asked for each record alone: one that cannot be read stops no neighbour."""

from __future__ import annotations

import pyarrow as pa
import pytest

from connectors.kafka.chunk import Records, SourcePartition, events_of
from connectors.kafka.columns import Columns, columns_of
from schemas.errors import RegistryUnavailable

SOURCE = SourcePartition("input", 0)


class Fetched:
    """As much of a fetched message as a chunk looks at."""

    def __init__(self, offset, value):
        self._offset, self._value = offset, value

    def offset(self):
        return self._offset

    def key(self):
        return b"k"

    def value(self):
        return self._value

    def timestamp(self):
        return 1, self._offset

    def __len__(self):
        return len(self._value)


class Fetch(Records):
    """Records over such messages: librdkafka makes none itself."""

    def values(self):
        return [message.value() for message in self._messages]

    @property
    def size_bytes(self):
        return sum(map(len, self._messages))


def records(*values):
    return Fetch(SOURCE, [Fetched(10 + n, value) for n, value in enumerate(values)])


def rows(found):
    return [number(record.value) for record in found]


def number(value):
    if value == b"away":
        raise RegistryUnavailable("http://registry", "away")
    return int(value)


def columns(values):
    numbers = [(at, number(value)) for at, value in enumerate(values) if value != b"known bad"]
    errors = [(at, ValueError("known")) for at, value in enumerate(values) if value == b"known bad"]
    batch = pa.RecordBatch.from_pydict({"n": pa.array([n for _, n in numbers], pa.int64())})
    return Columns(batch, [at for at, _ in numbers], errors)


def test_events_that_do_not_decode_stand_in_their_places():
    chunk = events_of(rows)(0, records(b"1", b"x", b"3", b"y"))

    assert [record.offset for record, _ in chunk.items] == [10, 11, 12, 13]
    assert [item if isinstance(item, int) else type(item) for _, item in chunk.items] == [
        1, ValueError, 3, ValueError,
    ]  # fmt: skip
    assert chunk.next_offset == 14


def test_rows_that_do_not_decode_are_errors_beside_those_that_the_decoder_names_itself():
    chunk = columns_of(columns)(0, records(b"1", b"x", b"known bad", b"4", b"y"))

    assert chunk.batch["n"].to_pylist() == [1, 4]
    assert [record.offset for record in chunk.records] == [10, 13]
    assert [(record.offset, type(error)) for record, error in chunk.errors] == [
        (11, ValueError), (12, ValueError), (14, ValueError),
    ]  # fmt: skip


def test_a_batch_of_which_nothing_decodes_has_its_columns_and_no_rows():
    chunk = columns_of(columns)(0, records(b"x", b"y"))

    assert chunk.batch.schema.names == ["n"]
    assert (chunk.batch.num_rows, len(chunk.errors)) == (0, 2)


def test_a_decoder_that_loses_records_is_found_out_record_by_record():
    chunk = events_of(lambda found: [1 for record in found if record.value != b"lost"])(
        0, records(b"a", b"lost", b"b")
    )

    assert [item if item == 1 else str(item) for _, item in chunk.items] == [
        1, "1 records were decoded to 0 items", 1,
    ]  # fmt: skip


@pytest.mark.parametrize("chunker", [events_of(rows), columns_of(columns)], ids=["events", "columns"])
def test_what_may_pass_is_no_fault_of_a_record(chunker):
    with pytest.raises(RegistryUnavailable):
        chunker(0, records(b"1", b"away", b"x"))
