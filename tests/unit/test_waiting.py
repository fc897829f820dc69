"""A partition that waits for what may pass: it takes no room of the others, and leaves no hole."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.ports import Backoff
from tests.unit.test_checkpoint import Recording
from tests.unit.test_coordinator import SOURCE, TOPIC, until
from tests.unit.test_coordinator import coordinator as coordinator_with
from tests.unit.test_standstill import OTHER, assigned, deliver

pytestmark = pytest.mark.timeout(30)
AWAY = KafkaUnavailable("registry", "away")
coordinator = partial(coordinator_with, backoff=Backoff(10, 60))


class Agent:
    """Handles batches; those of ``SOURCE`` find a service away until it is back."""

    def __init__(self, bench):
        self.bench, self.back, self.handled, self.tries = bench, False, [], 0
        self.task = asyncio.ensure_future(self.run())

    async def run(self):
        while True:
            lease = await self.bench.coordinator.take(TOPIC)
            lease.begin()
            source = lease.chunk.source
            if source == SOURCE and not self.back:
                self.tries += 1
                self.bench.coordinator.failed(TOPIC, AWAY)
                continue
            self.handled += [(source.partition, record.offset) for record, _ in lease.chunk.items]
            self.bench.coordinator.done(TOPIC)

    def of(self, partition):
        return [offset for of, offset in self.handled if of == partition]


async def waiting(bench):
    """A partition that waits with one chunk of three, beside one that is read."""
    await assigned(bench, SOURCE, OTHER)
    agent = Agent(bench)
    for first in (0, 3, 6):
        deliver(bench, SOURCE, first, first + 3)
    await until(lambda: SOURCE in bench.coordinator.pauses.stopped)
    return agent


async def followed(bench, holds):
    """Until something holds, as the role's tick has pauses followed."""
    await until(lambda: bench.coordinator.follow_pauses() or holds())


def test_it_keeps_one_chunk_and_lets_go_of_what_others_need_the_room_for():
    async def scenario():
        async with coordinator() as bench:
            agent = await waiting(bench)
            assert bench.poller.stops == [SOURCE]
            deliver(bench, SOURCE, 9, 12)  # was under way: there is a hole before it
            deliver(bench, OTHER, 0, 5)
            await until(lambda: agent.of(1) == [0, 1, 2, 3, 4])
            await until(lambda: bench.poller.outstanding == 3)
            tries = agent.tries
            await until(lambda: agent.tries > tries + 1)  # it is tried again and again

            agent.back = True
            await followed(bench, lambda: len(bench.poller.starts) == 3)
            assert agent.of(0) == [0, 1, 2]
            assert bench.poller.starts[2:] == [(SOURCE, 3)]
            for first in (3, 6, 9):
                deliver(bench, SOURCE, first, first + 3)
            await until(lambda: agent.of(0) == list(range(12)))
            await until(lambda: bench.poller.outstanding == 0)
            agent.task.cancel()

    asyncio.run(scenario())


def test_paused_by_an_operator_meanwhile_it_is_tried_no_more_until_it_is_resumed():
    async def scenario():
        async with coordinator() as bench:
            agent = await waiting(bench)
            bench.coordinator.pauses.wanted = lambda source: source == SOURCE
            bench.coordinator.follow_pauses()
            await until(lambda: bench.poller.outstanding == 0)
            tries = agent.tries
            await asyncio.sleep(0.2)
            assert agent.tries == tries
            agent.back = True
            bench.coordinator.pauses.wanted = lambda _source: False
            await followed(bench, lambda: len(bench.poller.starts) == 3)
            assert bench.poller.starts[2:] == [(SOURCE, 0)]
            agent.task.cancel()

    asyncio.run(scenario())


def test_after_an_abort_it_begins_at_what_is_committed():
    async def scenario():
        async with coordinator(Recording("commit")) as bench:
            agent = await waiting(bench)
            deliver(bench, OTHER, 0, 1)
            await until(lambda: bench.poller.rewinds)
            agent.back = True
            await followed(bench, lambda: len(bench.poller.starts) == 3)
            assert bench.poller.starts[2:] == [(SOURCE, 0)]
            assert agent.of(0) == []
            await until(lambda: bench.poller.outstanding == 0)
            agent.task.cancel()

    asyncio.run(scenario())


def test_it_goes_away_with_its_partition():
    async def scenario():
        async with coordinator() as bench:
            agent = await waiting(bench)
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
            assert not bench.coordinator.pauses.waiting
            assert bench.poller.outstanding == 0
            agent.task.cancel()

    asyncio.run(scenario())
