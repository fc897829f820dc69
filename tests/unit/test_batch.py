"""Batches: whatever is in them, the columns hold what single reads give, or the same error."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import native as module
from schemas.batch import BatchReader
from schemas.catalog import EVENT, LocalSchemas, subjects
from schemas.errors import BadMagic, TooLarge, Undecodable, UnknownSchemaId, WireError
from schemas.wire import WireCodec
from tests.contract.golden_records import RECORDS

from .test_envelope import GOOD
from .test_wire import CODEC, FRAMED, SOURCE, events

ByColumn = partial(BatchReader, rows_max=0)
READER = ByColumn(CODEC)


@pytest.mark.parametrize("subject", sorted(RECORDS))
def test_golden_records_read_alike_as_a_batch(subject: str) -> None:
    reader = BatchReader(CODEC, subject)
    data = CODEC.encode(subject, RECORDS[subject])
    batch = reader.decode_batch([data] * 3)
    rows = batch.to_pylist(maps_as_pydicts="strict")
    assert rows == [CODEC.decode(data, subject)] * 3 == [RECORDS[subject]] * 3
    assert by_column([data] * 3, reader).equals(batch)
    batch.validate(full=True)


def by_column(values: list[bytes], reader: BatchReader = READER) -> pa.RecordBatch | None:
    assert reader._own is not None
    return reader._own.decode([value[5:] for value in values])


@given(st.lists(events, max_size=20))
def test_events_read_alike_and_in_order(given_events: list[Any]) -> None:
    values = [CODEC.encode_event(event) for event in given_events]
    batch = READER.decode_batch(values)
    assert batch.to_pylist() == [event._asdict() for event in given_events]
    assert batch.equals(BatchReader(CODEC).decode_batch(values)), "few are read one by one"


def test_the_fast_way_is_taken_for_sound_events() -> None:
    assert by_column([FRAMED] * 10) is not None


PAYLOAD = b"\xff\x00payload"  # of FRAMED; before it stand epoch, attempt and its length, a byte each
varints = st.binary(min_size=1, max_size=11)


@settings(max_examples=500)
@given(st.binary(max_size=60), st.integers(5, len(FRAMED) - 1), st.integers(0, 255), varints)
@example(b"", 5, 0, b"\x80\x80\x80\x80\x20")
def test_no_bytes_read_otherwise_than_alone(body: bytes, place: int, byte: int, varint: bytes) -> None:
    flipped = bytearray(FRAMED)
    flipped[place] = byte
    spoiled = [
        body,
        FRAMED[:5] + body,
        bytes(flipped),
        FRAMED[:place] + body,
        FRAMED + body,
        FRAMED[:place] + varint + FRAMED[place + 1 :],
        FRAMED[: FRAMED.index(PAYLOAD)] + body,
        # seq, epoch and attempt as any varint, also of more bits than they hold
        FRAMED.replace(b"build-1\x00", b"build-1" + varint),
        FRAMED[: FRAMED.index(PAYLOAD) - 3] + varint + FRAMED[FRAMED.index(PAYLOAD) - 2 :],
    ]
    for data in spoiled:
        alone: Any
        try:
            alone = CODEC.decode_event(data)._asdict()
        except WireError as error:
            alone = type(error)
        try:
            batch = READER.decode_batch([FRAMED, data])
        except WireError as error:
            assert error.index == 1  # noqa: PT017
            assert alone is type(error) or _beyond_int(alone)  # noqa: PT017
            continue
        assert batch.to_pylist()[1] == alone


def _beyond_int(alone: Any) -> bool:
    """fastavro takes an int of any size; a column does not, nor does ``check_event``."""
    return isinstance(alone, dict) and any(
        not -(2**31) <= alone[name] < 2**31 for name in ("epoch", "attempt", "payload_schema")
    )


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**32, 2**32 + 5, 2**63 - 1])
def test_an_int_of_more_than_its_bits_is_not_wrapped(number: int) -> None:
    zigzag = (number << 1) ^ (number >> 63)
    varint = bytearray()
    while zigzag > 0x7F:
        varint.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    varint.append(zigzag)
    assert FRAMED.endswith(b"\x02")  # payload_schema = 1
    data = FRAMED[:-1] + bytes(varint)
    assert CODEC.decode_event(data).payload_schema == number
    with pytest.raises(Undecodable) as caught:
        READER.decode_batch([FRAMED, FRAMED, data])
    assert caught.value.index == 2


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", BadMagic),
        (b"\x01" + FRAMED[1:], BadMagic),
        (b"\x00\x00\x00\x00\x4d" + FRAMED[5:], UnknownSchemaId),
        (FRAMED[:-1], Undecodable),
        (FRAMED + b"\x00", Undecodable),
        (b"\x00" * (2**20 + 1), TooLarge),
    ],
)
def test_one_broken_record_is_named_by_its_place(data: bytes, error: type[WireError]) -> None:
    with pytest.raises(error) as caught:
        READER.decode_batch([FRAMED] * 7 + [data] + [FRAMED] * 2)
    assert caught.value.index == 7


def test_several_versions_in_one_batch_come_back_in_order_as_ours() -> None:
    newer = orjson.loads(subjects()[EVENT])
    newer["fields"].append({"name": "zone", "type": "string", "default": ""})
    source = LocalSchemas()
    source.register(EVENT, orjson.dumps(newer).decode())
    writers = (CODEC, WireCodec(source))
    given_events = [GOOD._replace(seq=number) for number in range(50)]
    values = [writers[number % 2].encode_event(event) for number, event in enumerate(given_events)]
    batch = ByColumn(WireCodec(source)).decode_batch(values)
    assert isinstance(batch, pa.RecordBatch)
    assert batch.schema == READER.schema
    assert batch.to_pylist() == [event._asdict() for event in given_events]


def test_an_empty_batch_has_our_columns() -> None:
    assert READER.decode_batch([]).schema == READER.schema


def test_the_size_of_a_number_on_the_wire_is_known_at_every_step() -> None:
    numbers = sorted({sign * 2**bits + near for bits in range(63) for near in (-1, 0, 1) for sign in (1, -1)})
    for number in numbers:
        data = CODEC.encode_event(GOOD._replace(seq=number))
        sizes = module._varint_bytes(pa.array([number, 0], pa.int64()))
        size = sizes[0].as_py() if isinstance(sizes, pa.Array) else sizes.as_py()
        assert size == 1 + len(data) - len(CODEC.encode_event(GOOD._replace(seq=0)))


def test_the_source_is_the_same_as_of_single_reads() -> None:
    assert SOURCE.id_of(EVENT) == int.from_bytes(FRAMED[1:5], "big")
