"""A record's headers: carried byte for byte, and those that cannot be read end no process."""

from __future__ import annotations

from contextlib import closing

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from connectors.kafka.chunk import Records, SourcePartition, events_of
from connectors.kafka.decoding import DecodeGuard
from connectors.kafka.headers import headers_of
from connectors.kafka.stream import ColumnBatch
from pipelines.tools import DeadLetterMaker
from schemas.catalog import LocalSchemas
from schemas.letters import is_cut
from schemas.record import UNREADABLE
from schemas.topics import DEAD_LETTERS
from schemas.wire import WireCodec
from tests.support.foreign_headers import ForeignProducer, library

SOURCE = SourcePartition("in", 0)
GIVEN = (("trace", b"\x00\xff"), ("é", b""), ("trace", b"again"), ("null", None))


def message(offset, headers=None):
    return Message("in", 0, offset, b"k", b"value", headers, None, (1, 1_000 + offset))


@pytest.fixture
def fetched():
    return Records(SOURCE, [message(0), message(1, list(GIVEN)), message(2, [])])


def test_an_event_has_the_headers_of_its_record_in_their_order(fetched):
    chunk = events_of(lambda rows: [None] * len(rows))(0, fetched, DecodeGuard())
    assert [record.headers for record, _ in chunk.items] == [(), GIVEN, ()]
    assert [record.offset for record, _ in chunk.items] == [0, 1, 2]


def test_a_batch_of_columns_reads_them_when_it_is_asked(fetched):
    batch = ColumnBatch(None, fetched, None, *SOURCE, 3)
    assert list(batch.headers()) == [(), GIVEN, ()]
    assert batch.records[1].headers == GIVEN
    some = ColumnBatch(None, [fetched[1]], None, *SOURCE, 3)
    assert list(some.headers()) == [GIVEN]


def test_messages_without_any_are_told_at_once():
    assert headers_of([message(0), message(1)]) is None
    assert list(Records(SOURCE, [message(0)]).headers()) == [()]


def test_what_they_take_counts_against_the_bounds_of_the_hand_over():
    plain, heavy = message(0), message(1, [("h", bytes(10_000))])
    assert Records(SOURCE, [plain]).size_bytes == len(b"value") + len(b"k")
    both = Records(SOURCE, [plain, heavy, message(2)])
    assert both.size_bytes > 10_000
    assert [len(piece) for piece in both.pieces(1_000)] == [1, 1, 1]
    assert both[1].size_bytes == Records(SOURCE, [heavy]).size_bytes


@pytest.fixture
def hostile():
    """Messages as a broker gives them, the second with a name that is no UTF-8."""
    lib = library()
    if lib is None:
        pytest.skip("the wheel of confluent-kafka carries no librdkafka of its own here")
    with closing(ForeignProducer(lib)) as producer:
        for headers in ([(b"a", b"1")], [(b"ok", b"1"), (b"\xff\xfe", b"2"), (b"b", None)], [(b"c", b"3")]):
            producer.produce("in", b"value", headers)
        with closing(Consumer({"bootstrap.servers": producer.bootstrap, "group.id": "g"})) as consumer:
            consumer.assign([TopicPartition("in", 0, 0)])
            found = []
            while len(found) < 3:
                found += consumer.consume(3, 10)
            yield found


def test_names_that_are_no_text_are_no_headers_however_often_they_are_read(hostile):
    for _ in range(3):
        first, second, third = headers_of(hostile)
        assert (first, third) == ((("a", b"1"),), (("c", b"3"),))
        assert second is UNREADABLE
    records = Records(SOURCE, hostile)
    assert records[1].headers is UNREADABLE
    assert [record.headers for record in records[1:]] == [(), (("c", b"3"),)]
    assert records.size_bytes > 0


def test_the_letter_of_such_a_record_says_that_it_is_not_whole(hostile):
    codec = WireCodec(LocalSchemas(), value_bytes_max=DEAD_LETTERS.max_message_bytes)
    (record,) = Records(SOURCE, hostile[1:2])
    made = DeadLetterMaker(WireCodec(LocalSchemas())).letter(
        record, agent="a", cause="c", detail="why", attempts=1
    )
    letter = codec.decode(made.value, DEAD_LETTERS.subject)
    assert (letter["value"], letter["headers"]) == (b"value", [])
    assert "headers that are no UTF-8, read it at its coordinates: why" in letter["detail"]
    assert is_cut(letter["detail"])
