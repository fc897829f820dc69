"""Reading one stream's records out of a partition: bounded, going on where it stopped, and never short."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.options import KafkaOptions
from connectors.kafka.spans import SpanBounds, SpanReader, SpanReaders
from schemas.topics import OUTPUT, partition_of

pytestmark = pytest.mark.timeout(60)
KEY = b"default/s"
PARTITION = partition_of(KEY, OUTPUT.partitions)


@pytest.fixture
def topic(kafka_options):
    return OUTPUT.named(kafka_options.topic_prefix)


def test_a_reader_that_goes_on_is_not_fooled_by_the_end_that_it_met_before(kafka_options, twin, topic):
    stream = twin.open("s")
    twin.logs(stream, 9)
    end = stream.last_offset + 1
    reader = SpanReader(kafka_options)
    first = reader.read(topic, PARTITION, KEY, 0, end, SpanBounds(5, 1 << 20, 500))
    assert len(first.records) == 5
    time.sleep(1)  # it has fetched the rest meanwhile, and that there was no more
    twin.logs(stream, 20)
    rest = reader.read(
        topic, PARTITION, KEY, first.next_offset, stream.last_offset + 1, SpanBounds(99, 1 << 20, 500)
    )
    reader.close()
    offsets = [record.offset for record in (*first.records, *rest.records)]
    assert len(offsets) == 30
    assert offsets == sorted(set(offsets))
    assert rest.next_offset == stream.last_offset + 1


def test_a_span_is_read_in_parts_while_others_are_written_and_nothing_is_left_out(kafka_options, twin, topic):
    stream, other = twin.open("s"), twin.open("other")
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            twin.logs(stream, 7)
            twin.logs(other, 5)

    writer = threading.Thread(target=write)
    writer.start()
    readers = SpanReaders(kafka_options, 2)
    time.sleep(0.5)

    def follow(parts_of: int) -> list[int]:
        offsets: list[int] = []
        place = 0
        with closing(CommittedReader(kafka_options, topic)) as committed:
            for _ in range(60):
                # As the tail sees it: a commit is answered before its marker is written, and readers see it.
                present = committed.bounds(PARTITION)[1]
                while place < present:
                    bounds = SpanBounds(parts_of, 1 << 20, 200)
                    span = readers.read(topic, PARTITION, KEY, place, present, bounds)
                    offsets += [record.offset for record in span.records]
                    place = span.next_offset
                time.sleep(0.02)
        return offsets

    with ThreadPoolExecutor(4) as pool:
        followed = list(pool.map(follow, (3, 10, 25, 1_000)))
    stop.set()
    writer.join()
    with closing(CommittedReader(kafka_options, topic)) as committed:
        while committed.bounds(PARTITION)[1] <= stream.last_offset:
            time.sleep(0.02)
    whole = readers.read(
        topic, PARTITION, KEY, 0, stream.last_offset + 1, SpanBounds(1 << 20, 1 << 30, 5_000)
    )
    readers.close()
    true = [record.offset for record in whole.records]
    assert len(true) == stream.next_seq
    for offsets in followed:
        assert offsets == true[: len(offsets)]
        assert len(offsets) > 100


def test_bounds_of_count_and_bytes_are_kept_and_a_passed_start_is_told(kafka_options, twin, topic):
    stream = twin.open("s")
    twin.logs(stream, 50)
    reader = SpanReader(kafka_options)
    few = reader.read(topic, PARTITION, KEY, 0, stream.last_offset + 1, SpanBounds(7, 1 << 20, 500))
    assert (len(few.records), few.truncated) == (7, False)
    small = reader.read(topic, PARTITION, KEY, 0, stream.last_offset + 1, SpanBounds(1_000, 300, 500))
    assert 1 <= len(small.records) <= 4
    twin.delete_before(OUTPUT, PARTITION, 20)
    late = reader.read(topic, PARTITION, KEY, 3, stream.last_offset + 1, SpanBounds(1_000, 1 << 20, 2_000))
    assert (late.records[0].offset, late.truncated) == (20, True)
    reader.close()


def test_a_broker_that_does_not_answer_is_named(topic):
    reader = SpanReader(KafkaOptions("127.0.0.1:1"))
    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:1"):
        reader.read(topic, 0, KEY, 0, 100, SpanBounds(1, 1, 500))
    reader.close()
