"""A partition's event time comes from its own records alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from state.memory import MemoryBackend
from state.store import StagedView
from state.watermark import AHEAD_US_MAX, BEGINNING_US, Watermark

HOUR_US = 3_600_000_000
times = st.integers(0, 10 * HOUR_US)


def test_before_the_first_record_there_is_no_time():
    assert Watermark(5).now_us == BEGINNING_US


def test_it_stays_behind_the_latest_event_by_the_allowed_disorder():
    clock = Watermark(1_000)
    clock.see(50_000, 50_000)
    assert clock.now_us == 49_000
    clock.see(20_000, 60_000)
    assert clock.now_us == 49_000


def test_an_event_of_the_far_future_moves_it_a_minute_beyond_its_append_at_most():
    clock = Watermark(0)
    assert clock.see(10**17, HOUR_US) == HOUR_US + AHEAD_US_MAX
    assert clock.now_us == HOUR_US + AHEAD_US_MAX


def test_a_lagging_event_is_effective_at_the_watermark():
    clock = Watermark(1_000)
    clock.see(HOUR_US, HOUR_US)
    assert clock.see(5, HOUR_US + 1) == HOUR_US - 1_000


def test_a_tick_brings_it_to_the_brokers_clock():
    clock = Watermark(1_000)
    clock.tick(HOUR_US)
    assert clock.now_us == HOUR_US - 1_000


@given(st.lists(st.tuples(times, times, st.booleans())), times)
def test_it_never_goes_back_and_is_what_the_contract_says(records, disorder_us):
    view, clock, seen, before = StagedView(MemoryBackend()), Watermark(disorder_us), [], BEGINNING_US
    for event_us, append_us, is_tick in records:
        if is_tick:
            clock.tick(append_us)
            seen.append(append_us)
        else:
            effective_us = clock.see(event_us, append_us)
            seen.append(min(event_us, append_us + AHEAD_US_MAX))
            assert clock.now_us <= effective_us <= max(append_us + AHEAD_US_MAX, clock.now_us)
        assert clock.now_us == max(max(seen) - disorder_us, BEGINNING_US) >= before
        before = clock.now_us
        clock.save(view, b"c")
        clock = Watermark(disorder_us)
        clock.load(view, b"c")
