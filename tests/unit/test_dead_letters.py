"""The maker of dead letters: whatever the record was, its letter can be written."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.tools import DeadLetterMaker
from schemas.catalog import LocalSchemas
from schemas.letters import is_cut
from schemas.record import UNREADABLE, Record
from schemas.topics import DEAD_LETTERS, EVENT_BYTES_MAX, MIB
from schemas.wire import WireCodec
from state.store import RECORD_OVERHEAD_BYTES

MAKER = DeadLetterMaker(WireCodec(LocalSchemas()))
READER = WireCodec(LocalSchemas(), value_bytes_max=DEAD_LETTERS.max_message_bytes)
LIMIT = DEAD_LETTERS.max_message_bytes

near_limits = st.one_of(
    st.integers(0, 2_048),
    st.integers(LIMIT - 40_000, LIMIT + 2_048),
    st.sampled_from([400_000, 600_000, MIB, EVENT_BYTES_MAX, 2 * MIB, 3 * MIB]),
)
sized = near_limits.map(bytes)
header_values = st.one_of(st.none(), st.sampled_from([0, 1, 400_000, MIB]).map(bytes))
framed = st.binary(min_size=4, max_size=4).map(lambda id_bytes: b"\x00" + id_bytes + b"body")
texts = st.one_of(st.text(st.characters(), max_size=60), st.just("\U0001f6b0" * 9_000), st.just("\ud800" * 9))
records = st.builds(
    Record,
    topic=st.sampled_from(["t", "t" * 249]),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    timestamp_us=st.integers(-1_000, 2**62),
    key=st.one_of(st.none(), sized),
    value=st.one_of(st.none(), sized, framed),
    headers=st.one_of(
        st.just(()),
        st.just(UNREADABLE),
        st.lists(st.tuples(st.text(max_size=9), header_values), max_size=3).map(tuple),
    ),
)


@given(records, texts, texts, texts)
@example(Record("t", 0, 0, 0, None, bytes(EVENT_BYTES_MAX)), "a", "TooLarge", "e" * 4_096)
@example(Record("t", 0, 0, 0, bytes(600_000), bytes(400_000)), "a", "BadMagic", "")
@example(Record("t", 0, 0, 0, b"k", b"v", (("a", b"1"), ("é", b""), ("a", None))), "a", "BadMagic", "")
@example(Record("t", 0, 0, 0, b"k", b"v", (("", b""),) * 100_000), "a", "BadMagic", "")
def test_a_letter_never_raises_and_always_fits(record, agent, cause, detail):
    append = MAKER.letter(record, agent=agent, cause=cause, detail=detail, attempts=3)
    size_bytes = len(append.key or b"") + len(append.value) + RECORD_OVERHEAD_BYTES
    assert size_bytes <= LIMIT
    assert 0 <= append.partition < DEAD_LETTERS.partitions
    letter = READER.decode(append.value, DEAD_LETTERS.subject)
    assert (letter["topic"], letter["partition"], letter["offset"]) == (
        record.topic, record.partition, record.offset,
    )  # fmt: skip
    value, key = record.value or b"", record.key
    headers = tuple((header["name"], header["value"]) for header in letter["headers"])
    if record.headers is UNREADABLE or headers != record.headers:
        assert headers == ()
        assert is_cut(letter["detail"])
    if record.size_bytes < EVENT_BYTES_MAX:
        assert headers == record.headers, "what a topic of ours takes is kept whole"
    if len(value) + len(key or b"") < EVENT_BYTES_MAX:
        assert (letter["key"], letter["value"]) == (key, value), "what a topic of ours takes is kept whole"
    if (letter["key"], letter["value"]) != (key, value):
        assert f"value of {len(value)} bytes, " in letter["detail"]
        assert is_cut(letter["detail"])
        assert value.startswith(letter["value"])
        assert (key or b"").startswith(letter["key"] or b"")


def letter_of(value: bytes) -> dict[str, object]:
    append = MAKER.letter(Record("t", 1, 2, 7_000, b"k", value), agent="a", cause="c", detail="d", attempts=1)
    return READER.decode(append.value, DEAD_LETTERS.subject)


def test_a_schema_id_that_no_registry_gives_is_none():
    assert letter_of(b"\x00\x7f\xff\xff\xff")["schema_id"] == 2**31 - 1
    assert letter_of(b"\x00\x80\x00\x00\x00")["schema_id"] == -1
    assert letter_of(b"\x00\x00\x00\x01")["schema_id"] == -1
    assert letter_of(b"")["schema_id"] == -1


def test_it_says_where_in_the_agents_code_and_keeps_the_line_of_a_long_path():
    record = Record("t", 1, 2, 7_000, b"k", b"v")
    for place in ("mine.py:7 in handle", "/deep" * 9_000 + "/mine.py:7 in handle"):
        append = MAKER.letter(record, agent="a", cause="c", detail="d", attempts=1, raised_at=place)
        told = READER.decode(append.value, DEAD_LETTERS.subject)["raised_at"]
        assert told == place[-256:]
    assert letter_of(b"x")["raised_at"] == ""


def test_its_time_is_the_brokers_so_that_no_clock_is_asked():
    assert letter_of(b"x")["time_us"] == 7_000
