"""The sink while PostgreSQL, the network or another owner misbehaves; each test sees its fault land."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from connectors.postgres.claim import Batch, Claim
from connectors.postgres.errors import FenceLost, OutcomeUnknown, SinkTimeout, SinkUnavailable
from tests.integration.postgres_case import TOPIC, TOPIC_ID, Database, stream
from tests.integration.postgres_proxy import PostgresProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connectors.postgres.sink import ArchiveSink

SLEEP_AT_COMMIT = """
CREATE FUNCTION $schema.wait_a_while() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(3); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON $schema.streams DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION $schema.wait_a_while();
"""


@pytest.fixture
def database(stack) -> Iterator[Database]:
    case = Database(stack.postgres_dsn)
    yield case
    case.close()


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Claim]]]:
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


@pytest.fixture
def proxy(stack) -> Iterator[PostgresProxy]:
    with PostgresProxy(stack.postgres_dsn) as line:
        yield line


def claimed(sink: ArchiveSink) -> Claim:
    return sink.claim(TOPIC, TOPIC_ID, 0, first=0)


def test_a_session_ended_in_the_middle_of_a_write_leaves_nothing(database, background):
    sink = database.sink()
    claim, pid = claimed(sink), database.session_of(sink)
    before = database.everything()
    with database.locked("streams"):
        writing = background(sink.write, claim, Batch(next=5, streams=[stream()]))
        database.until_waiting(pid, event="relation", query="INSERT%")
        database.terminate(pid)
        with pytest.raises(SinkUnavailable, match="administrator command") as caught:
            writing.result()
    assert caught.value.transient
    assert database.everything() == before

    with pytest.raises(SinkUnavailable, match="claim again"):  # the owner number ends with its connection
        sink.write(claim, Batch(next=5, streams=[stream()]))
    again = claimed(sink)
    assert (again.owner, again.next) == (2, 0)
    assert sink.write(again, Batch(next=5, streams=[stream()])).next == 5


def test_a_session_ended_exactly_at_commit_has_an_unknown_outcome_that_the_claim_settles(
    database, background
):
    sink = database.sink()
    claim, pid = claimed(sink), database.session_of(sink)
    database.query(SLEEP_AT_COMMIT)
    writing = background(sink.write, claim, Batch(next=5, streams=[stream()]))
    database.until_waiting(pid, event="PgSleep", query="COMMIT")
    database.terminate(pid)
    with pytest.raises(OutcomeUnknown, match="during COMMIT"):
        writing.result()
    assert claimed(sink).next == 0
    assert database.given() == {}


def test_an_answer_to_commit_that_is_lost_is_found_committed(database, proxy):
    sink = database.sink(dsn=proxy.dsn)
    claim = claimed(sink)
    proxy.arm("lose answer")
    with pytest.raises(OutcomeUnknown):
        sink.write(claim, Batch(next=5, streams=[stream()]))
    assert proxy.landed.is_set()
    again = claimed(sink)
    assert again.next == 5
    assert database.given() == {("default", "job:1"): stream()}


def test_a_commit_that_never_arrived_is_found_undone(database, proxy):
    sink = database.sink(dsn=proxy.dsn)
    claim = claimed(sink)
    proxy.arm("lose question")
    with pytest.raises(OutcomeUnknown):
        sink.write(claim, Batch(next=5, streams=[stream()]))
    assert proxy.landed.is_set()
    assert claimed(sink).next == 0
    assert database.given() == {}


@pytest.mark.parametrize(
    ("moment", "raised"), [(b"COMMIT\x00", OutcomeUnknown), (b"json_to_recordset", SinkTimeout)]
)
def test_a_server_that_falls_silent_is_given_up_within_the_bound(database, proxy, moment, raised):
    sink = database.sink(dsn=proxy.dsn, lock_timeout_ms=300, statement_timeout_ms=400, answer_timeout_ms=600)
    claim = claimed(sink)
    proxy.arm("freeze", moment)
    started = time.monotonic()
    with pytest.raises(raised):
        sink.write(claim, Batch(next=5, streams=[stream()]))
    assert proxy.landed.is_set()
    assert 0.5 < time.monotonic() - started < 5
    assert database.given() == {}
    with pytest.raises(SinkUnavailable, match="claim again"):  # an answer that comes late is for nobody
        sink.write(claim, Batch(next=5))


def test_a_server_that_falls_silent_while_connecting_is_given_up_within_the_bound(database, proxy):
    proxy.arm("freeze", b"user")
    started = time.monotonic()
    with pytest.raises(SinkUnavailable, match="timeout"):
        database.sink(dsn=proxy.dsn, connect_timeout_s=2)
    assert proxy.landed.is_set()
    assert time.monotonic() - started < 15


def test_a_lock_in_the_way_times_out_and_the_same_claim_goes_on_after_it(database):
    sink = database.sink(lock_timeout_ms=200)
    claim = claimed(sink)
    before = database.everything()
    with database.locked("streams"):
        started = time.monotonic()
        with pytest.raises(SinkTimeout, match="lock timeout") as caught:
            sink.write(claim, Batch(next=5, streams=[stream()]))
        assert 0.2 <= time.monotonic() - started < 7
    assert caught.value.transient
    assert database.everything() == before
    assert sink.write(claim, Batch(next=5, streams=[stream()])).next == 5


def test_a_statement_that_takes_too_long_times_out(database):
    sink = database.sink(lock_timeout_ms=100, statement_timeout_ms=300)
    claim = claimed(sink)
    database.query(SLEEP_AT_COMMIT.replace("DEFERRABLE INITIALLY DEFERRED", ""))
    with pytest.raises(SinkTimeout, match="statement timeout"):
        sink.write(claim, Batch(next=5, streams=[stream()]))
    assert database.given() == {}


def test_a_claim_waits_for_the_batch_that_is_being_stored_and_then_holds(database, background):
    old, new = database.sink(), database.sink()
    claim = claimed(old)
    with database.locked("streams"):
        writing = background(old.write, claim, Batch(next=5, streams=[stream()]))
        database.until_waiting(database.session_of(old), event="relation", query="INSERT%")
        claiming = background(claimed, new)
        database.until_waiting(database.session_of(new), event="transactionid")
        assert not claiming.done()
    assert writing.result().next == 5
    assert (claiming.result().owner, claiming.result().next) == (2, 5)
    with pytest.raises(FenceLost):
        old.write(writing.result(), Batch(next=6))


def test_a_fence_that_waits_for_a_claim_is_lost_to_it(database, background):
    zombie = database.sink()
    stale = claimed(zombie)
    with database.admin.transaction():
        database.query("UPDATE $schema.progress SET owner = owner + 1")  # a claim that is not committed yet
        writing = background(zombie.write, stale, Batch(next=5, streams=[stream()]))
        with Database(database.options.dsn, database.options.schema).admin as watcher:
            ask = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'transactionid'"
            pid = database.session_of(zombie)
            database.until(lambda: watcher.execute(ask, (pid,)).fetchall(), "the fence waiting")
    with pytest.raises(FenceLost, match="owner 2"):
        writing.result()
    assert database.given() == {}


def test_an_owner_that_stopped_inside_its_transaction_is_ended_and_its_partition_freed(database):
    sleeper = database.sink(idle_in_transaction_timeout_ms=600)
    claim = claimed(sleeper)
    assert sleeper._connection is not None
    pid = database.session_of(sleeper)
    sleeper._connection.execute("BEGIN")
    sleeper._move_fence(sleeper._connection, claim, 5)  # a worker stopped here, by SIGSTOP or a long pause

    started = time.monotonic()
    other = database.sink(lock_timeout_ms=200)
    with pytest.raises(SinkTimeout, match="claim partition 0"):
        claimed(other)
    database.until(lambda: not database.query("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid), "freed")
    assert time.monotonic() - started < 10
    assert (claimed(other).owner, claimed(other).next) == (2, 0)
    sleeper._connection = None


def test_a_lost_connection_is_replaced_by_the_next_claim(database):
    sink = database.sink()
    claimed(sink)
    database.terminate(database.session_of(sink))
    assert claimed(sink).owner == 2
    assert sink.counts.connections == 2


def test_a_claim_of_an_earlier_connection_cannot_write_on_a_later_one(database):
    sink = database.sink()
    one, two = claimed(sink), sink.claim(TOPIC, TOPIC_ID, 1, first=0)
    database.terminate(database.session_of(sink))
    claimed(sink)
    for stale in (one, two):
        with pytest.raises(SinkUnavailable, match="claim again"):
            sink.write(stale, Batch(next=5))


def test_a_server_that_became_a_replica_is_left_for_another_connection(database):
    sink = database.sink()
    claim = claimed(sink)
    assert sink._connection is not None
    sink._connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(SinkUnavailable, match="read-only"):
        sink.write(claim, Batch(next=5, streams=[stream()]))
    assert sink.write(claimed(sink), Batch(next=5, streams=[stream()])).next == 5


def test_two_sinks_on_the_same_rows_from_two_partitions_never_deadlock(database):
    rows = [stream(f"job:{n}") for n in range(300)]
    failures: list[BaseException] = []

    def work(partition: int) -> None:
        try:
            sink = database.sink()
            claim = sink.claim(TOPIC, TOPIC_ID, partition, first=0)
            for n in range(1, 15):
                given = [row | {"revision": 2 * n + partition} for row in rows]
                claim = sink.write(claim, Batch(next=n, streams=given[::-1] if partition else given))
        except BaseException as error:  # noqa: BLE001  # a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work, args=(partition,)) for partition in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {row["revision"] for row in database.given().values()} == {29}
