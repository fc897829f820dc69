"""How far a partition is behind: in records against the last stable offset, in seconds while any waits."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from connectors.kafka.chunk import SourcePartition
from pipelines.engine import Engine
from pipelines.metrics import WorkerMetrics
from tests.unit.test_coordinator import coordinator

QUICK, SLOW, FRESH = (SourcePartition("streams.input.v1", number) for number in range(3))


def behind(ends, progress):
    engine = SimpleNamespace(_reader=SimpleNamespace(stable_end=lambda *source: ends[source]))
    return Engine.behind(engine, progress)


def test_lag_is_counted_from_what_is_committed_and_never_below_nothing():
    now_us = time.time_ns() // 1_000
    progress = {QUICK: (10, now_us - 5_000_000), SLOW: (10, now_us - 60_000_000), FRESH: (0, now_us)}
    found = behind({QUICK: 9, SLOW: 25, FRESH: 3}, progress)
    assert found[QUICK] == (0, 0.0)
    assert found[SLOW] == (15, pytest.approx(60, abs=5))
    assert found[FRESH] == (3, pytest.approx(0, abs=5))


def test_a_worker_that_hangs_at_its_first_event_is_behind_from_the_opening_on():
    async def scenario():
        before_us = time.time_ns() // 1_000
        async with coordinator() as bench:
            await bench.assign()
            bench.deliver(0, 3)
            await bench.work()  # and never done
            return before_us, bench.coordinator.progress

    before_us, progress = asyncio.run(scenario())
    ((offset, since_us),) = progress.values()
    assert offset == 0
    assert before_us <= since_us <= time.time_ns() // 1_000
    an_hour = {QUICK: (offset, since_us - 3_600_000_000)}
    assert behind({QUICK: 3}, an_hour)[QUICK] == (3, pytest.approx(3_600, abs=60))


def test_a_partition_that_is_another_workers_now_is_not_shown_any_more():
    metrics = WorkerMetrics("ingest")
    metrics.lag({QUICK: (1, 2.0), SLOW: (3, 4.0)})
    metrics.lag({SLOW: (5, 6.0)})
    text = metrics.render(1).decode()
    rows = [row for row in text.splitlines() if row.startswith("sluicegate_lag_records{")]
    assert rows == ['sluicegate_lag_records{partition="1",role="ingest",topic="streams.input.v1"} 5.0']
