"""After a commit what trickles in gathers for a moment, and nobody waits who has much to do."""

from __future__ import annotations

import asyncio
import time

import pytest

from connectors.kafka.rest import FETCH_S, FLOOD_RECORDS, GATHER_S, REST_S
from tests.unit.test_coordinator import TOPIC, Gate, coordinator, until


def test_what_trickles_in_after_a_commit_is_handled_together_and_a_flood_does_not_wait():
    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            bench.coordinator._rest._until_s = time.monotonic() + 0.2  # a commit has just ended
            taken = asyncio.ensure_future(bench.work())
            for offset in range(3):
                bench.deliver(offset, offset + 1)
                await asyncio.sleep(0.01)
                assert not taken.done()
            await taken
            bench.coordinator.done(TOPIC)
            await until(lambda: bench.committed)
            assert bench.outputs == [b"0", b"1", b"2"]
            bench.coordinator._rest._until_s = time.monotonic() + 60
            bench.deliver(3, 3 + FLOOD_RECORDS)
            await bench.work()
            bench.coordinator.done(TOPIC)
            await until(lambda: len(bench.committed) == 2)
        assert [call for call in bench.transaction.calls if call[0] == "commit"] == [("commit",)] * 2

    asyncio.run(scenario())


def test_a_commit_that_took_long_is_followed_by_a_bounded_rest():
    async def scenario():
        gate = Gate("commit")
        async with coordinator(gate) as bench:
            await bench.assign()
            bench.deliver(0, 1)
            await bench.work()
            bench.coordinator.done(TOPIC)
            await until(gate.reached.is_set)
            await asyncio.sleep(0.05)
            gate.let_on.set()
            await until(lambda: bench.committed)
            assert bench.coordinator._rest._until_s <= time.monotonic() + REST_S
            assert bench.poller.gathered == [GATHER_S, pytest.approx(REST_S - FETCH_S)]

    asyncio.run(scenario())
