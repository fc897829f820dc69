"""After a commit what trickles in gathers for a moment, and nobody waits who has much to do."""

from __future__ import annotations

import asyncio
import time

import pytest

from connectors.kafka import pace
from connectors.kafka.pace import FETCH_S, FLOOD_RECORDS, FLOOD_S, GATHER_S, REST_S
from tests.unit.test_coordinator import TOPIC, Gate, coordinator, until


def test_what_trickles_in_after_a_commit_is_handled_together_and_a_flood_does_not_wait():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            bench.coordinator._pace._rests_until_s = time.monotonic() + 0.2  # a commit has just ended
            taken = asyncio.ensure_future(bench.work())
            for offset in range(3):
                bench.deliver(offset, offset + 1)
                await asyncio.sleep(0.01)
                assert not taken.done()
            await taken
            bench.coordinator.done(TOPIC)
            await until(lambda: bench.committed)
            assert bench.outputs == [b"0", b"1", b"2"]
            bench.coordinator._pace._rests_until_s = time.monotonic() + 60
            await bench.handle(3, 3 + FLOOD_RECORDS)
            await until(lambda: len(bench.committed) == 2)
        assert bench.commits == [("commit",)] * 2

    asyncio.run(scenario())


def test_a_commit_that_took_long_is_followed_by_a_bounded_rest():
    async def scenario():
        gate = Gate("commit")
        async with coordinator(gate) as bench:
            await bench.assign()
            await bench.handle(0, 1)
            await until(gate.reached.is_set)
            await asyncio.sleep(0.05)
            gate.let_on.set()
            await until(lambda: bench.committed)
            assert bench.coordinator._pace._rests_until_s <= time.monotonic() + REST_S
            assert bench.poller.gathered == [GATHER_S, pytest.approx(REST_S - FETCH_S)]

    asyncio.run(scenario())


@pytest.mark.parametrize("interval_ms", [10_000, 30], ids=["in vain", "until its interval is over"])
def test_a_unit_that_has_handled_a_flood_waits_for_more_of_it(interval_ms):
    async def scenario():
        async with coordinator(commit_interval_ms=interval_ms) as bench:
            await bench.assign()
            bench.poller.flooded = True
            began = time.monotonic()
            for start in (0, FLOOD_RECORDS):
                await bench.handle(start, start + FLOOD_RECORDS)
                await asyncio.sleep(0.005)
                assert not bench.commits
            await until(lambda: bench.committed)
            assert time.monotonic() - began >= min(FLOOD_S, interval_ms / 1_000) - 0.002
        assert len(bench.commits) == 1
        assert len(bench.outputs) == 2 * FLOOD_RECORDS

    asyncio.run(scenario())


@pytest.mark.parametrize(("records", "flooded"), [(FLOOD_RECORDS - 1, True), (FLOOD_RECORDS, False)])
def test_few_records_and_the_last_of_a_flood_are_committed_at_once(monkeypatch, records, flooded):
    monkeypatch.setattr(pace, "FLOOD_S", 3_600)

    async def scenario():
        async with coordinator(commit_interval_ms=3_600_000) as bench:
            await bench.assign()
            bench.poller.flooded = flooded
            await bench.handle(0, records)
            await until(lambda: bench.committed)

    asyncio.run(scenario())
