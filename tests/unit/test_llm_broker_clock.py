"""A worker whose clock is wrong: what it takes for the brokers' time, and what it does by it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.broker_clock import DRIFT, STAMP_US, BrokerClock
from connectors.llm.metrics import LlmMetrics
from tests.unit.support_llm_operation import World, said

SECOND_US = 1_000_000
BEGAN_US = 1_700_000_000 * SECOND_US


class Clocks:
    """The brokers' clock, and a worker's that differs from it by ``skew_us``."""

    def __init__(self, skew_us: int) -> None:
        self.skew_us = skew_us
        self.passed_us = 0
        self.clock = BrokerClock(lambda: self.true_us + self.skew_us, lambda: 77 + self.passed_us)

    @property
    def true_us(self) -> int:
        """What time it is for the brokers."""
        return BEGAN_US + self.passed_us

    def append(self, there_us: int, back_us: int) -> None:
        """Have a record stamped after it was on its way for so long, and acknowledged."""
        self.passed_us += there_us
        stamp_us = self.true_us // STAMP_US * STAMP_US
        self.passed_us += back_us
        self.clock.acknowledged(stamp_us, there_us + back_us)


WAYS = st.lists(st.tuples(st.integers(0, 500_000), st.integers(0, 500_000)), min_size=1, max_size=10)


@given(
    skew_us=st.integers(-100 * SECOND_US, 100 * SECOND_US),
    ways=WAYS,
    silent_us=st.integers(0, 60 * SECOND_US),
)
def test_it_is_never_further_off_than_the_shortest_way_there_and_back(skew_us, ways, silent_us):
    clocks = Clocks(skew_us)
    for there_us, back_us in ways:
        clocks.append(there_us, back_us)
    clocks.passed_us += silent_us
    off_us = abs(clocks.clock.now_us() - clocks.true_us)
    ago_us = silent_us + sum(map(sum, ways))
    assert off_us <= min(map(sum, ways)) + STAMP_US + 2 * DRIFT * ago_us + 2 * len(ways) + 2
    assert off_us <= abs(skew_us), "never further than its own clock"


@given(ways=WAYS)
def test_a_clock_that_is_right_is_believed(ways):
    clocks = Clocks(0)
    for there_us, back_us in ways:
        clocks.append(there_us, back_us)
    assert clocks.clock.now_us() == clocks.true_us
    assert clocks.clock.skew_s == 0


def test_before_anything_was_learnt_it_is_its_own_clock():
    clocks = Clocks(5 * SECOND_US)
    assert clocks.clock.now_us() == clocks.true_us + 5 * SECOND_US
    assert clocks.clock.age_ms(clocks.true_us) == 5_000
    assert clocks.clock.age_ms(clocks.true_us + 60 * SECOND_US) == 0


def test_to_set_ones_own_clock_ages_nothing():
    clocks = Clocks(0)
    clocks.append(1_000, 1_000)
    asked_us = clocks.true_us
    clocks.skew_us = 3_600 * SECOND_US
    clocks.passed_us += SECOND_US
    assert 1_000 <= clocks.clock.age_ms(asked_us) <= 1_003
    assert clocks.clock.skew_s == pytest.approx(3_600, abs=0.01)


def test_when_the_brokers_clock_is_set_what_was_known_is_forgotten():
    clocks = Clocks(0)
    clocks.append(1_000, 1_000)
    clocks.clock.acknowledged(clocks.true_us - 60 * SECOND_US, 2_000)
    assert clocks.clock.skew_s == pytest.approx(60, abs=0.01)


def test_the_skew_is_measured():
    metrics = LlmMetrics(lambda: 0, lambda: 2.5)
    assert b"sluicegate_llm_clock_skew_seconds 2.5" in metrics.render()


def skewed(seconds: float) -> BrokerClock:
    """The clock of a worker that is ahead of the brokers, whose clock is this machine's, by so much."""
    clock = BrokerClock(lambda: time.time_ns() // 1_000 + round(seconds * SECOND_US))
    clock.acknowledged(time.time_ns() // 1_000, 1_000)
    return clock


@pytest.mark.parametrize("seconds", [-3_600, 3_600])
def test_a_request_has_its_time_whatever_the_clock_of_its_worker(seconds):
    world = World(said("Hello"))
    world.tools = {"clock": skewed(seconds), "queue_ms_max": 30_000}
    assert world.run(deadline_ms=20_000).end == "completed"


def test_a_request_that_waited_for_too_long_is_refused_by_a_worker_that_is_late():
    world = World()
    world.asked_ago_us = 40 * SECOND_US
    world.tools = {"clock": skewed(-3_600), "queue_ms_max": 30_000}
    assert world.run().end == "timed_out"
    assert not world.calls
