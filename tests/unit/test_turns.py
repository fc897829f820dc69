"""An agent of events gives the rest of its chunk back: commit, rebalance and stop wait for one event."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from connectors.kafka.ports import Backoff
from connectors.kafka.stream import Stream
from pipelines.extension import Extension
from pipelines.testing import AgentDriver
from schemas.topics import OUTPUT
from tests.support.twin_scenario import EACH, READINGS, SCHEMA, SUBJECT, topic
from tests.unit.test_coordinator import SOURCE, TOPIC, coordinator, until
from tests.unit.test_standstill import OTHER, assigned, deliver

pytestmark = pytest.mark.timeout(60)

CHANGELOG = topic("turns.changelog.v1", cleanup="compact")


class Topic:
    """What a stream needs of its channel."""

    def get_topic_name(self):
        return TOPIC


class App:
    """What a stream needs of its app."""

    def __init__(self, bench):
        self.coordinator = self.coordinator_or_none = bench.coordinator
        self.topics = set()


class Agent:
    """Iterates over a real stream; ``work`` is what it does with each event."""

    def __init__(self, bench, work):
        stream = Stream.__new__(Stream)
        stream.app, stream.channel, stream._processors = App(bench), Topic(), []
        self.handled = []
        self.task = asyncio.ensure_future(self.run(stream, work))

    async def run(self, stream, work):
        async for value in stream:
            await work()
            stream.scope.emit(OUTPUT, b"%d" % value, b"", partition=stream.record.partition)
            self.handled.append((stream.record.partition, value))


async def for_20_ms():
    await asyncio.sleep(0.02)


def test_a_slow_agent_commits_at_the_interval_and_where_it_stands():
    async def scenario():
        async with coordinator(commit_interval_ms=100) as bench:
            await bench.assign()
            agent = Agent(bench, for_20_ms)
            bench.deliver(0, 30)
            bench.deliver(30, 40)
            await until(lambda: bench.unit.empty and bench.poller.outstanding == 0)
            assert bench.outputs == [b"%d" % n for n in range(40)]
            assert max(unit.records for unit in bench.committed) <= 6, "five, and the one that was in hand"
            handled = 0
            for unit in bench.committed:
                handled += unit.records
                assert unit.positions == {SOURCE: handled}
            assert bench.poller.outstanding_bytes == 0
            agent.task.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("asked", ["stop", "revoke"])
def test_a_stop_and_a_rebalance_wait_for_the_event_in_hand_and_not_for_the_chunk(asked):
    async def scenario():
        async with coordinator(commit_interval_ms=60_000, stall_ms_max=60_000) as bench:
            await assigned(bench, SOURCE, OTHER)
            agent = Agent(bench, for_20_ms)
            deliver(bench, SOURCE, 0, 2_000)
            await until(lambda: len(agent.handled) == 3)
            if asked == "stop":
                await bench.coordinator.stop()
            else:
                await asyncio.wrap_future(bench.coordinator.revoked([OTHER], lost=False))
            (unit,) = bench.committed
            assert 3 <= unit.records < 100
            assert unit.positions == {SOURCE: unit.records}
            assert bench.outputs == [b"%d" % n for n in range(unit.records)]
            assert bench.poller.outstanding == (0 if asked == "stop" else 2_000 - unit.records)
            if asked == "revoke":  # the partition that stays goes on where it was, without a rewind
                await until(lambda: len(agent.handled) > unit.records)
                assert agent.handled == [(0, n) for n in range(len(agent.handled))]
                assert bench.poller.rewinds == []
                await bench.coordinator.stop()
            agent.task.cancel()

    asyncio.run(scenario())


def test_a_partition_that_is_paused_is_given_back_and_read_again_from_where_it_stands():
    async def scenario():
        async with coordinator(commit_interval_ms=100) as bench:
            await assigned(bench, SOURCE, OTHER)
            agent = Agent(bench, for_20_ms)
            deliver(bench, SOURCE, 0, 2_000)
            await until(lambda: len(agent.handled) == 3)
            bench.coordinator.pauses.wanted = lambda source: source == SOURCE
            bench.coordinator.follow_pauses()
            await until(lambda: bench.unit.empty and bench.poller.outstanding == 0)
            stands = bench.coordinator.progress[SOURCE][0]
            assert 3 <= stands < 100
            assert agent.handled == [(0, n) for n in range(stands)]
            bench.coordinator.pauses.wanted = lambda _source: False
            await until(lambda: bench.coordinator.follow_pauses() or len(bench.poller.starts) == 3)
            assert bench.poller.starts[-1] == (SOURCE, stands)
            agent.task.cancel()

    asyncio.run(scenario())


def test_an_agent_that_awaits_nothing_lets_the_loop_run_and_its_unit_stays_one():
    seen = []

    async def at_once():
        time.sleep(0.001)  # noqa: ASYNC251  as an agent does that computes

    def look(agent):
        seen.append(len(agent.handled))
        if not agent.task.done():
            asyncio.get_running_loop().call_later(0.005, look, agent)

    async def scenario():
        async with coordinator(commit_interval_ms=60_000) as bench:
            await bench.assign()
            agent = Agent(bench, at_once)
            look(agent)
            bench.deliver(0, 300)
            await until(lambda: bench.committed)
            assert [unit.records for unit in bench.committed] == [300]
            agent.task.cancel()

    asyncio.run(scenario())
    between = {handled for handled in seen if 0 < handled < 300}
    assert len(between) >= 3, "of 300 ms the loop has a turn each 50"


# -- with failing events, aborts and restarts, over a real poll thread ------------------------------------

POISON, STUMBLE = 11, 7


def role_of(rng, way):
    """Adds up; whether it awaits, and for how long, is chance. Some events fail always, some once."""
    stumbled = set()

    async def handle(scope, record, amount):
        total = int(scope.state.get(b"sum") or 0) + amount
        scope.state.put(b"sum", b"%d" % total)
        scope.emit(EACH, b"k", b"%d of %d" % (amount, total), partition=scope.partition)
        if rng.random() < 0.5:
            await asyncio.sleep(rng.choice([0, 0.001, 0.003]))
        if amount == POISON or (amount % STUMBLE == 0 and (scope.partition, amount) not in stumbled):
            stumbled.add((scope.partition, amount))
            raise ValueError(amount)

    async def each(stream):
        async for row in stream:
            await handle(stream.scope, stream.record, row["amount"])

    async def some(stream):
        async for rows in stream.take(3):
            for row in rows:
                await handle(stream.scope, stream.record, row["amount"])

    def register(app, tools, _options):
        source = app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT), changelog=CHANGELOG)
        app.agent(source)({"each": each, "some": some}[way])

    return Extension({"one": [register]}, (READINGS, EACH), {SUBJECT: SCHEMA})


def counting(goes_on, cut):
    """Note the chunks of which something was given back."""

    async def counted(lease):
        went = await goes_on(lease)
        if lease.left and not went and not lease.void:
            cut.append(lease.chunk)
        return went

    return counted


@pytest.mark.parametrize("way", ["each", "some"])
@pytest.mark.parametrize("seed", range(3))
def test_wherever_its_turns_end_each_event_has_one_effect_in_order(seed, way, tmp_path, monkeypatch):
    monkeypatch.setattr("connectors.kafka.coordinator._TURN_S", 0.002)
    monkeypatch.setattr(Backoff, "seconds", lambda *_: 0.002)
    rng = random.Random(seed)
    amounts, cut = {0: range(1, 61), 1: range(1, 31)}, []
    with AgentDriver("one", role_of(rng, way), folder=tmp_path) as driver:
        for first in (0, 20, 40):
            coordinator = driver._role.live.coordinator
            coordinator._pace._interval_s = 0.002
            coordinator.goes_on = counting(coordinator.goes_on, cut)
            for partition, wanted in amounts.items():
                rows = [{"sensor": "a", "amount": n, "unit": "kWh"} for n in wanted[first : first + 20]]
                driver.append(*rows, key=b"a", partition=partition)
            for _ in range(rng.randrange(3)):
                driver.abort_next_unit()
            driver.run()
            if rng.random() < 0.5:
                driver.restart(lose_state=rng.random() < 0.5)
        assert len(cut) > 3 * len(amounts)
        said = {partition: [] for partition in amounts}
        for output in driver.read(EACH):
            said[output.partition].append(output.value)
        for partition, wanted in amounts.items():
            kept = [n for n in wanted if n != POISON]
            sums = [sum(kept[: at + 1]) for at in range(len(kept))]
            assert said[partition] == [b"%d of %d" % pair for pair in zip(kept, sums, strict=True)]
        assert len(driver.dead_letters()) == len(amounts)
