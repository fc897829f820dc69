"""A decoder that raises is asked for each record alone: one that cannot be read stops no neighbour."""

from __future__ import annotations

import pyarrow as pa
import pytest
from confluent_kafka import Message

from connectors.kafka.aside import ProcessDied, SetAside
from connectors.kafka.chunk import Records, SourcePartition, events_of
from connectors.kafka.columns import Columns, columns_of
from connectors.kafka.decoding import DecodeGuard
from connectors.kafka.inflight import InFlight
from schemas.errors import RegistryUnavailable

SOURCE = SourcePartition("input", 0)


def records(*values):
    messages = [
        Message(topic="input", partition=0, offset=10 + n, key=b"k", value=value, timestamp=(1, n))
        for n, value in enumerate(values)
    ]
    return Records(SOURCE, messages)


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
    chunk = events_of(rows)(0, records(b"1", b"x", b"3", b"y"), DecodeGuard())

    assert [record.offset for record, _ in chunk.items] == [10, 11, 12, 13]
    assert [item if isinstance(item, int) else type(item) for _, item in chunk.items] == [
        1, ValueError, 3, ValueError,
    ]  # fmt: skip
    assert chunk.next_offset == 14


def test_rows_that_do_not_decode_are_errors_beside_those_that_the_decoder_names_itself():
    chunk = columns_of(columns)(0, records(b"1", b"x", b"known bad", b"4", b"y"), DecodeGuard())

    assert chunk.batch["n"].to_pylist() == [1, 4]
    assert [record.offset for record in chunk.records] == [10, 13]
    assert [(record.offset, type(error)) for record, error in chunk.errors] == [
        (11, ValueError), (12, ValueError), (14, ValueError),
    ]  # fmt: skip


def test_a_batch_of_which_nothing_decodes_has_its_columns_and_no_rows():
    chunk = columns_of(columns)(0, records(b"x", b"y"), DecodeGuard())

    assert chunk.batch.schema.names == ["n"]
    assert (chunk.batch.num_rows, len(chunk.errors)) == (0, 2)


def test_a_decoder_that_loses_records_is_found_out_record_by_record():
    chunk = events_of(lambda found: [1 for record in found if record.value != b"lost"])(
        0, records(b"a", b"lost", b"b"), DecodeGuard()
    )

    assert [item if item == 1 else str(item) for _, item in chunk.items] == [
        1, "1 records were decoded to 0 items", 1,
    ]  # fmt: skip


@pytest.mark.parametrize("chunker", [events_of(rows), columns_of(columns)], ids=["events", "columns"])
def test_what_may_pass_is_no_fault_of_a_record(chunker):
    with pytest.raises(RegistryUnavailable):
        chunker(0, records(b"1", b"away", b"x"), DecodeGuard())


class Ends(BaseException):
    """The process ends: nothing catches it, and nothing is tidied up."""


def until_it_ends(folder, chunker_of, decode, fetched):
    """Decode as a process does that ends at ``b"end"``; returns what values were decoded, in what runs."""
    runs = []

    def ending(found):
        values = [getattr(one, "value", one) for one in found]
        if b"end" in values:
            raise Ends
        runs.append(len(values))
        return decode(found)

    notes = InFlight(folder, "DECODING")
    pieces = DecodeGuard(notes).pieces(fetched)
    kept = []  # a generator that is not closed keeps its note, as a crash does

    class Guard:
        def pieces(self, _records):
            kept.append(pieces)
            return pieces

    try:
        return runs, chunker_of(ending)(0, fetched, Guard())
    except Ends:
        notes.taken_back = lambda _topic: None
        return runs, None


@pytest.mark.parametrize(
    ("chunker_of", "decode"), [(events_of, rows), (columns_of, columns)], ids=["events", "columns"]
)
def test_a_record_with_which_decoding_ends_the_process_is_found_and_decoded_no_more(
    tmp_path, chunker_of, decode
):
    fetched = records(b"1", b"end", b"3")

    ends = [until_it_ends(tmp_path, chunker_of, decode, fetched) for _ in range(3)]
    assert [runs for runs, _ in ends] == [[], [], [1]], "from the second crash on one by one"
    _, chunk = until_it_ends(tmp_path, chunker_of, decode, fetched)

    if chunker_of is events_of:
        assert chunk.has_asides
        died = [(record.offset, item) for record, item in chunk.items if isinstance(item, Exception)]
        assert [item for _, item in chunk.items if isinstance(item, int)] == [1, 3]
    else:
        died = [(record.offset, error) for record, error in chunk.errors]
        assert chunk.batch["n"].to_pylist() == [1, 3]
    ((offset, error),) = died
    assert (offset, type(error), error.attempts) == (11, ProcessDied, 3)


def test_a_crash_while_decoding_is_no_fault_of_what_agents_had_in_hand(tmp_path):
    agents, decoding = InFlight(tmp_path), InFlight(tmp_path, "DECODING")
    agents.handed_out(records(b"1"))
    decoding.handed_out(records(b"2", b"3"))

    decoding = InFlight(tmp_path, "DECODING")
    agents = InFlight(tmp_path, believed=not decoding.found)
    assert decoding.found
    assert not agents.is_suspect(records(b"1"))


@pytest.mark.parametrize(
    ("chunker_of", "decode"), [(events_of, rows), (columns_of, columns)], ids=["events", "columns"]
)
def test_a_record_that_is_skipped_is_not_even_decoded(tmp_path, chunker_of, decode):
    skip = SetAside("skipped", "ends the process")
    guard = DecodeGuard()
    guard.judges = lambda _records: lambda record: skip if record.offset == 11 else None

    def ending(found):
        assert b"end" not in [getattr(one, "value", one) for one in found]
        return decode(found)

    chunk = chunker_of(ending)(0, records(b"1", b"end", b"3"), guard)

    errors = chunk.errors if chunker_of is columns_of else [item for item in chunk.items if item[1] is skip]
    assert [(record.offset, error) for record, error in errors] == [(11, skip)]
    assert len(chunk) == 3
