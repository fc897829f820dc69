"""A partition that an operator paused: nothing of it is handed out, lost or doubled, and others flow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from connectors.kafka.errors import TransactionAborted
from schemas.controls import Target, target_of
from tests.unit.test_checkpoint import Recording
from tests.unit.test_coordinator import SOURCE, TOPIC, Gate, coordinator, until

if TYPE_CHECKING:
    from connectors.kafka.chunk import SourcePartition


def pause(bench, *sources: SourcePartition) -> None:
    bench.coordinator.pauses.wanted = lambda source: source in sources
    bench.coordinator.follow_pauses()


def test_what_waits_of_a_paused_partition_is_let_go_of_and_read_again_from_where_it_stands():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            bench.deliver(0, 3)
            await asyncio.sleep(0)
            await bench.work()
            bench.deliver(3, 9)
            await asyncio.sleep(0)
            pause(bench, SOURCE)
            assert bench.poller.stops == [SOURCE]
            bench.coordinator.done(TOPIC)
            await until(lambda: bench.committed)
            assert bench.poller.outstanding == 0, "it would fill the hand-over of the others"
            bench.deliver(9, 12)  # was on its way when it stopped
            await until(lambda: bench.poller.outstanding == 0)
            pause(bench)
            assert bench.poller.starts == [(SOURCE, 0), (SOURCE, 3)]
            bench.deliver(3, 9)
            await asyncio.sleep(0)
            await bench.work()
            bench.coordinator.done(TOPIC)
            await until(lambda: len(bench.committed) == 2)
            assert bench.outputs == [b"%d" % n for n in range(9)]

    asyncio.run(scenario())


def test_it_goes_on_only_when_no_agent_and_no_commit_has_any_of_it():
    async def scenario():
        gate = Gate("begin")
        async with coordinator(gate) as bench:
            await bench.assign()
            bench.deliver(0, 3)
            await asyncio.sleep(0)
            await bench.work()
            pause(bench, SOURCE)
            await asyncio.sleep(0.02)
            pause(bench)
            assert len(bench.poller.starts) == 1, "an agent has some of it"
            bench.coordinator.done(TOPIC)
            await until(gate.reached.is_set)
            bench.coordinator.follow_pauses()
            assert len(bench.poller.starts) == 1, "it may yet be aborted"
            gate.let_on.set()
            await until(lambda: bench.committed)
            bench.coordinator.follow_pauses()
            assert bench.poller.starts[1:] == [(SOURCE, 3)]

    asyncio.run(scenario())


def test_after_an_abort_it_goes_on_from_what_is_committed():
    async def scenario():
        async with coordinator(Recording("commit", error=TransactionAborted("no"))) as bench:
            await bench.assign()
            bench.deliver(0, 3)
            await asyncio.sleep(0)
            await bench.work()
            pause(bench, SOURCE)
            bench.coordinator.done(TOPIC)
            await until(lambda: bench.poller.rewinds)
            pause(bench)
            await until(lambda: bench.coordinator.follow_pauses() or len(bench.poller.starts) == 2)
            assert bench.poller.starts[1:] == [(SOURCE, 0)]

    asyncio.run(scenario())


def test_an_event_that_fails_while_its_partition_is_paused_is_not_given_again_before_it_goes_on():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            bench.deliver(0, 1)
            await asyncio.sleep(0)
            await bench.work()
            pause(bench, SOURCE)
            bench.coordinator.failed(TOPIC, ValueError("broken"))
            taken = asyncio.ensure_future(bench.coordinator.take(TOPIC))
            await asyncio.sleep(0.3)
            assert not taken.done()
            pause(bench)
            assert bench.poller.starts[1:] == [(SOURCE, 0)]
            assert bench.poller.outstanding == 0
            taken.cancel()

    asyncio.run(scenario())


def test_a_partition_that_is_paused_when_it_is_assigned_is_restored_and_not_read():
    async def scenario():
        async with coordinator() as bench:
            pause(bench, SOURCE)
            await bench.assign()
            assert bench.poller.starts == []
            pause(bench)
            assert bench.poller.starts == [(SOURCE, 0)]

    asyncio.run(scenario())


def test_a_paused_partition_that_goes_away_is_forgotten():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            pause(bench, SOURCE)
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=False))
            assert not bench.coordinator.pauses.stopped
            bench.coordinator.follow_pauses()
            assert bench.poller.stops == [SOURCE]

    asyncio.run(scenario())


def test_keys_of_controls_name_a_role_or_one_partition_of_it():
    for target in (Target("ingest", None), Target("my-agent", 12)):
        assert target_of(str(target).encode()) == target
    assert [target_of(key) for key in (None, b"", b"/1", b"a/b", b"a/-1", b"a/")] == [None] * 6
