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


class Told:
    """A log of which is told where it ends, and behind which offset nothing but markers stands."""

    def __init__(self, ends, markers_from=None):
        self.ends, self.markers_from, self.asked = ends, markers_from or {}, []
        self.reader = SimpleNamespace(stable_end=lambda *source: ends[source])
        self.tails = self
        self._asked_s = {}

    def knows_empty(self, source, position, end):
        return position >= end

    def is_empty(self, source, position, _end):
        self.asked.append(source)
        return position >= self.markers_from.get(source, self.ends[source])


def behind(ends, progress):
    return Engine.behind(Told(ends), progress)


def test_lag_is_counted_from_what_is_committed_and_never_below_nothing():
    now_us = time.time_ns() // 1_000
    progress = {QUICK: (10, now_us - 5_000_000), SLOW: (10, now_us - 60_000_000), FRESH: (0, now_us)}
    found = behind({QUICK: 9, SLOW: 25, FRESH: 3}, progress)
    assert found[QUICK] == (0, 0.0)
    assert found[SLOW] == (15, pytest.approx(60, abs=5))
    assert found[FRESH] == (3, pytest.approx(0, abs=5))


def test_each_look_asks_of_a_bounded_number_what_follows_and_all_have_their_turn():
    many = [SourcePartition("streams.input.v1", number) for number in range(100)]
    told = Told(dict.fromkeys(many, 5), dict.fromkeys(many[::2], 4))
    progress = dict.fromkeys(many, (4, 0))
    for _ in range(4):
        asked = len(told.asked)
        found = Engine.behind(told, progress)
        assert len(told.asked) == asked + 32
    assert set(told.asked) == set(many)
    assert found[many[-1]][0] == 1


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
