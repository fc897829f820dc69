"""The wire format: what is written is read back, and no bytes whatever do more than be refused."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.catalog import EVENT, LocalSchemas, subjects
from schemas.envelope import INT_MAX, LONG_MAX, Event
from schemas.errors import (
    BadMagic,
    RegistryUnavailable,
    TooLarge,
    Undecodable,
    Unencodable,
    UnknownSchemaId,
    UnknownType,
    WireError,
)
from schemas.wire import VALUE_BYTES_MAX, WireCodec, schema_id_of

from .test_envelope import GOOD

if TYPE_CHECKING:
    from collections.abc import Callable

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
whole = st.integers(0, LONG_MAX)
events = st.builds(
    Event,
    event_id=text,
    tenant=text,
    stream_id=text,
    seq=st.integers(-1, LONG_MAX),
    kind=text,
    type=text,
    time=whole,
    source=text,
    request_id=text,
    task_id=text,
    upstream_id=text,
    traceparent=text,
    epoch=st.integers(0, INT_MAX),
    attempt=st.integers(0, INT_MAX),
    payload=st.binary(max_size=200),
    payload_schema=st.integers(0, INT_MAX),
)
SOURCE = LocalSchemas()
CODEC = WireCodec(SOURCE)
FRAMED = CODEC.encode_event(GOOD._replace(payload=b"\xff\x00payload", time=1_795_000_000_000_000))


@given(events)
def test_an_event_comes_back_as_it_was_written(event: Event) -> None:
    data = CODEC.encode_event(event)
    assert CODEC.decode_event(data) == event
    assert CODEC.decode(data, EVENT) == event._asdict()
    assert data[0] == 0
    assert schema_id_of(data) == SOURCE.id_of(EVENT)


def test_times_stay_whole_numbers() -> None:
    assert CODEC.decode(FRAMED, EVENT)["time"] == 1_795_000_000_000_000


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x01", b"\x01\x00\x00\x00\x01abc", b'{"a":1}'])
def test_a_value_without_the_frame_says_what_it_starts_with(data: bytes) -> None:
    for read in (CODEC.decode_event, schema_id_of):
        with pytest.raises(BadMagic) as caught:
            read(data)
        assert str(len(data)) in str(caught.value)


def test_an_unknown_schema_id_is_named() -> None:
    with pytest.raises(UnknownSchemaId, match="schema id 77 "):
        CODEC.decode_event(b"\x00\x00\x00\x00\x4d" + FRAMED[5:])


@pytest.mark.parametrize("length", range(5, len(FRAMED)))
def test_a_body_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(Undecodable):
        CODEC.decode_event(FRAMED[:length])


def test_bytes_after_the_record_are_refused() -> None:
    with pytest.raises(Undecodable, match="1 bytes too many"):
        CODEC.decode_event(FRAMED + b"\x00")


def test_a_record_of_another_subject_is_refused_by_name() -> None:
    reject = {"event_id": "e", "tenant": "t", "stream_id": "s", "verdict": "late", "time_us": 0}
    data = CODEC.encode("sluicegate.Reject", reject)
    assert CODEC.decode(data, "sluicegate.Reject")["verdict"] == "late"
    with pytest.raises(Undecodable, match=r"holds sluicegate\.Reject, where sluicegate\.Event"):
        CODEC.decode_event(data)


@settings(max_examples=500)
@given(st.binary(max_size=400), st.integers(0, len(FRAMED) - 1), st.integers(0, 255))
@example(b"\xff" * 30, 5, 255)
def test_no_bytes_raise_anything_but_a_wire_error(body: bytes, place: int, byte: int) -> None:
    flipped = bytearray(FRAMED)
    flipped[place] = byte
    for data in (body, FRAMED[:5] + body, bytes(flipped), FRAMED[:place] + body):
        try:
            CODEC.decode_event(data)
        except WireError as error:
            said = str(error)
        else:
            continue
        assert 0 < len(said) < 500


@pytest.mark.parametrize(
    "length",
    [b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x20", b"\x01", b"\xff" * 9 + b"\x01"],
    ids=["2**62", "4 GiB", "-1", "-2**63"],
)
def test_a_huge_or_negative_declared_length_allocates_nothing(length: bytes) -> None:
    data = FRAMED[:5] + length + b"x" * 100
    tracemalloc.start()
    with pytest.raises(Undecodable):
        CODEC.decode_event(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize(
    "count",
    [b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x01" + b"\xfe\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01"],
    ids=["2**62 items", "-1 items of 4 GiB", "-2**63 items"],
)
def test_a_huge_block_count_allocates_nothing_and_ends_at_once(count: bytes) -> None:
    index = {"tenant": "t", "stream_id": "s", "partition": 0, "marks": [{"seq": 1, "offset": 64}]}
    data = CODEC.encode("sluicegate.StreamIndex", index)
    block = b"\x02\x02\x80\x01\x01\x00"
    assert data.count(block) == 1
    data = data.replace(block, count + b"\x02\x80\x01" * 1_000)
    tracemalloc.start()
    with pytest.raises(Undecodable):
        CODEC.decode(data, "sluicegate.StreamIndex")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2_000_000


def test_a_value_over_the_limit_is_neither_read_nor_written() -> None:
    with pytest.raises(TooLarge, match=str(VALUE_BYTES_MAX)):
        CODEC.decode_event(b"\x00" * (VALUE_BYTES_MAX + 1))
    with pytest.raises(TooLarge):
        CODEC.encode_event(GOOD._replace(payload=b"x" * VALUE_BYTES_MAX))
    small = WireCodec(SOURCE, value_bytes_max=32)
    with pytest.raises(TooLarge, match="limit of 32 bytes"):
        small.decode(FRAMED, EVENT)


@pytest.mark.parametrize(
    "record",
    [{}, {"event_id": 5}, {"event_id": "e", "tenant": "t", "stream_id": "s", "verdict": None, "time_us": 0}],
)
def test_a_record_that_does_not_fit_is_not_written(record: dict[str, object]) -> None:
    with pytest.raises(Unencodable, match=r"sluicegate\.Reject"):
        CODEC.encode("sluicegate.Reject", record)


def test_a_subject_that_is_not_registered_is_not_written() -> None:
    with pytest.raises(UnknownType):
        CODEC.encode("sluicegate.Nothing", {})


def changed(change: Callable[[dict[str, object]], None], subject: str = EVENT) -> str:
    schema = orjson.loads(subjects()[subject])
    change(schema)
    return orjson.dumps(schema).decode()


def test_an_event_of_a_newer_an_older_and_a_shuffled_schema_is_read_as_ours() -> None:
    newer = changed(lambda s: s["fields"].append({"name": "zone", "type": "string", "default": ""}))
    older = changed(lambda s: s["fields"].remove(next(f for f in s["fields"] if f["name"] == "attempt")))
    shuffled = changed(lambda s: s["fields"].reverse())
    for subject_text in (newer, older, shuffled):
        source = LocalSchemas()
        source.register(EVENT, subject_text)
        writer = WireCodec(source)
        data = writer.encode_event(GOOD)
        assert schema_id_of(data) != SOURCE.id_of(EVENT)
        assert writer.decode_event(data) == GOOD


def test_defaults_of_bytes_are_bytes_also_for_a_record_that_lacks_them() -> None:
    older = changed(
        lambda s: s["fields"].remove(next(f for f in s["fields"] if f["name"] == "value")),
        "sluicegate.DeadLetter",
    )
    source = LocalSchemas()
    source.register("sluicegate.DeadLetter", older)
    codec = WireCodec(source)
    letter = {"topic": "t", "partition": 0, "offset": 0, "cause": "c", "time_us": 0}
    for one in (codec, CODEC):
        found = one.decode(one.encode("sluicegate.DeadLetter", letter), "sluicegate.DeadLetter")
        assert found["value"] == b""


class CountedSource:
    """A source that counts what it is asked, and can be away."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    def id_of(self, subject: str) -> int:
        return self._answer(lambda: SOURCE.id_of(subject))

    def schema_of(self, schema_id: int) -> str:
        return self._answer(lambda: SOURCE.schema_of(schema_id))

    def _answer(self, answer):
        self.asked += 1
        if self.away:
            raise RegistryUnavailable("http://registry", "refused")
        return answer()


def test_a_registry_that_is_away_is_not_the_records_fault() -> None:
    source = CountedSource()
    source.away = True
    codec = WireCodec(source)
    with pytest.raises(RegistryUnavailable) as caught:
        codec.decode_event(FRAMED)
    assert not isinstance(caught.value, WireError)
    source.away = False
    assert codec.decode_event(FRAMED).event_id == "e1"


def test_a_warm_codec_goes_on_without_the_registry() -> None:
    source = CountedSource()
    codec = WireCodec(source)
    codec.decode_event(codec.encode_event(GOOD))
    asked, source.away = source.asked, True
    for _ in range(100):
        assert codec.decode_event(codec.encode_event(GOOD)) == GOOD
    assert source.asked == asked


def test_a_flood_of_foreign_schemas_does_not_grow_the_cache() -> None:
    source = LocalSchemas()
    codec = WireCodec(source)
    for number in range(600):
        doc = changed(lambda s, n=number: s.update(doc=f"version {n}"))
        schema_id = source.register(EVENT, doc)
        codec.decode_event(b"\x00" + schema_id.to_bytes(4, "big") + FRAMED[5:])
    assert len(codec._readers) <= 256
    assert len(codec._event_readers) <= 256


@given(events, whole)
def test_an_event_with_another_number_is_the_same_to_the_byte_as_if_written_anew(event, seq):
    assert CODEC.renumber(CODEC.encode_event(event), event, seq) == CODEC.encode_event(
        event._replace(seq=seq)
    )


@given(events, events)
def test_a_template_writes_other_events_to_the_byte_as_if_each_were_written_anew(event, other):
    like = event._replace(event_id=other.event_id, time=other.time, payload=other.payload)
    written = CODEC.template(event).write(like.event_id, like.time, like.payload)
    assert written == CODEC.encode_event(like)


def test_a_template_refuses_an_event_over_the_limit():
    codec = WireCodec(SOURCE, value_bytes_max=len(CODEC.encode_event(GOOD)))
    template = codec.template(GOOD)
    assert template.write(GOOD.event_id, GOOD.time, GOOD.payload) == CODEC.encode_event(GOOD)
    with pytest.raises(TooLarge):
        template.write(GOOD.event_id, GOOD.time, GOOD.payload + b"x")


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_value_whose_lengths_or_number_are_written_longer_than_need_be_is_written_anew(at):
    event = GOOD._replace(event_id="e", tenant="t", stream_id="s", seq=3)
    value = CODEC.encode_event(event)
    # Five bytes of the frame, length and text of three names, the number: one of them is made two bytes long.
    where = (5, 9, 11)[at]
    longer = value[:where] + bytes((value[where] | 0x80, 0)) + value[where + 1 :]
    assert CODEC.decode_event(longer) == event
    assert CODEC.renumber(longer, event, 300) == CODEC.encode_event(event._replace(seq=300))


def test_an_event_that_grows_over_the_limit_by_its_number_is_refused():
    event = GOOD._replace(seq=3)
    value = CODEC.encode_event(event)
    codec = WireCodec(SOURCE, value_bytes_max=len(value))
    assert codec.renumber(value, event, 4) == CODEC.encode_event(event._replace(seq=4))
    with pytest.raises(TooLarge):
        codec.renumber(value, event, LONG_MAX)
