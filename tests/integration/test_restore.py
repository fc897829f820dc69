"""Restores of several changelog partitions at once against real Kafka."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from structlog.testing import capture_logs

from connectors.kafka import restore
from connectors.kafka.admin import ensure_topics
from connectors.kafka.clients import Clients
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.restore import Restorer
from schemas.topics import TopicSpec

CHANGELOG = TopicSpec("restored.changelog.v1", "key", "", 3, -1, "compact", "State to restore.")
LARGE, SMALL, OTHER = 0, 1, 2
RECORDS = 150_000

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def topic(kafka_options):
    ensure_topics(kafka_options, [CHANGELOG])
    return CHANGELOG.named(kafka_options.topic_prefix)


@pytest.fixture
def append(kafka_options, topic):
    producer = Producer(kafka_options.client_config() | {"linger.ms": 5})

    def append(partition, first, last, value=b"v" * 32):
        for i in range(first, last):
            while True:
                try:
                    producer.produce(topic, value, b"%07d" % i, partition=partition)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    return append


class Store:
    """Takes changes; ``slowed`` makes each batch of them take as long as a slow disk."""

    def __init__(self, slow_s=0.0, fails=None):
        self.data, self.next_offset, self.slow_s, self.fails = {}, 0, slow_s, fails

    def __call__(self, changes, next_offset):
        if self.fails:
            raise self.fails
        time.sleep(self.slow_s)
        self.data.update(changes)
        self.next_offset = next_offset


def until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_small_partition_is_ready_while_a_large_one_is_restored(kafka_options, topic, append):
    append(LARGE, 0, RECORDS)
    append(SMALL, 0, 10)
    restorer, large, small = Restorer(kafka_options), Store(slow_s=0.05), Store()
    never = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        asked = threads.submit(
            restorer.restore, topic, LARGE, start=0, high=RECORDS, apply=large, cancelled=never
        )
        until(lambda: large.next_offset > 0)
        assert restorer.restore(topic, SMALL, start=0, high=10, apply=small, cancelled=never) == 10
        assert not asked.done(), "the small one did not wait for it"
        progress = restorer.progress[topic, LARGE]
        assert 0 < progress.remaining < RECORDS
        assert progress.remaining + large.next_offset <= RECORDS
        assert asked.result(60) == RECORDS
    assert len(large.data) == RECORDS
    assert len(small.data) == 10
    told = restorer.progress[topic, LARGE]
    assert (told.records, told.size_bytes, told.remaining) == (RECORDS, RECORDS * 39, 0)
    assert told.seconds >= 0.05
    assert restorer.progress[topic, SMALL].records == 10


def test_a_restore_goes_on_from_where_the_local_state_stands(kafka_options, topic, append):
    append(SMALL, 0, 20)
    append(SMALL, 0, 5, b"newer")
    store = Store()
    restorer = Restorer(kafka_options)
    never = threading.Event()
    applied = restorer.restore(topic, SMALL, start=15, high=25, apply=store, cancelled=never)
    assert (applied, store.next_offset) == (10, 25)
    assert store.data == {b"%07d" % i: b"newer" for i in range(5)} | {
        b"%07d" % i: b"v" * 32 for i in range(15, 20)
    }
    append(SMALL, 30, 31)
    assert restorer.restore(topic, SMALL, start=25, high=26, apply=store, cancelled=never) == 1
    assert restorer.progress[topic, SMALL].records == 11, "of all its restores"


def test_one_whose_consumer_brings_nothing_more_goes_on_by_another(kafka_options, topic, append, monkeypatch):
    monkeypatch.setattr(restore, "_ANEW_S", 1.0)
    append(SMALL, 0, 300)
    append(OTHER, 0, 300)
    made = []

    class Stuck(Consumer):
        """A real one; the first of them falls silent on one partition as soon as that is assigned."""

        def incremental_assign(self, partitions):
            super().incremental_assign(partitions)
            if self is made[0] and any(at.partition == SMALL for at in partitions):
                self.pause([TopicPartition(topic, SMALL)])

    def consumer(config):
        made.append(Stuck(config))
        return made[-1]

    restorer = Restorer(replace(kafka_options, clients=Clients(consumer=consumer)))
    stores = {SMALL: Store(), OTHER: Store()}
    never = threading.Event()
    with capture_logs() as told, ThreadPoolExecutor(2) as threads:
        asked = [
            threads.submit(restorer.restore, topic, at, start=0, high=300, apply=store, cancelled=never)
            for at, store in stores.items()
        ]
        assert [each.result(60) for each in asked] == [300, 300]
    assert [len(store.data) for store in stores.values()] == [300, 300]
    assert len(made) == 2
    (standstill,) = (line for line in told if "stands still" in line["event"])
    assert (standstill["partition"], standstill["position"], standstill["last_stable"]) == (SMALL, 0, 300)


def test_one_that_fails_fails_alone(kafka_options, topic, append):
    append(LARGE, 0, 20_000)
    append(OTHER, 0, 5)
    restorer, good = Restorer(kafka_options), Store()
    never = threading.Event()
    with ThreadPoolExecutor(3) as threads:
        broken = threads.submit(
            restorer.restore,
            topic,
            OTHER,
            start=0,
            high=5,
            apply=Store(fails=ValueError("no")),
            cancelled=never,
        )
        beyond = threads.submit(
            restorer.restore, topic, SMALL, start=7, high=9, apply=Store(), cancelled=never
        )
        whole = threads.submit(
            restorer.restore, topic, LARGE, start=0, high=20_000, apply=good, cancelled=never
        )
        with pytest.raises(ValueError, match="no"):
            broken.result(60)
        with pytest.raises(KafkaUnavailable, match=r"\[1\]"):  # a changelog that was cut meanwhile
            beyond.result(60)
        assert whole.result(60) == 20_000


def test_one_that_nobody_wants_any_more_ends_and_is_begun_anew(kafka_options, topic, append):
    append(LARGE, 0, RECORDS)
    restorer, slow, anew = Restorer(kafka_options), Store(slow_s=0.2), Store()
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(
            restorer.restore, topic, LARGE, start=0, high=RECORDS, apply=slow, cancelled=cancelled
        )
        until(lambda: slow.next_offset > 0)
        cancelled.set()
        assert first.result(60) < RECORDS
    never = threading.Event()
    assert restorer.restore(topic, LARGE, start=0, high=RECORDS, apply=anew, cancelled=never) == RECORDS
    assert len(anew.data) == RECORDS
