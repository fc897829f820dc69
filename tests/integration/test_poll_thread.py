"""The poll thread against real Kafka: after a rewind, what comes begins there and misses nothing."""

from __future__ import annotations

import queue
import random
import time
from concurrent.futures import Future

import pytest
from confluent_kafka import Producer

from connectors.kafka.admin import ensure_topics
from connectors.kafka.chunk import SourcePartition, events_of
from connectors.kafka.consumer import PollThread
from connectors.kafka.membership import ConsumerOptions
from schemas.topics import TopicSpec

RECORDS = 60_000
REWINDS = 60
INPUT = TopicSpec("rewound.input.v1", "key", "", 2, -1, "delete", "read again and again")


class Listener:
    def __init__(self):
        self.chunks, self.sources, self.failures = queue.SimpleQueue(), queue.SimpleQueue(), []

    def deliver(self, chunks):
        for chunk in chunks:
            self.chunks.put(chunk)

    def assigned(self, sources):
        self.sources.put(sources)

    def revoked(self, _sources, *, lost):
        done = Future()
        done.set_result(None)
        return done

    def failed_for_good(self, error):
        self.failures.append(error)


@pytest.mark.timeout(120)
def test_after_any_rewind_each_partition_comes_whole_from_there_on(kafka_options):
    ensure_topics(kafka_options, [INPUT])
    topic = INPUT.named(kafka_options.topic_prefix)
    producer = Producer(kafka_options.client_config() | {"linger.ms": 5})
    for i in range(RECORDS):
        producer.produce(topic, b"x" * 100, partition=i % 2)
        producer.poll(0)
    assert producer.flush(30) == 0
    listener = Listener()
    options = ConsumerOptions(f"{topic}.group", "member", chunk_records_max=500, handover_records_max=4_000)
    thread = PollThread(kafka_options, options, {topic: events_of(list)}, listener)
    thread.start()
    try:
        sources = listener.sources.get(timeout=30)
        assert set(sources) == {SourcePartition(topic, 0), SourcePartition(topic, 1)}
        for source in sources:
            thread.start_partition(source, 0).result(timeout=10)
        seed = time.time_ns()
        read_on_between_rewinds(thread, listener, sources, random.Random(seed), f"seed {seed}")
    finally:
        thread.stop()
        thread.join(15)
    assert listener.failures == []


def read_on_between_rewinds(thread, listener, sources, chance, told):
    """Rewind at random moments; the last time read to the end. The log has no markers: offsets are whole."""
    epoch, expected = 0, dict.fromkeys(sources, 0)
    rewind_at = time.monotonic() + chance.random() * 0.1
    while epoch < REWINDS or any(offset < RECORDS // 2 for offset in expected.values()):
        if epoch < REWINDS and time.monotonic() > rewind_at:
            epoch += 1
            expected = {source: chance.randrange(max(expected[source], 1)) for source in sources}
            thread.rewind(expected.copy(), epoch).result(timeout=10)
            rewind_at = time.monotonic() + chance.random() * 0.1
        try:
            chunk = listener.chunks.get(timeout=0.02 if epoch < REWINDS else 10)
        except queue.Empty:
            assert epoch < REWINDS, f"{told}: nothing comes at {expected}"
            continue
        thread.handled(len(chunk), chunk.size_bytes)
        if chunk.epoch != epoch:
            continue
        offsets = [record.offset for record, _value in chunk.items]
        first = expected[chunk.source]
        assert offsets == list(range(first, first + len(offsets))), f"{told}: {offsets[0]} at {first}"
        expected[chunk.source] = chunk.next_offset


@pytest.mark.timeout(120)
def test_a_partition_is_read_to_its_end_and_on_when_that_moves_over_rewinds_too(kafka_options):
    ensure_topics(kafka_options, [INPUT])
    topic = INPUT.named(kafka_options.topic_prefix)
    producer = Producer(kafka_options.client_config() | {"linger.ms": 5})
    for i in range(RECORDS // 3):
        producer.produce(topic, b"x" * 100, partition=i % 2)
        producer.poll(0)
    assert producer.flush(30) == 0
    listener, ends = Listener(), dict.fromkeys([SourcePartition(topic, n) for n in range(2)], 0)
    options = ConsumerOptions(f"{topic}.group", "member", chunk_records_max=500, handover_records_max=2_000)
    thread = PollThread(kafka_options, options, {topic: events_of(list)}, listener, end_of=ends.get)
    thread.start()
    try:
        for source in listener.sources.get(timeout=30):
            thread.start_partition(source, 0).result(timeout=10)
        seed = time.time_ns()
        read_to_ends_that_move(thread, listener, ends, random.Random(seed), f"seed {seed}")
    finally:
        thread.stop()
        thread.join(15)
    assert listener.failures == []


def read_to_ends_that_move(thread, listener, ends, chance, told):
    """Raise the ends and rewind at random; nothing comes from behind an end, and all from before it."""
    epoch, expected, last = 0, dict.fromkeys(ends, 0), RECORDS // 6
    while any(offset < last for offset in expected.values()):
        if all(expected[source] == end for source, end in ends.items()):
            for source, end in ends.items():
                ends[source] = min(end + chance.choice((1, 7, 400, 3_000)), last)
            if chance.random() < 0.3:
                epoch += 1
                expected = {source: chance.randrange(offset + 1) for source, offset in expected.items()}
                thread.rewind(expected.copy(), epoch).result(timeout=10)
        try:
            chunk = listener.chunks.get(timeout=10)
        except queue.Empty:
            raise AssertionError(f"{told}: nothing comes at {expected} before {ends}") from None
        thread.handled(len(chunk), chunk.size_bytes)
        if chunk.epoch != epoch:
            continue
        offsets = [record.offset for record, _value in chunk.items]
        first = expected[chunk.source]
        assert offsets == list(range(first, first + len(offsets))), f"{told}: {offsets[0]} at {first}"
        assert offsets[-1] < ends[chunk.source], f"{told}: behind the end"
        expected[chunk.source] = chunk.next_offset
