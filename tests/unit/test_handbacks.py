"""Records that are handed back: each once, in the unit of its effects, and none moves its partition."""

from __future__ import annotations

import asyncio

import pytest

from connectors.kafka.aside import ProcessDied, SetAside
from connectors.kafka.chunk import EventChunk
from connectors.kafka.handbacks import HandBack
from connectors.kafka.inflight import InFlight
from connectors.kafka.ports import Backoff
from connectors.kafka.positions import metadata_of, read_metadata
from schemas.record import Record
from tests.unit.test_coordinator import SOURCE, TOPIC, Gate, coordinator, until

pytestmark = pytest.mark.timeout(20)


def order(number, offset, item=None):
    """Return an order whose record stands at an offset; ``item`` is what it decodes to, the offset say."""
    record = Record(TOPIC, 0, offset, 0, b"k", b"v")
    chunk = EventChunk(SOURCE, 0, [(record, offset if item is None else item)], offset + 1, handback=number)
    return HandBack(number, chunk)


async def at(bench, position, last=-1):
    """Have the partition stand at a position, after so many hand-backs."""
    await bench.assign()
    bench.unit.begin_handbacks(SOURCE, last)
    await bench.handle(0, position)
    await until(lambda: bench.committed)


def stands(bench):
    """Return position and last hand-back as committed last."""
    offsets = [call for call in bench.transaction.calls if call[0] == "offsets"]
    return offsets[-1][1][SOURCE], bench.transaction.handbacks[-1].get(SOURCE)


def test_one_is_handled_between_two_records_and_its_number_commits_beside_a_position_that_stays():
    async def scenario():
        async with coordinator() as bench:
            await at(bench, 5)
            bench.coordinator.handbacks.take(SOURCE, -1, [order(7, 2)])
            lease = await bench.work()
            assert [record.offset for record, _ in lease.chunk.items] == [2]
            bench.coordinator.done(TOPIC)
            await until(lambda: len(bench.committed) == 2)
            assert stands(bench) == (5, 7)
            assert bench.coordinator.handbacks.last(SOURCE) == 7
            await bench.handle(5, 6)
            await until(lambda: len(bench.committed) == 3)
            assert stands(bench) == (6, 7), "each commit has it"
            assert bench.poller.outstanding == 0, "it was never handed over by the poll thread"

    asyncio.run(scenario())


def test_it_comes_before_what_waits_and_is_joined_with_nothing():
    async def scenario():
        async with coordinator() as bench:
            await at(bench, 5)
            bench.coordinator.handbacks.take(SOURCE, -1, [order(1, 2), order(2, 3)])
            bench.deliver(5, 6)
            bench.deliver(6, 7)
            given = []
            for _ in range(3):
                lease = await bench.work()
                given.append([record.offset for record, _ in lease.chunk.items])
                bench.coordinator.done(TOPIC)
            await until(lambda: stands(bench) == (7, 2))
            assert sorted(map(tuple, given)) == [(2,), (3,), (5, 6)]
            assert given.index([2]) < given.index([3])

    asyncio.run(scenario())


def test_one_whose_unit_is_aborted_is_not_had_and_is_found_again():
    async def scenario():
        async with coordinator(backoff=Backoff(1)) as bench:
            await at(bench, 5)
            bench.transaction.fails = "commit"
            bench.coordinator.handbacks.take(SOURCE, -1, [order(7, 2), order(8, 3)])
            await bench.work()
            bench.coordinator.done(TOPIC)
            await until(lambda: bench.poller.rewinds)
            bench.transaction.fails = None
            assert bench.poller.rewinds == [({SOURCE: 5}, 1)]
            await until(lambda: bench.coordinator.handbacks.last(SOURCE) == -1)

    asyncio.run(scenario())


def test_what_was_looked_for_behind_one_that_is_not_had_after_all_is_not_taken():
    async def scenario():
        gate = Gate()
        async with coordinator(gate, backoff=Backoff(1)) as bench:
            await at(bench, 5)
            gate.at, gate.fails = "commit", "commit"
            handbacks = bench.coordinator.handbacks
            handbacks.take(SOURCE, -1, [order(7, 2)])
            await bench.work()
            bench.coordinator.done(TOPIC)
            await until(gate.reached.is_set)
            assert handbacks.last(SOURCE) == 7, "who looks now looks behind it"
            gate.let_on.set()
            await until(lambda: bench.poller.rewinds)
            handbacks.take(SOURCE, 7, [order(8, 3)])
            assert not handbacks.under_way, "the one before it would be passed over"
            gate.at = gate.fails = ""
            handbacks.take(SOURCE, -1, [order(7, 2), order(8, 3)])
            for _ in range(2):
                await bench.work()
                bench.coordinator.done(TOPIC)
            await until(lambda: stands(bench) == (5, 8))

    asyncio.run(scenario())


def test_one_that_fails_again_is_a_letter_again_and_its_partition_never_stands_still_at_it():
    async def scenario():
        async with coordinator(policy="stop-partition", attempts_max=2, backoff=Backoff(1)) as bench:
            await at(bench, 5)
            bench.coordinator.handbacks.take(SOURCE, -1, [order(7, 2)])
            for _ in range(2):
                await bench.work()
                bench.coordinator.failed(TOPIC, ValueError("still broken"))
            await until(lambda: len(bench.committed) == 2)
            assert stands(bench) == (5, 7)
            assert bench.committed[-1].shares[0].letters == {"ValueError": 1}
            assert bench.coordinator.pauses.standstills == {}

    asyncio.run(scenario())


def test_one_whose_letter_is_gone_is_passed_over():
    async def scenario():
        async with coordinator() as bench:
            await at(bench, 5)
            waiting = asyncio.create_task(bench.coordinator.take(TOPIC))
            await asyncio.sleep(0)
            bench.coordinator.handbacks.take(SOURCE, -1, [HandBack(3, None)])
            await until(lambda: len(bench.committed) == 2)
            assert stands(bench) == (5, 3)
            waiting.cancel()

    asyncio.run(scenario())


def test_a_partition_that_is_paused_or_gone_has_none():
    async def scenario():
        async with coordinator() as bench:
            await at(bench, 5)
            waiting = asyncio.create_task(bench.coordinator.take(TOPIC))
            await asyncio.sleep(0)
            bench.coordinator.pauses.wanted = lambda _source: True
            bench.coordinator.follow_pauses()
            bench.coordinator.handbacks.take(SOURCE, -1, [order(7, 2)])
            await asyncio.sleep(0.02)
            assert not waiting.done()
            bench.coordinator.pauses.wanted = lambda _source: False
            bench.coordinator.follow_pauses()
            bench.coordinator._pump()
            lease = await waiting
            assert lease.chunk.handback == 7
            await asyncio.wrap_future(bench.coordinator.revoked([SOURCE], lost=True))
            bench.coordinator.handbacks.take(SOURCE, -1, [order(7, 2)])
            assert not bench.coordinator.handbacks._waiting

    asyncio.run(scenario())


def test_what_judges_records_is_asked_of_those_that_are_handed_back_too():
    async def scenario():
        async with coordinator() as bench:
            await at(bench, 5)
            bench.coordinator.handout.judges = lambda chunk: (
                (lambda _record: SetAside("quarantined", "by ann")) if chunk.handback >= 0 else None
            )
            bench.coordinator.handbacks.take(SOURCE, -1, [order(7, 2)])
            lease = await bench.coordinator.take(TOPIC)
            assert isinstance(lease.chunk.items[0][1], SetAside)
            assert (lease.chunk.handback, lease.chunk.has_asides, lease.strict) == (7, True, False)

    asyncio.run(scenario())


def test_one_with_which_the_process_ends_again_and_again_is_given_up_and_no_other_record_is(tmp_path):
    async def scenario(crash):
        notes = InFlight(tmp_path)
        async with coordinator(in_flight=notes, backoff=Backoff(1)) as bench:
            await bench.assign()
            bench.unit.begin_handbacks(SOURCE, 6)
            bench.coordinator.handbacks.take(SOURCE, 6, [order(7, 2)])
            lease = await bench.coordinator.take(TOPIC)
            lease.begin()
            item = lease.chunk.items[0][1]
            if crash:
                bench.coordinator._in_flight = bench.coordinator.handout._in_flight = InFlight()
                lease.void = True
                bench.coordinator._leases.take(TOPIC)
                return item
            bench.coordinator.done(TOPIC)
            await bench.handle(0, 1)
            return item

    for _ in range(3):
        assert asyncio.run(scenario(crash=True)) == 2
    assert isinstance(asyncio.run(scenario(crash=False)), ProcessDied)


@pytest.mark.parametrize("note", ["", "ValueError: a\nb", "silent_us=5"])
@pytest.mark.parametrize("handback", [-1, 0, 12])
def test_what_is_committed_beside_an_offset_is_read_as_it_was_written(note, handback):
    assert read_metadata(metadata_of(3, note, handback)) == (3, note, handback)


@pytest.mark.parametrize("foreign", [None, "", "x", "1x", "+3", "1+", "1+x note", "-1", "\u0663"])
def test_what_somebody_else_committed_is_not_taken_for_ours(foreign):
    assert read_metadata(foreign) == (None, "", -1)
