"""A partition whose agent must not pass an event over: it stands before it, and nothing else does."""

from __future__ import annotations

import asyncio

import pytest

from connectors.kafka.chunk import EventChunk, SourcePartition
from connectors.kafka.errors import TransactionAborted
from pipelines.role import RoleApp
from schemas.errors import BadMagic
from schemas.record import Record
from schemas.topics import OUTPUT
from tests.unit.test_checkpoint import Recording
from tests.unit.test_coordinator import SOURCE, TOPIC, Gate, coordinator, until

OTHER = SourcePartition(TOPIC, 1)

pytestmark = pytest.mark.timeout(30)


class Agent:
    """Handles events by batches as long as the scenario goes on, and raises at the ``poison`` ones."""

    def __init__(self, bench, *poison):
        self.bench, self.poison, self.handled, self.seen = bench, set(poison), [], []
        self.task = asyncio.ensure_future(self.run())

    async def run(self):
        while True:
            lease = await self.bench.coordinator.take(TOPIC)
            lease.begin()
            offsets = [record.offset for record, _ in lease.chunk.items]
            self.seen += offsets
            if bad := self.poison.intersection(offsets):
                self.bench.coordinator.failed(TOPIC, ValueError(f"poison {min(bad)}"))
                continue
            self.handled += [(lease.chunk.source.partition, offset) for offset in offsets]
            self.bench.coordinator.done(TOPIC)


def deliver(bench, source, first, last, epoch=0):
    items = [(Record(*source, i, 0, b"k", b"v"), i) for i in range(first, last)]
    bench.poller.outstanding += len(items)
    bench.coordinator.deliver([EventChunk(source, epoch, items, last, 0)])


async def assigned(bench, *sources):
    bench.poller.assignment = frozenset(sources)
    bench.coordinator.assigned(sources)
    await until(lambda: bench.coordinator.assignment == frozenset(sources))


def stands(bench, source=SOURCE):
    return source in bench.coordinator.pauses.standstills


def committed(bench):
    return dict(bench.coordinator.progress)[SOURCE][0]


def test_it_commits_before_the_event_with_the_cause_and_its_neighbours_flow():
    async def scenario():
        async with coordinator(policy="stop-partition") as bench:
            await assigned(bench, SOURCE, OTHER)
            agent = Agent(bench, 3)
            deliver(bench, SOURCE, 0, 8)
            deliver(bench, SOURCE, 8, 12)
            await until(lambda: stands(bench))
            deliver(bench, SOURCE, 12, 13)  # was on its way when it stopped
            deliver(bench, OTHER, 20, 25)
            await until(lambda: (1, 24) in agent.handled)
            await until(lambda: bench.unit.empty)
            assert [offset for partition, offset in agent.handled if partition == 0] == [0, 1, 2]
            assert agent.seen.count(3) == 3 + 3, "halved three times, then three tries"
            assert committed(bench) == 3
            assert bench.poller.stops == [SOURCE]
            await until(lambda: bench.poller.outstanding == 0)
            assert bench.fatal == []
            agent.task.cancel()

    asyncio.run(scenario())


def test_the_note_is_committed_with_the_offset_and_the_next_offset_takes_it_away():
    async def scenario():
        transaction = Recording()
        async with coordinator(transaction, policy="stop-partition") as bench:
            await bench.assign()
            agent = Agent(bench, 0)
            deliver(bench, SOURCE, 0, 1)
            await until(lambda: stands(bench) and bench.committed)
            assert transaction.notes == {SOURCE: "ValueError: poison 0"}
            agent.poison.clear()
            bench.coordinator.pauses.lift(lambda *_: True)
            bench.coordinator.follow_pauses()
            assert bench.poller.starts[1:] == [(SOURCE, 0)]
            deliver(bench, SOURCE, 0, 1)
            await until(lambda: agent.handled == [(0, 0)] and bench.unit.empty)
            assert transaction.notes == {}
            agent.task.cancel()

    asyncio.run(scenario())


def test_tried_again_it_stands_still_again_if_nothing_was_mended():
    async def scenario():
        async with coordinator(policy="stop-partition", attempts_max=2) as bench:
            await bench.assign()
            agent = Agent(bench, 0)
            for tries in (2, 4):
                deliver(bench, SOURCE, 0, 1)
                await until(lambda: stands(bench) and bench.unit.empty)
                assert agent.seen.count(0) == tries
                bench.coordinator.pauses.lift(lambda *_: True)
                await until(lambda: bench.coordinator.follow_pauses() or not bench.coordinator.pauses.stopped)
            agent.task.cancel()

    asyncio.run(scenario())


def test_after_an_abort_what_came_before_the_event_is_handled_again_before_it_stands_still():
    async def scenario():
        gate = Gate("begin", fails="commit")
        gate.error = TransactionAborted("no")
        async with coordinator(gate, policy="stop-partition", attempts_max=1) as bench:
            await bench.assign()
            agent = Agent(bench, 2)
            deliver(bench, SOURCE, 0, 3)
            await until(lambda: stands(bench))
            gate.let_on.set()
            await until(lambda: bench.poller.rewinds)
            assert not stands(bench)
            gate.fails = None
            await until(lambda: bench.coordinator.follow_pauses() or len(bench.poller.starts) == 2)
            assert bench.poller.starts[1:] == [(SOURCE, 0)]
            deliver(bench, SOURCE, 0, 3, epoch=1)
            await until(lambda: stands(bench) and bench.unit.empty)
            assert committed(bench) == 2
            assert agent.handled == [(0, 0), (0, 1)] * 2
            agent.task.cancel()

    asyncio.run(scenario())


def test_paused_and_standing_still_it_goes_on_when_both_are_taken_back():
    async def scenario():
        async with coordinator(policy="stop-partition", attempts_max=1) as bench:
            await bench.assign()
            agent = Agent(bench, 0)
            deliver(bench, SOURCE, 0, 1)
            await until(lambda: stands(bench) and bench.unit.empty)
            bench.coordinator.pauses.wanted = lambda _source: True
            bench.coordinator.pauses.lift(lambda *_: True)
            bench.coordinator.follow_pauses()
            assert len(bench.poller.starts) == 1, "it is paused"
            bench.coordinator.pauses.wanted = lambda _source: False
            bench.coordinator.follow_pauses()
            assert bench.poller.starts[1:] == [(SOURCE, 0)]
            agent.task.cancel()

    asyncio.run(scenario())


def test_its_next_owner_tries_the_event_itself():
    async def scenario():
        async with coordinator(policy="stop-partition", attempts_max=1) as bench:
            await bench.assign()
            agent = Agent(bench, 0)
            deliver(bench, SOURCE, 0, 1)
            await until(lambda: stands(bench) and bench.unit.empty)
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
            assert not stands(bench)
            await bench.assign()
            assert bench.poller.starts == [(SOURCE, 0)] * 2
            agent.task.cancel()

    asyncio.run(scenario())


def test_an_event_that_does_not_decode_is_not_passed_over_either():
    """As ``Stream`` does it: the lease is strict, so the error is raised."""

    async def scenario():
        async with coordinator(policy="stop-partition", attempts_max=1) as bench:
            await bench.assign()
            bench.coordinator.deliver(
                [EventChunk(SOURCE, 0, [(Record(*SOURCE, 0, 0, b"k", b"v"), BadMagic(b"v"))], 1)]
            )
            lease = await bench.coordinator.take(TOPIC)
            assert lease.strict
            _, error = lease.next_item()
            bench.coordinator.failed(TOPIC, error)
            await until(lambda: stands(bench) and bench.unit.empty)
            assert bench.coordinator.pauses.standstills[SOURCE].cause == "BadMagic"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"on_failure": "stop"}, "on_failure='stop' is none of"),
        ({"attempts_max": 0}, "attempts_max=0 must be 1 to 100; left out, it is the worker's"),
        ({"attempts_max": 101}, "attempts_max=101 must be 1 to 100"),
        ({"attempts_max": "3"}, "attempts_max='3' must be 1 to 100"),
    ],
)
def test_a_policy_that_there_is_not_is_refused_where_it_is_declared(policy, words):
    with pytest.raises(ValueError, match=f"source of ledger: {words}"):
        RoleApp.source(None, OUTPUT, agent="ledger", decode=list, **policy)
