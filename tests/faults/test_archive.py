"""The archive while PostgreSQL is slow, lost after its COMMIT, or written by a worker that should be dead.

A row a stream, its newest revision; PostgreSQL's position is the log's end; nothing becomes a dead letter.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
import uuid
from typing import TYPE_CHECKING

import psycopg
import pytest
from confluent_kafka import Producer

from schemas.access import ROLES
from schemas.envelope import stream_key
from schemas.topics import RECORDS
from schemas.wire import WireCodec
from tests.faults.role_plants import planted
from tests.integration.postgres_case import stream
from tests.integration.postgres_proxy import PostgresProxy
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from confluent_kafka import Message

    from tests.faults.sink_table import SinkTable

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(240)]

SESSION_MS, POLL_MS = 6_000, 7_000
PARTITIONS = sum(topic.partitions for topic in ROLES["archive"].reads)


class Archived:
    """Workers of the archive, records published for them, and what PostgreSQL must hold of these."""

    def __init__(self, stack, kafka, codec: WireCodec, table: SinkTable, folder, seed: int) -> None:
        self.stack, self.kafka, self._codec, self._folder = stack, kafka, codec, folder
        self.table = table
        self.tenant = f"t-{uuid.uuid4().hex[:8]}"
        self.newest: dict[str, int] = {}
        self.workers: list[WorkerProcess] = []
        self._rng = random.Random(seed)
        self._revisions = itertools.count(1)
        self._producer = Producer(kafka.client_config() | {"partitioner": "murmur2_random"})
        self.database = psycopg.connect(stack.postgres_dsn, autocommit=True)

    def worker(self, folder: str, **env: str) -> WorkerProcess:
        settings = {
            "SLUICEGATE_WORKER__SESSION_TIMEOUT_MS": str(SESSION_MS),
            "SLUICEGATE_WORKER__MAX_POLL_INTERVAL_MS": str(POLL_MS),
            "SLUICEGATE_WORKER__STALL_MS_MAX": "1000",
            "SLUICEGATE_WORKER__TRANSACTION_TIMEOUT_MS": "5000",
            **env,
        }
        worker = WorkerProcess(self.stack, self.kafka, self._folder / folder, roles="archive", **settings)
        self.workers.append(worker)
        self.table.fault_ended("a worker started")
        return worker

    def publish(self, count: int = 200) -> None:
        """Revise streams at random."""
        for _ in range(count):
            name, revision = f"job:{self._rng.randrange(50)}", next(self._revisions)
            record = stream(name, tenant=self.tenant, revision=revision)
            value = self._codec.encode(RECORDS.subject, record)
            topic = RECORDS.named(self.kafka.topic_prefix)
            key = stream_key(self.tenant, name)
            self._producer.produce(topic, value, key, on_delivery=self._delivered)
            self.newest[name] = revision
        assert self._producer.flush(30) == 0

    def rows(self) -> dict[str, int]:
        ask = "SELECT stream_id, revision FROM sluicegate.streams WHERE tenant = %s"
        return dict(self.database.execute(ask, [self.tenant]).fetchall())

    def _delivered(self, error: object, message: Message) -> None:
        if error is None:
            self.table.history.acknowledged.add((message.partition() or 0, message.offset() or 0))

    def until(self, holds: Callable[[], object], what: str, within_s: float = 90.0) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            said = "\n".join(worker.log.read_text()[-2_000:] for worker in self.workers)
            assert time.monotonic() < deadline, f"never seen: {what}\n{said}"
            time.sleep(0.1)

    def close(self) -> None:
        for worker in self.workers:
            for process in worker.tree():
                process.resume()
            worker.kill()
        self.database.close()


@pytest.fixture
def archived(stack, kafka_options, topics, registry, sink_history, tmp_path, seed) -> Iterator[Archived]:
    topics()
    table = sink_history(stack, kafka_options, registry)
    case = Archived(stack, kafka_options, WireCodec(registry), table, tmp_path, seed)
    yield case
    case.close()


@pytest.mark.parametrize("then", ["it lives", "it is killed"])
def test_an_answer_to_commit_that_never_came(archived: Archived, then):
    with PostgresProxy(archived.stack.postgres_dsn) as proxy:
        worker = archived.worker("one", SLUICEGATE_POSTGRES__DSN=proxy.dsn)
        worker.wait_ready(PARTITIONS)
        archived.publish()
        archived.until(lambda: archived.rows() == archived.newest, "the first rows")
        proxy.arm("lose answer")
        archived.publish()
        archived.until(proxy.landed.is_set, "an answer that is lost")
        if then == "it is killed":
            worker.kill()
            archived.worker("one").wait_ready(PARTITIONS)
        else:
            archived.table.fault_ended("an answer was lost")
        archived.publish()
        archived.table.check()


def test_a_sink_that_stands_still_beyond_max_poll_interval_stays_a_member(archived: Archived):
    worker = archived.worker("one")
    worker.wait_ready(PARTITIONS)
    archived.publish()
    archived.until(lambda: archived.rows() == archived.newest, "the first rows")
    with psycopg.connect(archived.stack.postgres_dsn) as other:
        other.execute("LOCK TABLE sluicegate.streams IN ACCESS EXCLUSIVE MODE")
        archived.publish()
        archived.until(lambda: "took too long" in worker.log.read_text(), "a sink that waits")
        time.sleep(2 * POLL_MS / 1_000)
    archived.table.fault_ended("the table is free again")
    archived.table.check()
    said = worker.log.read_text()
    assert said.count("partition ready") == PARTITIONS, "it lost its partitions meanwhile"
    assert "max.poll.interval" not in said.lower()


def test_a_worker_that_slept_past_its_session_is_fenced_by_postgresql(archived: Archived):
    zombie = archived.worker("one")
    zombie.wait_ready(PARTITIONS)
    archived.publish()
    archived.until(lambda: archived.rows() == archived.newest, "the first rows")
    with psycopg.connect(archived.stack.postgres_dsn) as other:
        other.execute("LOCK TABLE sluicegate.streams IN ACCESS EXCLUSIVE MODE")
        archived.publish()  # the zombie falls asleep with a batch in its hands
        archived.until(lambda: "took too long" in zombie.log.read_text(), "a sink that waits")
        for process in zombie.tree():
            process.send_signal(signal.SIGSTOP)
    owner = archived.worker("two")
    owner.wait_ready(PARTITIONS)
    archived.publish()
    archived.until(lambda: archived.rows() == archived.newest, "the new owner's rows")
    owners = "SELECT min(owner) FROM sluicegate.progress WHERE sink = %s"
    name = f"{archived.kafka.topic_prefix}archive"
    assert archived.database.execute(owners, [name]).fetchone() >= (2,), "nobody took over"
    for process in zombie.tree():
        process.send_signal(signal.SIGCONT)
    archived.table.fault_ended("the zombie woke up")
    archived.publish()
    archived.table.check()
    assert all(worker.process.poll() is None for worker in archived.workers)


def test_an_archive_whose_position_moves_without_its_rows_is_found(archived: Archived, tmp_path):
    worker = archived.worker("one", **planted(tmp_path, "moves_on_without_rows"))
    worker.wait_ready(PARTITIONS)
    archived.publish()
    assert {found.invariant for found in archived.table.violations()} == {"I1", "I6"}
