"""The committer while partitions move: what stays is committed, what goes is let go of."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.chunk import SourcePartition, events_of
from connectors.kafka.consumer import PollThread
from connectors.kafka.membership import ConsumerOptions
from connectors.kafka.transaction import KafkaTransaction
from connectors.llm.committer import Committer, Row
from connectors.llm.offsets import Offsets
from schemas.topics import TopicSpec
from tests.support.read_topic import read_committed

ASKED = TopicSpec("moved.asked.v1", "key", "", 2, -1, "delete", "what is asked for")
LEDGER = TopicSpec("moved.ledger.v1", "key", "", 2, -1, "delete", "what is on record")


class Member:
    """One worker's part of it: takes what it is given, and commits a row of each partition that it keeps."""

    def __init__(self, kafka, name, loop):
        self._topic, self._loop = ASKED.named(kafka.topic_prefix), loop
        self.offsets, self.given, self.failures = Offsets(), set(), []
        self.let_go: list[Future[None]] = []
        self.poll = PollThread(
            kafka,
            ConsumerOptions(f"{self._topic}.group", name, assignment="cooperative-sticky"),
            {self._topic: events_of(list)},
            self,
        )
        self.committer = Committer(
            lambda metadata: KafkaTransaction(
                kafka,
                transactional_id=f"{self._topic}.{name}",
                group_metadata=metadata,
                committed_unit=lambda _source: None,
                timeout_ms=10_000,
                leaving=threading.Event(),
            ),
            lambda: self.poll.group_metadata,
            self.offsets,
            lambda _partition: 0,
            self.failures.append,
            lambda _seconds: None,
            loop,
        )
        self.committer.start()
        self.poll.start()

    def deliver(self, chunks):
        pass

    def assigned(self, sources):
        for source in sources:
            self.offsets.start(source, 0, 0, 0)
        self.given |= set(sources)

    def revoked(self, sources, *, lost):
        """Let go once what goes on in the partitions that stay is on record."""
        assert not lost
        self.offsets.stop(sources)
        self.given -= set(sources)
        kept = [self.record(source, b"kept") for source in self.given]
        done: Future[None] = Future()
        if not kept:
            done.set_result(None)
        for future in kept:
            future.add_done_callback(lambda each: done.set_result(each.result()))
        self.let_go.append(done)
        return done

    def failed_for_good(self, error):
        self.failures.append(error)

    def record(self, source: SourcePartition, value: bytes) -> Future[None]:
        tenure = self.offsets.tenure(source)
        assert tenure is not None
        row = Row(LEDGER, b"key", value, source.partition)
        return asyncio.run_coroutine_threadsafe(self.committer.put(tenure, [row]), self._loop)

    def stop(self):
        self.poll.stop()
        self.poll.join(15)
        self.committer.stop()
        self.committer.join(15)


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


@pytest.mark.timeout(120)
def test_what_stays_is_on_record_while_the_rest_is_let_go_of(kafka_options, loop):
    """A partition moves to who joins: the rebalance that takes it away has a generation of its own, and with
    the one before nothing is committed any more.
    """
    ensure_topics(kafka_options, [ASKED, LEDGER])
    first = Member(kafka_options, "first", loop)
    members = [first]
    try:
        _until(lambda: len(first.given) == 2)
        for source in first.given:
            first.record(source, b"before").result(timeout=20)
        members.append(Member(kafka_options, "second", loop))
        _until(lambda: first.let_go)
        first.let_go[0].result(timeout=20)
        _until(lambda: len(members[1].given) == 1)
        for member in members:
            (source,) = member.given
            member.record(source, b"after").result(timeout=20)
        assert first.failures == members[1].failures == []
    finally:
        for member in members:
            member.stop()
    found = read_committed(kafka_options, LEDGER, 5, quiet_s=0.3)
    assert sorted(message.value() for message in found) == [b"after", b"after", b"before", b"before", b"kept"]


def _until(holds):
    for _ in range(300):
        if holds():
            return
        threading.Event().wait(0.1)
    pytest.fail("never seen")
