"""What a provider's own bytes come to in tokens and money, with cached tokens and without usage."""

from __future__ import annotations

import pytest

from connectors.llm.calls import Call, Target
from connectors.llm.deltas import Usage
from connectors.llm.prices import Cost, Price, Prices, counted
from tests.unit.support_llm import RECORDED, told_of

CALL = Call("", [{"role": "user", "content": "x" * 400}])
INPUT = 104  # 400 characters, and what a message has around it
PRICE = Price(input_usd="1", output_usd="2", cached_input_usd="0.1")


def billed(name, shape, price=PRICE):
    answer = told_of(RECORDED[name])
    used = counted(answer.usage or Usage(), CALL, len(answer.text), whole=True)
    target = Target("own", shape, "http://127.0.0.1:8000/v1")
    return used, Prices({"own/*": price}).cost_of(used, target, "m")


@pytest.mark.parametrize(
    ("shape", "tokens", "nanos"),
    [  # what no cache had at 1,000 nanos a token, what one had at 100, what came at 2,000
        ("openai-responses", (2_048, 1_920, 70), 128_000 + 192_000 + 140_000),
        ("openai-chat", (2_006, 1_920, 332), 86_000 + 192_000 + 664_000),
        ("anthropic", (2_009, 1_800, 393), 209_000 + 180_000 + 786_000),
        ("gemini", (2_112, 1_900, 65), 212_000 + 190_000 + 130_000),
    ],
)
def test_cached_tokens_have_their_price(shape, tokens, nanos):
    used, cost = billed(f"{shape}/cached-usage", shape)
    usage = used.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == tokens
    assert cost == Cost(nanos, "known", "settings")


def test_ollama_has_no_cached_tokens_and_a_prompt_it_kept_is_estimated():
    used, cost = billed("ollama/cached-usage", "ollama")
    assert (used.usage.input_tokens, used.usage.cached_input_tokens) == (INPUT, None)
    assert cost == Cost(108_000, "estimated", "settings")  # 104 at 1,000 nanos, 2 at 2,000


@pytest.mark.parametrize(
    ("shape", "came", "nanos"),
    [  # of a text of "Hi", or of "Hi there", by four bytes a token; 104 tokens went
        ("openai-responses", 1, 106_000),
        ("openai-chat", 2, 108_000),
        ("anthropic", 2, 108_000),
        ("gemini", 2, 108_000),
        ("ollama", 1, 106_000),
    ],
)
def test_usage_that_is_missing_is_estimated_and_never_zero(shape, came, nanos):
    used, cost = billed(f"{shape}/usage-missing", shape)
    assert (used.source, used.usage.output_tokens) == ("estimated", came)
    assert cost == Cost(nanos, "estimated", "settings")
