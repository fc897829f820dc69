"""The coordinator at the moments that hurt: nothing is lost, doubled or waited for without an end."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager

import pytest

from connectors.kafka.chunk import EventChunk, SourcePartition
from connectors.kafka.coordinator import Coordinator
from connectors.kafka.errors import AppendRefused, KafkaUnavailable, NotSupported, TransactionAborted
from connectors.kafka.ports import Backoff, CoordinatorOptions
from schemas.record import Record
from schemas.topics import INGEST_STREAMS_CHANGELOG, OUTPUT
from state.checkpoint import UnitOfWork
from state.effects import PartitionScope
from state.memory import MemoryBackend
from tests.unit.test_checkpoint import Letters, Recording

TOPIC = "streams.input.v1"
SOURCE = SourcePartition(TOPIC, 0)

pytestmark = pytest.mark.timeout(20)


class Gate(Recording):
    """A transaction that waits at ``at`` until it is let on."""

    def __init__(self, at="", fails=None):
        super().__init__(fails)
        self.at, self.reached, self.let_on = at, threading.Event(), threading.Event()

    def _call(self, name, *detail):
        if name == self.at:
            self.reached.set()
            assert self.let_on.wait(10)
        super()._call(name, *detail)


def answered(result=None, error=None):
    future = Future()
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
    return future


class Poller:
    """Stands where the poll thread stands: answers at once, and keeps what it was asked."""

    def __init__(self):
        self.assignment = frozenset()
        self.rewinds, self.starts, self.outstanding, self.outstanding_bytes = [], [], 0, 0
        self.stops, self.gathered = [], []
        self.rewind_error = None
        self.flooded = False

    def handled(self, records, size_bytes):
        self.outstanding -= records
        self.outstanding_bytes -= size_bytes

    def gather(self, seconds):
        self.gathered.append(seconds)

    def start_partition(self, source, offset):
        self.starts.append((source, offset))
        return answered()

    def stop_partition(self, source):
        self.stops.append(source)
        return answered()

    def rewind(self, positions, epoch):
        self.rewinds.append((positions, epoch))
        return answered(error=self.rewind_error)

    def stop(self):
        pass

    def join(self, _timeout_s):
        pass


class Stores:
    """The partitions' state in memory; ``opens`` counts, ``fail`` has the next openings fail."""

    def __init__(self, unit):
        self.unit, self.backends = unit, {}
        self.opens, self.at_work, self.at_work_max, self.fail = 0, 0, 0, []
        self.slow = threading.Event()
        self.slow.set()

    def open(self, source, _cancelled):
        self.opens += 1
        assert self.unit._transaction.calls[-1] == ("settle",), "a restore may wait for our own transaction"
        if self.fail:
            raise self.fail.pop(0)
        self.at_work += 1
        self.at_work_max = max(self.at_work_max, self.at_work)
        self.slow.wait(5)
        self.at_work -= 1
        self.backends.setdefault(source, MemoryBackend())
        return 0

    def ready(self, source):
        scope = PartitionScope(
            "agent", source.partition, self.backends[source], INGEST_STREAMS_CHANGELOG, Letters()
        )
        self.unit.add_scope("agent", scope)

    def close(self, source):
        self.unit.remove_scope("agent", source.partition)


class Bench:
    def __init__(self, transaction, policy="dead-letter", in_flight=None, **options):
        self.transaction = transaction
        self.unit = UnitOfWork(transaction, lambda spec: spec.name)
        self.stores = Stores(self.unit)
        self.committed, self.fatal, self.stopped_at = [], [], {}
        self.coordinator = Coordinator(
            agents={TOPIC: "agent"},
            policies={TOPIC: policy},
            unit=self.unit,
            partitions=self.stores,
            options=CoordinatorOptions(**options),
            on_committed=self.committed.append,
            on_fatal=self._on_fatal,
            in_flight=in_flight,
        )
        self.poller = self.coordinator.poller = Poller()

    def _on_fatal(self, error, where):
        self.fatal.append(error)
        self.stopped_at = where

    async def assign(self):
        self.poller.assignment = frozenset([SOURCE])
        self.coordinator.assigned([SOURCE])
        await until(lambda: SOURCE in self.coordinator.assignment)

    def deliver(self, first, last, epoch=0):
        items = [(Record(TOPIC, 0, i, 0, b"k", b"v"), i) for i in range(first, last)]
        size_bytes = sum(record.size_bytes for record, _ in items)
        self.poller.outstanding += len(items)
        self.poller.outstanding_bytes += size_bytes
        self.coordinator.deliver([EventChunk(SOURCE, epoch, items, last, size_bytes)])

    async def work(self):
        """Be the agent for one chunk, as ``Stream.batches`` is."""
        lease = await self.coordinator.take(TOPIC)
        lease.begin()
        for record, value in lease.chunk.items:
            lease.scope.emit(OUTPUT, b"%d" % value, record.value)
            lease.scope.state.put(b"%d" % value, b"seen")
        return lease

    async def handle(self, first, last, epoch=0):
        """Be the agent for one chunk that comes, to its end."""
        self.deliver(first, last, epoch)
        await self.work()
        self.coordinator.done(TOPIC)

    @property
    def commits(self):
        return [call for call in self.transaction.calls if call[0] == "commit"]

    @property
    def outputs(self):
        return [append.key for append in self.transaction.log if append.topic is OUTPUT]

    @property
    def changelog(self):
        return [append.key for append in self.transaction.log if append.topic is not OUTPUT]


@asynccontextmanager
async def coordinator(transaction=None, **options):
    bench = Bench(transaction or Recording(), **options)
    yield bench
    await bench.coordinator.stop()


async def until(holds):
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  it is told by nobody
            await asyncio.sleep(0.005)


def test_a_rebalance_during_the_last_commit_takes_nothing_out_of_it():
    async def scenario():
        gate = Gate("begin")
        async with coordinator(gate) as bench:
            await bench.assign()
            bench.deliver(0, 2)
            await bench.work()
            stopping = asyncio.create_task(bench.coordinator.stop())
            bench.coordinator.done(TOPIC)
            await until(gate.reached.is_set)
            revoked = asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
            await asyncio.sleep(0.05)
            gate.let_on.set()
            await asyncio.gather(stopping, revoked)
        assert bench.outputs == bench.changelog == [b"0", b"1"]
        assert bench.stores.backends[SOURCE].get(b"1") == b"seen"
        assert bench.commits == [("commit",)]
        assert bench.fatal == []

    asyncio.run(scenario())


def test_a_rewind_that_fails_stops_the_worker_instead_of_leaving_it_mute():
    async def scenario():
        async with coordinator(Recording(fails="commit")) as bench:
            bench.poller.rewind_error = TransactionAborted("seek refused")
            await bench.assign()
            await bench.handle(0, 1)
            await until(lambda: bench.fatal)
        assert str(bench.fatal[0]) == "seek refused"

    asyncio.run(scenario())


def test_a_second_that_waits_for_the_same_topic_is_refused_and_not_left_to_wait():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            first = asyncio.create_task(bench.coordinator.take(TOPIC))
            await asyncio.sleep(0)
            with pytest.raises(NotSupported, match=f"a second iteration over {TOPIC}, which agent reads"):
                await bench.coordinator.take(TOPIC)
            assert isinstance(bench.fatal[0], NotSupported)
            first.cancel()

    asyncio.run(scenario())


def test_what_fails_after_a_commit_stops_the_worker_and_is_not_swallowed():
    async def scenario():
        async with coordinator() as bench:
            bench.coordinator._on_committed = lambda _result: 1 / 0
            await bench.assign()
            await bench.handle(0, 1)
            await until(lambda: bench.fatal)
        assert isinstance(bench.fatal[0], ZeroDivisionError)

    asyncio.run(scenario())


def test_a_commit_that_never_ends_is_left_behind_and_the_poll_thread_let_go():
    async def scenario():
        gate = Gate("offsets")
        async with coordinator(gate) as bench:
            await bench.assign()
            await bench.handle(0, 1)
            await until(gate.reached.is_set)
            revoked = asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=True))
            async with asyncio.timeout(5):
                await bench.coordinator.stop(within_s=0.1)
                await revoked
            assert bench.coordinator.assignment == frozenset()
            assert bench.stores.backends[SOURCE].position() is None
            gate.let_on.set()
        assert bench.fatal == []

    asyncio.run(scenario())


def test_a_commit_that_was_left_behind_commits_whole_if_it_goes_on_after_all():
    async def scenario():
        gate = Gate("flush")  # the first: outputs are appended, changelog and offsets are not
        async with coordinator(gate) as bench:
            await bench.assign()
            bench.deliver(0, 1)
            lease = await bench.work()
            lease.scope.emit(OUTPUT, b"indexed", b"v", on_offset=lambda _offset: None)
            bench.coordinator.done(TOPIC)
            await until(gate.reached.is_set)
            await bench.coordinator.stop(within_s=0.1)
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
            gate.let_on.set()
            await until(lambda: bench.unit.empty)
        assert [call[0] for call in gate.calls[-2:]] == ["offsets", "commit"]
        assert bench.outputs == [b"0", b"indexed"]
        assert bench.changelog == [b"0"]
        assert bench.stores.backends[SOURCE].get(b"0") == b"seen"

    asyncio.run(scenario())


@pytest.mark.parametrize("whose", ["stop", "rebalance"])
def test_who_ends_the_unit_does_not_wait_for_the_pause_after_an_abort(whose):
    async def scenario():
        async with coordinator(Recording(fails="commit"), backoff=Backoff(600_000, 600_000)) as bench:
            await bench.assign()
            await bench.handle(0, 1)
            await until(lambda: bench.coordinator._aborts == 1)
            if whose == "stop":
                await bench.coordinator.stop()
                assert not bench.coordinator.abandoned
                assert bench.poller.rewinds == [], "who reads it next begins at what is committed"
            else:
                await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
                assert bench.poller.rewinds == [({SOURCE: 0}, 1)]

    asyncio.run(scenario())


def test_an_error_while_an_event_is_isolated_stops_the_worker_and_its_records_are_not_handled(monkeypatch):
    async def scenario():
        async with coordinator(attempts_max=1) as bench:
            await bench.assign()
            bench.deliver(0, 1)
            lease = await bench.work()
            monkeypatch.setattr(lease.scope._letters, "letter", lambda *_a, **_k: 1 / 0, raising=False)
            bench.coordinator.failed(TOPIC, ValueError("poison"))
            assert isinstance(bench.fatal[0], ZeroDivisionError)
        assert bench.commits == []

    asyncio.run(scenario())


def test_a_unit_that_is_refused_again_and_again_stops_the_worker_and_says_why():
    refusal = AppendRefused("streams.output.v1", b"key", 9)
    transaction = Recording(fails="append", error=refusal)

    async def scenario():
        async with coordinator(transaction, backoff=Backoff(1)) as bench:
            await bench.assign()
            for epoch in range(5):
                await bench.handle(0, 1, epoch)
                await until(lambda epoch=epoch: len(bench.poller.rewinds) > epoch or bench.fatal)
            assert bench.fatal == [refusal]
        assert len(bench.poller.rewinds) == 4

    asyncio.run(scenario())


def test_stop_asks_for_no_rewind_when_the_last_commit_fails():
    async def scenario():
        async with coordinator(Recording(fails="commit")) as bench:
            await bench.assign()
            bench.deliver(0, 1)
            await bench.work()
            stopping = asyncio.create_task(bench.coordinator.stop())
            await asyncio.sleep(0)
            bench.coordinator.done(TOPIC)
            await stopping
        assert bench.poller.rewinds == []

    asyncio.run(scenario())


def test_a_partition_that_comes_back_while_its_opening_is_tried_again_is_opened_once():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
            bench.stores.fail = [KafkaUnavailable("kafka:9092", "away")]
            bench.coordinator.assigned([SOURCE])
            await until(lambda: bench.stores.opens == 2)  # it failed, and will be tried again in a second
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
            bench.stores.slow.clear()
            bench.coordinator.assigned([SOURCE])
            await asyncio.sleep(1.5)
            bench.stores.slow.set()
            await until(lambda: SOURCE in bench.coordinator.assignment)
            await asyncio.sleep(0.1)
            assert bench.stores.at_work_max == 1
            assert len(bench.poller.starts) == 2

    asyncio.run(scenario())


def test_partitions_are_ready_one_by_one_and_none_waits_for_another_ones_restore(monkeypatch):
    large = [SourcePartition(TOPIC, partition) for partition in range(1, 10)]

    async def scenario():
        async with coordinator() as bench:
            let_on = threading.Event()
            plain = bench.stores.open

            def open_slowly(source, cancelled):
                start = plain(source, cancelled)
                assert source not in large or let_on.wait(10)
                return start

            monkeypatch.setattr(bench.stores, "open", open_slowly)
            bench.coordinator.assigned([*large, SOURCE])
            await until(lambda: bench.coordinator.assignment == {SOURCE})
            await bench.handle(0, 1)
            await until(lambda: bench.committed)  # it is read and committed meanwhile
            let_on.set()
            await until(lambda: bench.coordinator.assignment == {*large, SOURCE})

    asyncio.run(scenario())


def test_an_agent_that_asks_anew_with_a_chunk_in_hand_is_given_it_again_by_halves():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            bench.deliver(0, 2)
            await bench.work()  # its iterator is closed here: neither done nor failed
            bench.deliver(2, 3)
            again = await bench.work()
            assert [value for _record, value in again.chunk.items] == [0]
            bench.coordinator.done(TOPIC)
            for _ in range(2):
                await bench.work()
                bench.coordinator.done(TOPIC)
            await until(lambda: bench.outputs == [b"0", b"1", b"2"])
            await until(lambda: bench.poller.outstanding == 0)

    asyncio.run(scenario())


def test_an_aborted_unit_goes_back_to_what_is_committed_and_its_chunks_are_void():
    async def scenario():
        transaction = Recording()
        async with coordinator(transaction) as bench:
            await bench.assign()
            await bench.handle(0, 2)
            await until(lambda: bench.committed)
            transaction.fails = "commit"
            await bench.handle(2, 4)
            await until(lambda: bench.poller.rewinds == [({SOURCE: 2}, 1)])
            transaction.fails = None
            transaction.log.clear()
            bench.deliver(4, 5)  # of the old epoch: its predecessors come again first
            await bench.handle(2, 5, epoch=1)
            await until(lambda: len(bench.committed) == 2)
            assert bench.outputs == [b"2", b"3", b"4"]
            assert bench.poller.outstanding == 0

    asyncio.run(scenario())


def test_lost_partitions_commit_nothing_of_what_is_in_hand():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            bench.deliver(0, 2)
            lease = await bench.work()
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=True))
            assert lease.void
            bench.coordinator.done(TOPIC)
        assert bench.transaction.calls == [("settle",)]
        assert bench.poller.outstanding == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", [False, True])
def test_a_partition_that_stays_reads_again_what_was_dropped_when_another_went(lost):
    other = SourcePartition(TOPIC, 1)

    async def scenario():
        async with coordinator(stall_ms_max=20) as bench:
            bench.poller.assignment = frozenset([SOURCE, other])
            bench.coordinator.assigned([SOURCE, other])
            await until(lambda: len(bench.coordinator.assignment) == 2)
            bench.deliver(0, 3)
            bench.deliver(3, 6)
            await asyncio.sleep(0)
            lease = await bench.work()  # and stalls: its unit is dropped when the other partition goes
            await asyncio.wrap_future(bench.coordinator.revoked([other], lost=lost))
            assert lease.void
            assert bench.poller.rewinds == [({SOURCE: 0}, 1)]
            assert bench.poller.outstanding == 0
            lease.scope.emit(OUTPUT, b"key", b"too late")  # it wakes up, and is in no unit any more
            bench.coordinator.done(TOPIC)
            bench.deliver(0, 6, epoch=1)
            await asyncio.sleep(0)
            await bench.work()
            bench.coordinator.done(TOPIC)
            await until(lambda: bench.committed)
            assert bench.outputs == [b"%d" % n for n in range(6)]

    asyncio.run(scenario())


def test_the_poll_thread_may_speak_after_the_loop_has_closed():
    kept = []

    async def scenario():
        async with coordinator() as bench:
            kept.append(bench)

    asyncio.run(scenario())
    late = kept[0].coordinator
    late.deliver([])
    late.assigned([SOURCE])
    late.failed_for_good(ValueError("late"))
    assert late.revoked([SOURCE], lost=False).result(timeout=1) is None
