"""Time on silent partitions: it passes once, with what falls due by it, and only where nothing is behind."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from confluent_kafka import TopicPartition

from connectors.kafka.idle import FollowedIdle, IdleStep, IdleTime
from connectors.kafka.memory import MemoryKafka
from connectors.kafka.options import KafkaOptions
from connectors.kafka.positions import PositionReader
from connectors.kafka.tails import Tails
from pipelines.errors import WorkerStopped
from pipelines.extension import Extension
from pipelines.testing import AgentDriver
from pipelines.testing import role as role_module
from schemas.topics import INPUT, OUTPUT
from state.errors import StateError
from state.watermark import BEGINNING_US, Watermark
from tests.support.silent_agent import KEPT, START_US, closes_once, extension
from tests.support.twin_scenario import EACH, PARTITIONS, READINGS, SCHEMA, SUBJECT
from tests.unit.test_checkpoint import Recording
from tests.unit.test_coordinator import SOURCE, TOPIC, Bench, Gate, until

S = 1_000_000


class AsInProduction(IdleTime):
    """The engine's own, where the driver would have the test's."""

    def __init__(self, reader, tails, _now_us):
        super().__init__(reader, tails)

    async def look_now(self, _coordinator):
        return False


pytestmark = pytest.mark.timeout(60)


def test_event_time_goes_on_from_where_the_records_left_it_and_from_nowhere_else():
    clock = Watermark(1 * S)
    clock.idle(5 * S)
    assert clock.now_us == BEGINNING_US
    clock.see(10 * S, 10 * S)
    clock.idle(5 * S)
    assert clock.now_us == 14 * S


# -- when a step is taken: the real coordinator, a log in memory, and a clock that the test moves -----------


class Clocked(IdleTime):
    now = 0.0

    def now_s(self):
        return self.now


class ClockedFollowed(FollowedIdle):
    now = 0.0

    def now_s(self):
        return self.now


class World:
    def __init__(self, transaction=None, follows=None):
        self.log = MemoryKafka(lambda: 0)
        self.log.create([INPUT])
        kafka = KafkaOptions("memory:0", clients=self.log.clients())
        reader, self.tails = PositionReader(kafka, "group"), Tails(kafka)
        asks = reader, self.tails
        self.idle = Clocked(*asks) if follows is None else ClockedFollowed(*asks, follows)
        self.notes = []
        self.idle.note = lambda *what: self.notes.append(what)
        self.idle.steps = {TOPIC: IdleStep(10_000, self.step)}
        self.bench = Bench(transaction or Recording())
        self.bench.coordinator._on_committed = self._committed
        self.told, self.raises, self.stages = [], None, True

    def step(self, scope, silent_us):
        self.told.append(silent_us)
        if self.stages:
            scope.emit(OUTPUT, b"%d" % silent_us, b"")
            scope.state.put(b"clock", b"%d" % silent_us)
        if self.raises is not None:
            raise self.raises

    def _committed(self, result):
        self.bench.committed.append(result)
        self.idle.committed(result.positions)

    async def at(self, now_s, *, commits=0):
        """Move the clock, look, and wait for so many commits in all."""
        self.idle.now = now_s
        await self.idle.look(self.bench.coordinator)
        await until(lambda: len(self.bench.committed) >= commits)

    def commit(self, offset, metadata):
        """Have the group stand there, as a worker before left it."""
        self.log.commit("group", [TopicPartition(TOPIC, 0, offset, metadata=metadata)])

    def producer(self):
        producer = self.log.clients().producer({"transactional.id": "another"})
        producer.init_transactions(1)
        producer.begin_transaction()
        producer.produce(TOPIC, b"v", b"k", partition=0)
        return producer


@asynccontextmanager
async def world(transaction=None, follows=None):
    made = World(transaction, follows)
    await made.bench.assign()
    await made.at(0)
    yield made
    await made.bench.coordinator.stop()
    made.idle.close()
    made.tails.close()


def test_silence_is_counted_once_and_commits_where_the_partition_stands():
    async def scenario():
        async with world() as one:
            await one.at(9.9)
            assert one.told == []
            await one.at(10, commits=1)
            await one.at(12)
            await one.at(25, commits=2)
        assert one.told == [10 * S, 15 * S]
        assert one.bench.outputs == [b"10000000", b"15000000"]
        assert [result.positions for result in one.bench.committed] == [{SOURCE: 0}, {SOURCE: 0}]
        assert one.bench.stores.backends[SOURCE].get(b"clock") == b"15000000"

    asyncio.run(scenario())


def test_a_unit_that_was_aborted_leaves_the_silence_to_be_counted_again():
    async def scenario():
        async with world(Recording(fails="commit")) as one:
            await one.at(10)
            await until(lambda: one.bench.poller.rewinds and one.bench.coordinator._commit_task is None)
            one.bench.transaction.fails = None
            await one.at(20, commits=1)
            await one.at(30, commits=2)
        assert one.told == [10 * S, 20 * S, 10 * S]
        assert one.bench.stores.backends[SOURCE].get(b"clock") == b"10000000"

    asyncio.run(scenario())


def test_what_was_handled_ends_a_silence_and_begins_another():
    async def scenario():
        async with world() as one:
            one.bench.deliver(0, 1)
            lease = asyncio.create_task(one.bench.work())
            await lease
            one.idle.now = 11
            assert not one.bench.coordinator.pass_time(SOURCE, 0, lambda scope: one.step(scope, 0))
            one.bench.coordinator.done(TOPIC)
            await until(lambda: one.bench.committed)
            assert not one.bench.coordinator.pass_time(SOURCE, 0, lambda scope: one.step(scope, 0))
            await one.at(11)
            await one.at(20.9)
            assert one.told == []
            await one.at(21, commits=2)
        assert one.told == [10 * S]

    asyncio.run(scenario())


def test_nothing_is_done_while_a_unit_commits():
    async def scenario():
        gate = Gate("begin")
        async with world(gate) as one:
            one.bench.deliver(0, 1)
            await one.bench.work()
            one.bench.coordinator.done(TOPIC)
            await until(gate.reached.is_set)
            await one.at(10)
            assert one.told == []
            gate.let_on.set()
            await until(lambda: one.bench.committed)

    asyncio.run(scenario())


def append_plainly(one):
    one.log.append((TOPIC, 0), b"k", b"v", 0, None, None)


def leave_open(one):
    one.producer()


@pytest.mark.parametrize("behind", [append_plainly, leave_open])
def test_a_partition_with_anything_behind_what_was_handled_is_not_silent(behind):
    async def scenario():
        async with world() as one:
            behind(one)
            await one.at(10)
            await one.at(20)
        assert one.told == []

    asyncio.run(scenario())


def test_markers_of_transactions_and_what_was_aborted_are_nothing():
    async def scenario():
        async with world() as one:
            producer = one.producer()
            producer.abort_transaction(1)
            await one.at(10, commits=1)
            await one.at(20, commits=2)
            one.producer().commit_transaction(1)
            await one.at(30)
        assert one.told == [10 * S, 10 * S]

    asyncio.run(scenario())


def test_a_step_that_has_nothing_to_do_commits_nothing_and_loses_no_time():
    async def scenario():
        async with world() as one:
            one.stages = False
            await one.at(10)
            await one.at(20)
            assert one.bench.transaction.calls == [("settle",)]
            one.stages = True
            await one.at(30, commits=1)
        assert one.told == [10 * S, 20 * S, 30 * S]

    asyncio.run(scenario())


def test_a_step_that_raises_leaves_nothing_and_is_taken_again():
    async def scenario():
        async with world() as one:
            failed = []
            one.idle.on_failed = failed.append
            one.raises = ValueError("not now")
            await one.at(10)
            await one.at(15)
            assert failed == [SOURCE]
            one.raises = None
            await one.at(20, commits=1)
            assert one.bench.outputs == [b"20000000"]
            one.raises = WorkerStopped("never", remedy="Mend it.")
            await one.at(30)
            assert one.bench.fatal == [one.raises]
            assert failed == [SOURCE], "that one is not tried again"
        assert one.told == [10 * S, 20 * S, 10 * S]

    asyncio.run(scenario())


def test_a_broker_that_does_not_answer_is_no_silence():
    async def scenario():
        async with world() as one:

            def away(*_):
                raise StateError("no answer")

            ends, one.idle._reader.ends = one.idle._reader.ends, away
            await one.at(10)
            assert one.told == []
            one.idle._reader.ends = ends
            await one.at(20, commits=1)
        assert one.told == [20 * S], "it was silent all the while, as the broker says now"

    asyncio.run(scenario())


# -- what is told to a generation that is built --------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "metadata", "before_s"),
    [
        (0, "1 silent_us=5000000", 5),
        (7, "1 silent_us=5000000", 0),
        (0, "1 ValueError: it stood still there", 0),
        (0, "", 0),
    ],
)
def test_beside_the_offset_stands_how_much_silence_all_workers_have_counted_there(offset, metadata, before_s):
    async def scenario():
        async with world() as one:
            one.commit(offset, metadata)
            await one.at(10, commits=1)
            await one.at(25, commits=2)
            one.bench.deliver(0, 1)
            await one.bench.work()
            one.bench.coordinator.done(TOPIC)
            await until(lambda: len(one.bench.committed) == 3)
            await one.at(26)
            await one.at(36, commits=4)
        assert one.told == [10 * S, 15 * S, 10 * S]
        counted = [(0, before_s + 10), (0, before_s + 25), (1, 10)]
        assert one.notes == [(SOURCE, at, f"silent_us={seconds * S}") for at, seconds in counted]

    asyncio.run(scenario())


def test_a_generation_that_is_built_counts_what_the_running_one_has_and_where_it_has():
    counted = {SOURCE: (0, 0)}

    async def scenario():
        async with world(follows=counted.get) as one:
            one.commit(0, "1 silent_us=5000000")
            one.stages = False
            await one.at(100)
            for at, silent_s in ((1, 90), (0, 5), (0, 4)):
                counted[SOURCE] = (at, silent_s * S)
                await one.at(one.idle.now + 100)
            assert one.told == [], "it stands elsewhere, or an earlier worker of ours has counted it"
            counted[SOURCE] = (0, 25 * S)
            await one.at(one.idle.now + 100, commits=1)
            await one.at(one.idle.now + 1)
            counted[SOURCE] = (0, 35 * S)
            await one.at(one.idle.now + 1, commits=2)
        assert one.told == [20 * S, 10 * S]
        assert one.notes == [(SOURCE, 0, f"silent_us={seconds * S}") for seconds in (25, 35)]

    asyncio.run(scenario())


# -- what a user sees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["as it is", "restarted", "state lost", "refused"])
def test_a_window_on_a_topic_of_ones_own_closes_once_though_nothing_follows(tmp_path, how):
    with AgentDriver("silent", extension(), folder=tmp_path, start_us=START_US) as driver:
        closes_once(driver, how)


def test_the_role_asks_by_itself_and_counts_no_more_than_the_time_that_went_by(tmp_path, monkeypatch):
    monkeypatch.setattr(role_module, "SteppedIdle", AsInProduction)

    def declare(app, tools, _options):
        def on_idle(scope, silent_us):
            scope.emit(EACH, b"k", b"%d" % silent_us, partition=scope.partition)

        source = app.source(
            READINGS, agent="idle", decode=tools.decoder(SUBJECT), on_idle=on_idle, idle_ms=100
        )

        @app.agent(source)
        async def idle(stream):
            async for _row in stream:
                pass

    agents = Extension({"idle": [declare]}, (READINGS, EACH), {SUBJECT: SCHEMA})
    began = time.monotonic()
    with AgentDriver("idle", agents, folder=tmp_path) as driver:
        told = Counter()

        async def some():
            while min(told[number, "times"] for number in range(PARTITIONS)) < 3:
                await asyncio.sleep(0.05)
                for output in driver.read(EACH):
                    told[output.partition, "times"] += 1
                    told[output.partition, "us"] += int(output.value)
                    assert int(output.value) >= 100_000

        driver._role._loop.run_until_complete(some())
        went_by_us = (time.monotonic() - began) * S
        assert all(told[number, "us"] < went_by_us for number in range(PARTITIONS))


def test_what_fails_at_silent_partitions_is_counted_for_each_agent_from_naught_on(tmp_path):
    failures = [ValueError("not now")] * 2

    def on_idle(scope, silent_us):
        if failures:
            raise failures.pop()
        scope.emit(EACH, b"k", b"%d" % silent_us, partition=scope.partition)

    def declare(app, tools, _options):
        source = app.source(READINGS, agent="fails", decode=tools.decoder(SUBJECT), on_idle=on_idle)

        @app.agent(source)
        async def fails(stream):
            async for _row in stream:
                pass

    def counted():
        shown = driver._role.live.engine.metrics.render(1).decode()
        return [line for line in shown.splitlines() if line.startswith("sluicegate_idle_failures_total")]

    agents = Extension({"idle": [declare]}, (READINGS, EACH), {SUBJECT: SCHEMA})
    labels = f'{{agent="fails",role="idle",topic="{READINGS.name}"}}'
    with AgentDriver("idle", agents, folder=tmp_path) as driver:
        assert counted() == [f"sluicegate_idle_failures_total{labels} 0.0"]
        driver.advance(10)
        assert counted() == [f"sluicegate_idle_failures_total{labels} 2.0"]
        driver.advance(10)
        assert driver.values(EACH) == [b"20000000"] * PARTITIONS
        assert counted() == [f"sluicegate_idle_failures_total{labels} 2.0"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"on_idle": print, "idle_ms": 99}, "idle_ms=99 must be at least 100"),
        ({"open_deadline": print}, "give it on_idle"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_declared(tmp_path, wrong, said):
    def declare(app, tools, _options):
        app.source(READINGS, agent="idle", decode=tools.decoder(SUBJECT), changelog=KEPT, **wrong)

    agents = Extension({"idle": [declare]}, (READINGS, KEPT), {SUBJECT: SCHEMA})
    with pytest.raises(ValueError, match=said):
        AgentDriver("idle", agents, folder=tmp_path)
