"""Money, times and costs as a person reads them; an attempt's times."""

from __future__ import annotations

import pytest

from connectors.llm.ledger import Attempt
from ops.llm_figures import cost, duration, figures_of, money, per_completed, times_of


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [
        (0, "$0.00"), (500, "$0.0000005"), (20_000_000, "$0.02"), (1_234_500_000, "$1.2345"),
        (2_000_000_000, "$2.00"), (1_234_567_890_000, "$1,234.57"), (0.4, "$0.00"),
    ],
)  # fmt: skip
def test_money_has_as_many_places_as_say_something(nanos, shown):
    assert money(nanos) == shown


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ((5_000_000, 0, 0), "$0.005"),
        ((0, 0, 3), "$0.00 + 3 of unknown cost"),
        ((5_000_000, 7_000_000, 0.5), "$0.005 + about $0.007 + 0.5 of unknown cost"),
    ],
)
def test_what_is_not_known_is_never_shown_as_nothing(parts, shown):
    assert cost(*parts) == shown


@pytest.mark.parametrize(
    ("ms", "shown"), [(None, "-"), (0, "0 ms"), (999, "999 ms"), (1_500, "1.5 s"), (90_000, "1.5 min")]
)
def test_a_time_is_told_in_the_unit_that_it_has(ms, shown):
    assert duration(ms) == shown


def test_a_completed_task_bears_what_the_failed_ones_cost():
    tasks = {"completed": 2, "known_nanos": 10, "estimated_nanos": 4, "cost_unknown": 1}
    assert per_completed(tasks) == {"known_nanos": 5.0, "estimated_nanos": 2.0, "cost_unknown": 0.5}
    assert per_completed(tasks | {"completed": 0}) is None


def test_an_attempts_times_count_from_its_call_and_are_none_for_what_did_not_happen():
    row = Attempt(tenant="t", stream_id="s", kind="llm", attempt=1, epoch=0, started_us=2_000_000)
    row.connected_us, row.ended_us = 2_010_000, 2_500_000
    assert times_of(row, 1_900_000) == {
        "queue_ms": 100.0, "connect_ms": 10.0, "first_content_ms": None, "total_ms": 500.0,
    }  # fmt: skip
    assert times_of(row, 0)["queue_ms"] is None


def test_tokens_a_second_and_quantiles_follow_from_the_sums():
    row = {
        "first_content_ms": {"100": 1},
        "first_content_ms_max": 80,
        "stream_ms_sum": 2_000,
        "stream_tokens": 90,
    }
    told = figures_of(row)
    assert (told["tokens_per_s"], told["first_content_ms_p95"]) == (45.0, pytest.approx(78.5))
    assert figures_of(row | {"stream_ms_sum": 0})["tokens_per_s"] is None
