"""A unit without a transaction: nothing is committed before it is acknowledged, nothing old comes late."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.kafka import appends as waits
from connectors.kafka.at_least_once import AtLeastOnce
from connectors.kafka.chunk import SourcePartition
from connectors.kafka.clients import Clients
from connectors.kafka.errors import (
    AppendRefused,
    ConsumerFailed,
    NotAuthorized,
    ProducerFailed,
    TransactionAborted,
)
from connectors.kafka.options import KafkaOptions
from schemas.topics import INGEST_STREAMS_CHANGELOG, OUTPUT
from state.checkpoint import UnitOfWork
from state.effects import Append, PartitionScope
from state.memory import MemoryBackend
from tests.unit.test_checkpoint import Letters

SOURCE = SourcePartition("streams.input.v1", 2)

pytestmark = pytest.mark.timeout(20)


class Message:
    def __init__(self, topic, offset):
        self._topic, self._offset = topic, offset

    def topic(self):
        return self._topic

    def offset(self):
        return self._offset

    def key(self):
        return b"key"

    def value(self):
        return bytes(99)


class Queue:
    """Stands where librdkafka's producer stands: acknowledges in order, unless it is ``away``."""

    def __init__(self, config):
        self.config, self.queued, self.log, self.away, self.error = config, [], [], False, None

    def produce(self, topic, value, key, partition, on_delivery):
        self.queued.append((topic, key, value, on_delivery))

    def flush(self, _timeout_s):
        while self.queued and not self.away:
            topic, key, value, on_delivery = self.queued.pop(0)
            if self.error is None:
                self.log.append((topic, key, value))
            on_delivery(self.error, Message(topic, len(self.log) - 1))
        return len(self.queued)

    def poll(self, _timeout_s):
        return 0

    def list_topics(self, topic=None, *, timeout):
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None)})

    def __len__(self):
        return len(self.queued)

    def purge(self):
        self.queued.clear()


class Bench:
    """A unit of work over it, with one scope."""

    def __init__(self):
        self.commits, self.answer, self.leaving = [], None, threading.Event()
        self.transaction = AtLeastOnce(
            KafkaOptions("kafka:9092", clients=Clients(producer=Queue)),
            commit_offsets=self._commit,
            timeout_ms=50,
            leaving=self.leaving,
        )
        self.transaction.open()
        self.queue = self.transaction._producer
        self.unit = UnitOfWork(self.transaction, lambda spec: spec.name)
        self.backend = MemoryBackend()
        self.scope = PartitionScope("agent", 2, self.backend, INGEST_STREAMS_CHANGELOG, Letters())
        self.unit.add_scope("agent", self.scope)

    def _commit(self, offsets):
        acknowledged = not len(self.queue)
        self.commits.append(({(part.topic, part.partition): part.offset for part in offsets}, acknowledged))
        future = Future()
        if self.answer is None:
            future.set_result(None)
        elif isinstance(self.answer, Exception):
            future.set_exception(self.answer)
        return future

    def handle(self, offset, value=b"v"):
        self.scope.emit(OUTPUT, b"key", value, partition=2)
        self.scope.state.put(b"state", value)
        self.unit.advance(SOURCE, offset + 1, 1)

    def values(self, topic):
        return [value for name, _key, value in self.queue.log if name == topic.name]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(waits, "ASK_S", 0.01)
    return Bench()


def refused(code, *, fatal=False):
    return KafkaException(KafkaError(code, "refused", fatal=fatal))


def test_offsets_commit_when_all_is_acknowledged_and_the_store_is_written_then(bench):
    bench.handle(42, b"one")
    bench.unit.commit()

    assert bench.commits == [({SOURCE: 43}, True)]
    assert bench.values(OUTPUT) == [b"one"]
    assert (bench.backend.get(b"state"), bench.backend.position().offset) == (b"one", 2)


def test_what_is_not_acknowledged_commits_nothing_and_comes_before_the_next(bench):
    bench.queue.away = True
    bench.handle(42, b"one")
    with pytest.raises(TransactionAborted, match="2 records were not acknowledged"):
        bench.unit.commit()
    assert bench.commits == []
    assert bench.backend.get(b"state") is None

    bench.handle(42, b"again")
    with pytest.raises(TransactionAborted):  # the next waits for room: one unit is queued at most
        bench.unit.commit()
    assert len(bench.queue) == 2

    bench.queue.away = False
    bench.handle(42, b"again")
    bench.unit.commit()
    assert bench.values(OUTPUT) == bench.values(INGEST_STREAMS_CHANGELOG) == [b"one", b"again"]
    assert bench.commits == [({SOURCE: 43}, True)]
    assert bench.backend.get(b"state") == b"again"


def test_an_offset_of_a_unit_that_was_given_up_is_nobodys(bench):
    heard = []
    bench.queue.away = True
    bench.transaction.begin()
    bench.transaction.append([Append(OUTPUT, b"k", b"v", 2, lambda offset: heard.append(("old", offset)))])
    with pytest.raises(TransactionAborted):
        bench.transaction.flush()
    bench.queue.away = False
    bench.transaction.begin()
    bench.transaction.append([Append(OUTPUT, b"k", b"v", 2, lambda offset: heard.append(("new", offset)))])
    bench.transaction.flush()

    assert heard == [("new", 1)]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(KafkaError.ILLEGAL_GENERATION), TransactionAborted),
        (refused(KafkaError.GROUP_AUTHORIZATION_FAILED), NotAuthorized),
        (ConsumerFailed("group", "its poll thread has ended"), ConsumerFailed),
    ],
)
def test_offsets_that_are_refused_leave_the_store_as_it_was(bench, answer, error):
    bench.answer = answer
    bench.handle(42)
    with pytest.raises(error):
        bench.unit.commit()

    assert bench.backend.get(b"state") is None
    assert bench.unit.empty


def test_an_answer_that_never_comes_is_waited_for_with_an_end_and_not_by_a_worker_that_leaves(bench):
    bench.answer = "never"
    bench.handle(42)
    with pytest.raises(TransactionAborted, match="does not take the offsets"):
        bench.unit.commit()

    bench.transaction._timeout_s = 3_600.0
    threading.Timer(0.05, bench.leaving.set).start()
    bench.handle(42)
    with pytest.raises(TransactionAborted):
        bench.unit.commit()


@pytest.mark.parametrize(
    ("code", "fatal", "error"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, False, AppendRefused),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False, NotAuthorized),
        (KafkaError.NOT_ENOUGH_REPLICAS, False, TransactionAborted),
        (KafkaError._FATAL, True, ProducerFailed),
    ],
)
def test_a_record_that_is_refused_has_its_unit_handled_again_or_the_worker_stop(bench, code, fatal, error):
    bench.queue.error = KafkaError(code, "refused", fatal=fatal)
    bench.handle(42)
    with pytest.raises(error):
        bench.unit.commit()

    assert bench.commits == []


def test_the_producer_never_gives_a_record_up(bench):
    assert bench.queue.config["message.timeout.ms"] == 0
    assert bench.queue.config["enable.idempotence"] is True


def test_offsets_carry_their_note(bench):
    parts: list[TopicPartition] = []
    bench.transaction._commit_offsets = lambda offsets: parts.extend(offsets) or bench._commit(offsets)
    bench.unit.advance(SOURCE, 43, 0, "ValueError: poison")
    bench.unit.commit()

    (part,) = parts
    assert part.metadata == f"{bench.unit.number} ValueError: poison"


def test_where_a_partition_begins_is_committed_and_a_rebalance_in_between_waited_for(bench):
    answers = [refused(KafkaError.REBALANCE_IN_PROGRESS), refused(KafkaError.REBALANCE_IN_PROGRESS), None]
    commit = bench.transaction._commit_offsets

    def answered(offsets):
        bench.answer = answers.pop(0)
        return commit(offsets)

    bench.transaction._commit_offsets = answered
    bench.transaction._timeout_s = 3_600.0
    bench.transaction.begin_at(SOURCE, 17, threading.Event())
    assert bench.commits == [({SOURCE: 17}, True)] * 3

    answers.append(refused(KafkaError.ILLEGAL_GENERATION))
    bench.transaction._timeout_s = 0.0
    with pytest.raises(TransactionAborted):
        bench.transaction.begin_at(SOURCE, 17, threading.Event())


def test_a_partition_that_went_away_while_it_was_opened_commits_nothing(bench):
    cancelled = threading.Event()
    cancelled.set()
    bench.transaction.begin_at(SOURCE, 17, cancelled)
    assert bench.commits == []
