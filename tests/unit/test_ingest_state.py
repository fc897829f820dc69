"""What ingest stores of a stream can be read again, and what cannot be read fails loudly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest import Ingest, IngestOptions
from pipelines.ordering import BUFFER
from pipelines.reorder import Waiting
from pipelines.streams import (
    OTHER_TYPES,
    TYPES_MAX,
    KnownStreams,
    Status,
    Stream,
    read_stream,
    write_stream,
)  # fmt: skip
from schemas.kinds import BUILTIN_KINDS
from schemas.record import UNREADABLE, Record
from state.binary import CorruptValue, pack_texts, unpack_text
from state.memory import MemoryBackend
from state.store import StagedView
from tests.unit.support_scope import CODEC, PAYLOADS, Partition, make_event


def new_step() -> Ingest:
    return Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, IngestOptions(partitions=1))


longs = st.integers(0, 2**63 - 1)
streams = st.builds(
    Stream,
    key=st.just(b"t/s"),
    kind=st.text(max_size=9),
    status=st.sampled_from(Status),
    numbered=st.booleans(),
    members_gone=st.booleans(),
    next_seq=longs,
    expected=longs,
    epoch=st.integers(0, 2**31 - 1),
    alarm_us=longs,
    hole_alarm_us=longs,
    waiting=longs,
    cost_nanos=longs,
    revision=longs,
    request_id=st.text(max_size=40),
    end_reason=st.text(max_size=9),
    upstream_ids=st.lists(st.text(max_size=9), max_size=16),
    by_type=st.dictionaries(st.text(max_size=9), st.lists(longs, min_size=2, max_size=2), max_size=9),
)


@given(streams)
def test_a_stream_is_read_as_it_was_written(stream):
    assert read_stream(b"t/s", write_stream(stream)) == stream


@given(streams, st.data())
def test_a_stored_stream_cut_anywhere_is_refused(stream, data):
    written = write_stream(stream)
    at = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(CorruptValue):
        read_stream(b"t/s", written[:at])


def test_a_stream_that_the_store_has_as_it_was_written_is_not_decoded_again():
    known, stream = KnownStreams(), Stream(b"t/s", "log", Status.OPEN, next_seq=7)
    data = known.write(stream)
    assert data == write_stream(stream)
    assert known.take(b"t/s", bytes(bytearray(data))) is stream


def test_a_stream_is_decoded_where_the_store_has_other_bytes_than_were_written():
    known, stream = KnownStreams(), Stream(b"t/s", "log", Status.OPEN, next_seq=7)
    before = write_stream(stream)
    stream.next_seq = 8
    known.write(stream)
    again = known.take(b"t/s", before)
    assert (again is stream, again.next_seq) == (False, 7)


def test_a_stream_that_was_taken_is_the_callers_to_change():
    known, stream = KnownStreams(), Stream(b"t/s", "log", Status.OPEN, next_seq=7)
    data = known.write(stream)
    known.take(b"t/s", data).next_seq = 8  # by a call that fails before it writes
    assert known.take(b"t/s", data).next_seq == 7


def test_known_streams_are_bounded_and_those_that_ended_are_not_kept():
    known = KnownStreams(streams_max=2)
    written = {}
    for name in (b"t/a", b"t/b", b"t/c"):
        stream = Stream(name, "log", Status.OPEN)
        written[name] = known.write(stream), stream
    assert len(known) == 2
    assert known.take(b"t/a", written[b"t/a"][0]) is not written[b"t/a"][1]
    assert known.take(b"t/c", written[b"t/c"][0]) is written[b"t/c"][1]
    known.write(Stream(b"t/b", "log", Status.ENDED))
    assert len(known) == 0


def test_a_stream_that_grew_large_is_not_kept_in_memory():
    known, stream = KnownStreams(), Stream(b"t/s", "log", Status.OPEN)
    known.write(stream)
    stream.upstream_ids = ["u" * 256 for _ in range(16)]
    data = known.write(stream)
    assert len(known) == 0
    assert known.take(b"t/s", data) == stream


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=20))
def test_ingest_that_knows_its_streams_and_one_that_begins_anew_come_to_the_same(units):
    """Units that are undone in between included: what they left in memory counts for nothing."""
    worlds = [(Partition(), [new_step()]), (Partition(), None)]
    for partition, kept in worlds:
        step = kept[0] if kept else new_step()
        partition.feed(step, [partition.record(make_event("open"))])
        for number, (commits, events) in enumerate(units):
            step = kept[0] if kept else new_step()
            sent = [make_event("log", event_id=f"{number}-{each}") for each in range(events)]
            scope = partition.scope()
            step.handle(scope, [(partition.record(event), event) for event in sent])
            if commits:
                partition.commit(scope)
            else:
                scope.drop()
    (one, _), (other, _) = worlds
    assert one.snapshot() == other.snapshot()
    assert one.logs == other.logs


def test_a_version_from_the_future_is_refused():
    with pytest.raises(CorruptValue, match="version ff"):
        read_stream(b"t/s", b"\xff" + write_stream(Stream(b"t/s", "log"))[1:])


@given(st.lists(st.text(max_size=20)))
def test_texts_come_back_one_by_one(texts):
    data, at, got = pack_texts(*texts), 0, []
    for _ in texts:
        text, at = unpack_text(data, at)
        got.append(text)
    assert (got, at) == (texts, len(data))


def test_a_text_too_long_is_cut_between_characters():
    text, _ = unpack_text(pack_texts("ü" * 40_000), 0)
    assert text == "ü" * 32_767


def test_types_of_a_stream_are_counted_by_name_up_to_a_bound():
    stream = Stream(b"t/s", "log")
    for number in range(TYPES_MAX + 50):
        stream.tally(f"type{number}", 2)
    assert len(stream.by_type) == TYPES_MAX + 1
    assert stream.by_type[OTHER_TYPES] == [50, 100]
    assert stream.total_bytes == 2 * (TYPES_MAX + 50)


def test_a_waiting_event_keeps_its_record_byte_for_byte():
    view = StagedView(MemoryBackend())
    waiting = Waiting(7, Record("in", 3, 41, 1_000, b"t/s", b"\x00\xff bytes"), 900, 1_000, 2)
    BUFFER.put(view, b"t/s", waiting)
    BUFFER.put(view, b"t/s0", Waiting(1, waiting.record, 0, 0, 0))
    assert BUFFER.get(view, 3, b"t/s", 7) == waiting
    assert BUFFER.first(view, 3, b"t/s") == waiting
    assert list(BUFFER.take_all(view, 3, b"t/s")) == [waiting]
    assert BUFFER.first(view, 3, b"t/s") is None


@pytest.mark.parametrize("headers", [(("a", b"1"), ("é", b""), ("a", None)), UNREADABLE], ids=["some", "odd"])
def test_a_waiting_event_keeps_the_headers_of_its_record(headers):
    view = StagedView(MemoryBackend())
    waiting = Waiting(7, Record("in", 3, 0, 1_000, b"t/s", b"\x00\xff bytes", headers), 900, 1_000, 2)
    BUFFER.put(view, b"t/s", waiting)
    assert BUFFER.get(view, 3, b"t/s", 7) == waiting
    assert (BUFFER.get(view, 3, b"t/s", 7).record.headers is UNREADABLE) == (headers is UNREADABLE)
    ((key, value),) = view.scan(b"", b"\xff", 9)
    view.put(key, value[:46])  # in the middle of how many there are
    with pytest.raises(CorruptValue):
        BUFFER.first(view, 3, b"t/s")


def test_a_waiting_event_that_is_cut_short_fails_loudly():
    view = StagedView(MemoryBackend())
    BUFFER.put(view, b"t/s", Waiting(7, Record("in", 3, 41, 1_000, b"t/s", b""), 0, 0, 0))
    ((key, value),) = view.scan(b"", b"\xff", 9)
    view.put(key, value[:20])
    with pytest.raises(CorruptValue):
        BUFFER.first(view, 3, b"t/s")


def test_a_flood_for_a_stream_that_was_never_opened_leaves_nothing_behind():
    held = BUILTIN_KINDS.named("log").order.reorder_events_max
    step, partition = Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, IngestOptions(partitions=1)), Partition()
    partition.feed(step, [partition.record(make_event("log", seq)) for seq in range(1, held + 2)])
    assert partition.counts["orphan"] == held + 1
    assert partition.snapshot().keys() == {b"c", b"t"}
