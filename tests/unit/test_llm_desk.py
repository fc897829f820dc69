"""The desk: what an attempt's row says of tokens, cost and budget once it is settled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson
import pytest

from connectors.llm.book import Book
from connectors.llm.calls import Target
from connectors.llm.desk import RoutingDesk
from connectors.llm.errors import BudgetSpent
from connectors.llm.ledger import Attempt
from connectors.llm.plan import Next, Tried
from connectors.llm.providers import PROVIDERS
from tests.unit.test_llm_routing import asked, book_with, put

ROUTE = {
    "candidates": [{"target": "openai", "model": "gpt-4o"}, {"target": "local", "model": "llama"}],
    "max_output_tokens": 100,
}
ASKED_TOKENS = 9  # "Why is the sky blue?": 20 bytes, and 4 of framing


@dataclass
class Came:
    """What an attempt brought."""

    size_bytes: int = 0
    media: bool = False
    sent: bool = True


@pytest.fixture
def desk():
    return RoutingDesk(book_with(ROUTE))


def started(desk, **fields):
    plan = desk.plan(asked())
    row = Attempt(
        tenant="default", stream_id="s1", kind="llm", attempt=1, epoch=0, provider="openai", model="gpt-4o",
        started_us=1_764_115_200_000_000,
    )  # fmt: skip
    desk.reserve(plan, row)
    for name, value in fields.items():
        setattr(row, name, value)
    return plan, row


def summed(row):
    return row.usage_source, row.input_tokens, row.output_tokens, row.cost_source, row.cost_nanos


def test_what_a_call_may_come_to_is_held_and_stands_in_its_row(desk):
    _, row = started(desk)
    assert row.reserved_tokens == ASKED_TOKENS + 100
    assert row.reserved_nanos == ASKED_TOKENS * 2_500 + 100 * 10_000


@pytest.mark.parametrize(
    ("fields", "came", "expected"),
    [
        pytest.param(
            {"finish": "stop", "http_status": 200, "contents": 5, "input_tokens": 10, "output_tokens": 20},
            Came(80), ("provider", 10, 20, "known", 10 * 2_500 + 20 * 10_000), id="counted",
        ),
        pytest.param(
            {"finish": "stop", "http_status": 200, "contents": 5, "input_tokens": 10, "output_tokens": 20},
            Came(80, media=True), ("provider", 10, 20, "unknown", None), id="sound-not-counted-apart",
        ),
        pytest.param(
            {"finish": "stop", "http_status": 200, "contents": 5, "input_tokens": 10, "output_tokens": 20,
             "usage_details": {"output_audio": 20}},
            Came(80, media=True), ("provider", 10, 20, "unknown", None), id="sound-without-a-price",
        ),
        pytest.param(
            {"finish": "stop", "http_status": 200, "contents": 5, "input_tokens": 10, "output_tokens": 20,
             "usage_details": {"input_image": 8}},
            Came(80), ("provider", 10, 20, "estimated", 10 * 2_500 + 20 * 10_000), id="picture-sent",
        ),
        pytest.param(
            {"finish": "stop", "http_status": 200, "contents": 5},
            Came(80), ("estimated", 9, 20, "estimated", 9 * 2_500 + 20 * 10_000), id="uncounted",
        ),
        pytest.param(
            {"http_status": 200, "contents": 5, "error_class": "cancelled",
             "input_tokens": 10, "output_tokens": 1},
            Came(80), ("estimated", 10, 20, "estimated", 10 * 2_500 + 20 * 10_000), id="cancelled",
        ),
        pytest.param(
            {"http_status": 200, "error_class": "timeout_first_content"},
            Came(), ("estimated", 9, 0, "estimated", 9 * 2_500), id="answered-and-silent",
        ),
        pytest.param(
            {"http_status": 429, "error_class": "rate_limited"},
            Came(), ("estimated", 0, 0, "estimated", 0), id="refused",
        ),
        pytest.param(
            {"error_class": "connect"}, Came(sent=False), ("estimated", 0, 0, "estimated", 0), id="unreached",
        ),
        pytest.param(
            {"error_class": "connect"}, Came(), ("unknown", None, None, "unknown", None), id="broken-off",
        ),
        pytest.param(
            {"error_class": "timeout_connect"}, Came(), ("unknown", None, None, "unknown", None),
            id="no-status",
        ),
        pytest.param(
            {"http_status": 200, "contents": 1, "finish": "stop", "model_answered": "of-nobody",
             "provider": "local", "model": "llama", "input_tokens": 1, "output_tokens": 1},
            Came(4), ("provider", 1, 1, "unknown", None), id="no-price",
        ),
    ],
)  # fmt: skip
def test_an_attempt_is_settled_by_what_is_known_of_it(desk, fields, came, expected):
    plan, row = started(desk, **fields)
    desk.settle(plan, row, came)
    assert summed(row) == expected
    spent = desk.budgets.spent("default", row.started_us)
    held = row.reserved_tokens
    assert spent["calls"] == 0
    assert sum(desk.budgets._tenants["default"].tokens.values()) == (
        held if expected[1] is None else expected[1] + expected[2]
    )


def test_of_an_attempt_whose_worker_died_nothing_is_known_and_its_reservation_stays(desk):
    _, row = started(desk)
    desk.settle(None, row, None)
    assert summed(row) == ("unknown", None, None, "unknown", None)
    assert sum(desk.budgets._tenants["default"].tokens.values()) == row.reserved_tokens


def test_a_bound_that_is_written_while_it_runs_holds_from_the_next_call_on(desk):
    started(desk)
    put(desk.book, "budgets", 1, {"tenants": {"default": {"calls": 1}}})
    with pytest.raises(BudgetSpent):
        started(desk)


def test_it_says_what_follows_and_spreads_waits(desk):
    plan = desk.plan(asked())
    to = asked().to
    assert desk.decide(to, plan, [], plan.deadline_ms) == Next(plan.choices[0], "first")
    again = Tried("openai", "gpt-4o", "overloaded", had_content=False)
    streams = [replace(to, stream_id=f"s{number}") for number in range(50)]
    waits = {desk.decide(each, plan, [again], plan.deadline_ms).wait_ms for each in streams}
    assert len({desk.decide(to, plan, [again], plan.deadline_ms).wait_ms for _ in range(2)}) == 1
    assert len(waits) > 5
    assert min(waits) >= 125
    assert max(waits) <= 250


BOUNDS = {
    "openai-chat": ("max_tokens",),
    "openai-responses": ("max_output_tokens",),
    "anthropic": ("max_tokens",),
    "gemini": ("generationConfig", "maxOutputTokens"),
    "ollama": ("options", "num_predict"),
}


def bound_sent(shape, limits, **asking):
    """What the request of an attempt has for a bound, and what is held of it for the answer."""
    target = Target("here", shape, "http://127.0.0.1:1/v1")
    book = Book({"here": target})
    put(book, "default", 1, {"candidates": [{"target": "here", "model": "claude-sonnet-4-5"}]})
    put(book, "budgets", 1, {"default": limits})
    desk = RoutingDesk(book)
    row = Attempt(
        tenant="default", stream_id="s1", kind="llm", attempt=1, epoch=0, provider="here",
        model="claude-sonnet-4-5", started_us=1_764_115_200_000_000,
    )  # fmt: skip
    call = replace(desk.reserve(desk.plan(asked(**asking)), row).call, model=row.model)
    sent = orjson.loads(PROVIDERS[shape].request(call, target).body)
    for name in BOUNDS[shape]:
        sent = sent.get(name, {})
    return sent or None, row.reserved_tokens - ASKED_TOKENS


@pytest.mark.parametrize("limits", [{"tokens_day": 10**6}, {"usd_hour": 5}], ids=["tokens", "money"])
@pytest.mark.parametrize("shape", BOUNDS)
def test_where_answers_count_against_a_budget_the_request_is_bounded_by_what_is_held(shape, limits):
    assert bound_sent(shape, limits) == (4_096, 4_096)
    asked_for = {"params_json": '{"max_output_tokens": 50}'}
    assert bound_sent(shape, limits, **asked_for) == (50, 50)


@pytest.mark.parametrize("shape", BOUNDS)
def test_where_none_binds_a_request_has_the_bound_that_its_shape_wants_alone(shape):
    assert bound_sent(shape, {"calls": 4}) == (4_096 if shape == "anthropic" else None, 4_096)


def test_what_is_thought_is_held_and_sent_with_the_answer():
    thinking = {"params_json": '{"reasoning": "high"}'}
    for limits in ({"tokens_day": 10**6}, {"calls": 4}):
        assert bound_sent("anthropic", limits, **thinking) == (20_480, 20_480)
