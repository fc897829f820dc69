"""Budgets: held before a call, settled after it, shared by workers through the ledger."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.llm import budgets as module
from connectors.llm.budgets import (
    DAY_HOURS,
    HOUR_US,
    IN_FLIGHT_US_MAX,
    Budgets,
    BudgetsConfig,
    budgets_config,
)
from connectors.llm.errors import BudgetSpent, RouteRefused
from connectors.llm.ledger import Attempt
from connectors.llm.prices import Reserve
from tests.unit.test_llm_routing import book_with, put

NOON_US = (20_000 * DAY_HOURS + 12) * HOUR_US


def limited(**limits):
    config = budgets_config(orjson.dumps({"tenants": {"acme": limits}}).decode())
    return Budgets(lambda: config)


def reserve(budgets, number, tokens=100, nanos=0, *, tenant="acme", now_us=NOON_US):
    key = row(number, tenant=tenant).key.decode()
    budgets.reserve(key, tenant, Reserve(tokens, nanos), now_us)
    return key


def row(number, state="started", *, tokens=100, nanos=0, taken=None, cost=None, at_us=NOON_US, tenant="acme"):
    return Attempt(
        tenant=tenant, stream_id=f"s{number}", kind="llm", attempt=1, epoch=0, state=state, started_us=at_us,
        reserved_tokens=tokens, reserved_nanos=nanos, input_tokens=taken,
        output_tokens=None if taken is None else 0, cost_nanos=cost,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "bound", "said"),
    [
        ({"tokens_hour": 250}, "tokens_hour", "tokens of this hour has no room: 200 of 250 are used or held"),
        ({"tokens_day": 250}, "tokens_day", "tokens of this day"),
        ({"usd_hour": 0.5}, "usd_hour", "USD of this hour has no room: 0.400000 of 0.500000 are used or"),
        ({"usd_day": "0.5"}, "usd_day", "this call may take 0.200000"),
        ({"calls": 2}, "calls", "calls in flight is spent: 2 of 2"),
        ({"tokens_day": 200}, "tokens_day", "tokens of this day is spent: 200 of 200"),
    ],
    ids=["tokens-hour", "tokens-day", "usd-hour", "usd-day", "calls", "all"],
)
def test_what_would_go_beyond_a_bound_is_refused_with_its_reason_and_holds_nothing(limits, bound, said):
    budgets = limited(**limits)
    first = reserve(budgets, 1, nanos=200_000_000)
    reserve(budgets, 2, nanos=200_000_000)
    with pytest.raises(BudgetSpent, match=said) as refused:
        reserve(budgets, 3, nanos=200_000_000)
    assert refused.value.bound == bound
    assert "acme" in str(refused.value)
    assert reserve(budgets, 4, tenant="other"), "others are not bounded by it"
    budgets.release(first)
    assert reserve(budgets, 3, nanos=200_000_000), "the refused one held nothing"


@pytest.mark.parametrize(
    ("limits", "asks", "remedy"),
    [
        ({"tokens_hour": 250}, 200, "Ask again from 2024-10-04 13:00 UTC on, when it is renewed"),
        ({"tokens_day": 250}, 200, "Ask again from 2024-10-05 00:00 UTC on, when it is renewed"),
        ({"tokens_hour": 250}, 251, "more than the whole of it, which is renewed at 2024-10-04 13:00 UTC; "),
        ({"calls": 1}, 200, "Ask again when a call of it has ended; "),
    ],
    ids=["hour", "day", "never", "calls"],
)
def test_who_is_refused_is_told_when_there_is_room_again(limits, asks, remedy):
    budgets = limited(**limits)
    reserve(budgets, 1)
    with pytest.raises(BudgetSpent) as refused:
        reserve(budgets, 2, tokens=asks)
    assert remedy in refused.value.told


@pytest.mark.parametrize(
    ("limits", "error_class", "again"),
    [
        ({"calls": 1}, "rate_limited", True),
        ({"calls": 0}, "spend_limited", False),
        ({"tokens_day": 150}, "spend_limited", False),
        ({"usd_day": 0.1}, "spend_limited", False),
    ],
    ids=["calls", "no-calls", "tokens", "money"],
)
def test_calls_in_flight_are_a_limit_that_passes_and_no_other_is(limits, error_class, again):
    budgets = limited(**limits)
    budgets.take(row(1, nanos=100_000_000))
    with pytest.raises(BudgetSpent) as refused:
        reserve(budgets, 2, nanos=100_000_000)
    assert (refused.value.error_class, refused.value.retry_after_ms > 0) == (error_class, again)


def test_a_settled_call_counts_for_what_it_took_and_what_nobody_counted_as_it_was_held():
    budgets = limited(tokens_day=10_000, calls=2)
    known, unknown = reserve(budgets, 1, 1_000, 500), reserve(budgets, 2, 1_000, 500)
    budgets.settle(known, 30, 7)
    budgets.settle(unknown, None, None)
    spent = budgets.spent("acme", NOON_US)
    assert (spent["tokens_day"], spent["nanos_day"], spent["calls"]) == (1_030, 507, 0)


def test_an_hour_and_a_day_end_and_a_call_belongs_to_the_hour_in_which_it_began():
    budgets = limited(tokens_hour=100, tokens_day=200)
    key = reserve(budgets, 1)
    with pytest.raises(BudgetSpent):
        reserve(budgets, 2)
    later = NOON_US + HOUR_US
    reserve(budgets, 2, now_us=later)
    budgets.settle(key, 40, 0)
    assert budgets.spent("acme", later)["tokens_hour"] == 100
    assert budgets.spent("acme", later)["tokens_day"] == 140
    with pytest.raises(BudgetSpent, match="day"):
        reserve(budgets, 3, now_us=later + HOUR_US)
    assert reserve(budgets, 3, now_us=NOON_US + 12 * HOUR_US), "midnight, UTC"


def test_other_workers_calls_count_once_their_rows_were_read_and_ones_own_count_once():
    budgets = limited(calls=2)
    reserve(budgets, 1)
    budgets.take(row(1))
    budgets.take(row(2))
    with pytest.raises(BudgetSpent):
        reserve(budgets, 3)
    for _ in range(2):
        budgets.take(row(2, "completed", taken=20, cost=9))
    spent = budgets.spent("acme", NOON_US)
    assert (spent["calls"], spent["tokens_day"], spent["nanos_day"]) == (1, 120, 9)


def test_calls_of_two_questions_for_one_name_both_count_though_they_have_one_number():
    budgets = limited(tokens_day=1_000)
    asked_again = replace(row(1, "completed", taken=30), request_offset=9)
    for each in (row(1, "completed", taken=20), asked_again) * 2:
        budgets.take(each)
    assert budgets.spent("acme", NOON_US)["tokens_day"] == 50


def test_what_is_no_call_of_a_model_counts_for_nothing():
    budgets = limited(calls=1)
    budgets.take(replace(row(1), state="refused"))
    budgets.take(replace(row(2, "completed", taken=50), upstream="retrieval"))
    assert budgets.spent("acme", NOON_US) == dict.fromkeys(
        ("tokens_hour", "tokens_day", "nanos_hour", "nanos_day", "calls"), 0
    )


def test_a_call_that_nobody_settles_flies_no_more_and_stays_spent():
    budgets = limited(calls=1, tokens_day=10_000)
    reserve(budgets, 1, 500)
    later = NOON_US + IN_FLIGHT_US_MAX + 1
    reserve(budgets, 2, now_us=later)
    assert budgets.expired == 1
    assert budgets.spent("acme", later)["tokens_day"] == 600
    budgets.take(row(1, "abandoned", tokens=500, taken=20, cost=0))
    assert budgets.spent("acme", later)["tokens_day"] == 120, "found after all"


def test_of_calls_that_are_read_in_no_order_those_that_nobody_settled_fly_no_more():
    """A worker that starts reads the ledger partition by partition."""
    budgets = limited(calls=2)
    now_us = NOON_US + IN_FLIGHT_US_MAX
    budgets.take(row(1, at_us=now_us - 1))
    budgets.take(row(2, at_us=NOON_US))
    assert budgets.spent("acme", now_us)["calls"] == 1
    assert budgets.expired == 1


def test_what_has_no_price_is_let_through_until_the_money_is_spent():
    budgets = limited(usd_day=1)
    budgets.reserve("acme/a/1", "acme", Reserve(10, None), NOON_US)
    budgets.reserve("acme/b/1", "acme", Reserve(10, 1_000_000_000), NOON_US)
    with pytest.raises(BudgetSpent):
        budgets.reserve("acme/c/1", "acme", Reserve(10, None), NOON_US)


def test_memory_is_bounded_and_what_is_forgotten_stays_spent(monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS_MAX", 10)
    budgets = limited(tokens_day=100_000)
    for number in range(50):
        reserve(budgets, number, 1)
    spent = budgets.spent("acme", NOON_US)
    assert (spent["tokens_day"], spent["calls"]) == (50, 10)
    assert len(budgets._held) == 10
    monkeypatch.setattr(module, "TENANTS_MAX", 3)
    for number in range(9):
        reserve(budgets, number, tenant=f"t{number}")
    assert len(budgets._tenants) <= 4


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_sums_are_those_of_the_attempts_in_whatever_order_and_number_their_rows_come(data):
    """Against the plainest model: the latest that is known of each attempt, added up."""
    budgets = Budgets(BudgetsConfig)
    known = {}
    rows = st.tuples(st.integers(1, 6), st.sampled_from(["started", "completed", "failed", "abandoned"]))
    for number, state in data.draw(st.lists(rows, max_size=30)):
        taken = None if state == "started" else data.draw(st.sampled_from([None, 0, 40]))
        budgets.take(row(number, state, tokens=number, taken=taken))
        flies, tokens = known.get(number, (True, number))
        settled = state != "started"
        known[number] = (flies and not settled, taken if settled and taken is not None else tokens)
    spent = budgets.spent("acme", NOON_US)
    assert spent["calls"] == sum(flies for flies, _ in known.values())
    assert spent["tokens_day"] == sum(tokens for _, tokens in known.values())


@pytest.mark.parametrize(
    "text",
    ['{"tenants": {"a": {"tokens": 1}}}', '{"default": {"calls": -1}}', "[]", '{"default": {"calls": "x"}}'],
    ids=["unknown", "negative", "list", "text"],
)  # fmt: skip
def test_budgets_that_are_not_valid_are_refused_and_those_before_hold(text):
    with pytest.raises(RouteRefused, match="budgets"):
        budgets_config(text)
    book = book_with()
    put(book, "budgets", 1, {"default": {"calls": 5}})
    book.take_route(b"budgets/2", {"name": "budgets", "version": 2, "config_json": text})
    assert book.budgets.of("anybody").calls == 5
    assert book.refused == 1
