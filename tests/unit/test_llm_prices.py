"""Tokens and money: known, estimated and unknown apart, by golden sums of each provider."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import orjson
import pytest

from connectors.llm.calls import OUTPUT_TOKENS_ASSUMED, Call, Params, Target, Tool
from connectors.llm.deltas import Usage
from connectors.llm.plan import Choice
from connectors.llm.prices import (
    NOTHING,
    TOKENS_A_MEDIA,
    UNCOUNTED,
    VERSION,
    Cost,
    Counted,
    Price,
    Prices,
    counted,
    input_tokens,
)
from connectors.llm.providers import PROVIDERS

OPENAI = Target("openai", "openai-chat", "https://api.openai.com/v1")
CLAUDE = Target("claude", "anthropic", "https://api.anthropic.com/v1")
GEMINI = Target("gemini", "gemini", "https://generativelanguage.googleapis.com/v1beta")
LOCAL = Target("local", "ollama", "http://127.0.0.1:11434")
CALL = Call("", [{"role": "user", "content": "x" * 400}])
AT_US = 1_764_115_200_000_000  # 2025-11-26: the prices of that day
PLAIN = Usage(1_000, None, None, 500)


def sorts(sent, came, cached=None, **details):
    return Usage(sent, cached, None, came, None, details)


def cost(usage, target, model, source="provider", **more):
    return Prices(more.pop("own", {})).cost_of(Counted(usage, source), target, model, at_us=AT_US, **more)


@pytest.mark.parametrize(
    ("target", "model", "usage", "nanos"),
    [
        # USD for a million tokens, of the provider's list: 1000 nanos a token and dollar
        pytest.param(OPENAI, "gpt-4o", PLAIN, 1_000 * 2_500 + 500 * 10_000, id="openai"),
        pytest.param(
            OPENAI, "gpt-4o", Usage(1_000, 400, None, 500), 600 * 2_500 + 400 * 1_250 + 500 * 10_000,
            id="openai-cached",
        ),
        pytest.param(CLAUDE, "claude-sonnet-4-5", PLAIN, 1_000 * 3_000 + 500 * 15_000, id="anthropic"),
        pytest.param(
            CLAUDE, "claude-sonnet-4-5", Usage(1_000, 400, 300, 500),
            300 * 3_000 + 400 * 300 + 300 * 3_750 + 500 * 15_000, id="anthropic-cached-and-written",
        ),
        pytest.param(GEMINI, "gemini-2.5-flash", PLAIN, 1_000 * 300 + 500 * 2_500, id="gemini"),
        pytest.param(
            GEMINI, "gemini-2.5-flash", Usage(1_000, 400, None, 500, 200), 600 * 300 + 400 * 30 + 500 * 2_500,
            id="gemini-cached-reasoning",
        ),
        pytest.param(
            CLAUDE, "claude-sonnet-4-5", Usage(1_000, 400, 300, 500, None, {"cache_write_1h": 200}),
            300 * 3_000 + 400 * 300 + 100 * 3_750 + 200 * 6_000 + 500 * 15_000, id="anthropic-kept-an-hour",
        ),
        pytest.param(
            OPENAI, "gpt-audio", sorts(1_000, 500, input_audio=300, output_audio=400),
            700 * 2_500 + 300 * 32_000 + 100 * 10_000 + 400 * 64_000, id="openai-sound",
        ),
        pytest.param(
            OPENAI, "gpt-image-1", sorts(1_000, 500, 400, input_image=300, cached_image=100),
            400 * 5_000 + 300 * 1_250 + 200 * 10_000 + 100 * 2_500 + 500 * 40_000, id="openai-pictures-sent",
        ),
        pytest.param(
            GEMINI, "gemini-2.5-flash", sorts(1_000, 500, 400, input_audio=300, cached_audio=100),
            400 * 300 + 300 * 30 + 200 * 1_000 + 100 * 100 + 500 * 2_500, id="gemini-sound-of-a-cache",
        ),
        pytest.param(
            GEMINI, "gemini-2.5-flash-image", sorts(1_000, 1_300, output_image=1_290),
            1_000 * 300 + 10 * 2_500 + 1_290 * 30_000, id="gemini-pictures",
        ),
    ],
)  # fmt: skip
def test_what_a_provider_counted_costs_what_its_list_says(target, model, usage, nanos):
    assert cost(usage, target, model) == Cost(nanos, "known", VERSION)
    assert cost(usage, target, model, "estimated") == Cost(nanos, "estimated", VERSION)


def test_the_model_that_answered_is_billed():
    assert cost(PLAIN, OPENAI, "my-alias", answered="gpt-4o-2024-08-06").nanos == 7_500_000
    assert cost(PLAIN, OPENAI, "gpt-4o", answered="a-name-nobody-lists").nanos == 7_500_000


@pytest.mark.parametrize(
    ("target", "model", "usage", "source"),
    [
        (OPENAI, "gpt-of-tomorrow", PLAIN, "provider"),
        (LOCAL, "gpt-4o", PLAIN, "provider"),
        (OPENAI, "gpt-4o", Usage(1_000, None, None, None), "provider"),
        (OPENAI, "gpt-4o", Usage(), "unknown"),
        (CLAUDE, "claude-sonnet-4-5", Usage(100, 400, None, 500), "provider"),
        (OPENAI, "gpt-4o-audio-preview", sorts(1_000, 500, output_audio=1), "provider"),
        (GEMINI, "gemini-2.5-flash", sorts(1_000, 500, output_image=1), "provider"),
        (OPENAI, "gpt-audio", sorts(1_000, 500, output_audio=501), "provider"),
    ],
    ids=[
        "model",
        "another-machine",
        "half-counted",
        "uncounted",
        "contradiction",
        "sound",
        "pictures",
        "more",
    ],
)
def test_what_is_not_known_is_unknown_and_never_zero(target, model, usage, source):
    found = cost(usage, target, model, source)
    assert (found.nanos, found.source) == (None, "unknown")


OWN = Price(input_usd="1", output_usd="2", cached_input_usd="0.1")


def test_prices_of_ones_own_go_before_the_package_and_the_routes_before_the_settings():
    usage = Usage(1_000, 400, 100, 500)
    nanos = 500 * 1_000 + 400 * 100 + 100 * 1_000 + 500 * 2_000
    assert cost(usage, OPENAI, "gpt-4o", own={"openai/gpt-4o": OWN}) == Cost(nanos, "known", "settings")
    assert cost(usage, OPENAI, "gpt-4o", own={"openai/*": OWN}).version == "settings"
    assert cost(usage, OPENAI, "gpt-4o", own={"claude/*": OWN}).version == VERSION
    free = Price(input_usd="0", output_usd="0")
    assert cost(usage, LOCAL, "llama", own={"local/*": OWN}, route={"local/llama": free}) == Cost(
        0, "known", "route"
    )
    assert cost(Usage(100, 400, None, 1), LOCAL, "m", own={"local/*": OWN}).source == "unknown"


def test_sound_of_which_nobody_said_how_much_a_cache_had_is_an_estimate_that_is_no_less():
    sound = sorts(1_000, 500, 400, input_audio=300)
    as_if = 300 * 300 + 400 * 30 + 300 * 1_000 + 500 * 2_500
    assert cost(sound, GEMINI, "gemini-2.5-flash") == Cost(as_if, "estimated", VERSION)


PICTURE, SOUND, PDF, WORDS = (
    Call("", [{"role": "user", "content": [{"type": "media", "mime": mime, "data": "AA=="}]}])
    if mime
    else CALL
    for mime in ("image/png", "audio/wav", "application/pdf", "")
)


@pytest.mark.parametrize(
    ("target", "model", "said", "call", "nanos", "source"),
    [
        pytest.param(OPENAI, "gpt-4o", PLAIN, WORDS, 7_500_000, "known", id="openai-words"),
        pytest.param(OPENAI, "gpt-4o", PLAIN, PICTURE, 7_500_000, "estimated", id="openai"),
        pytest.param(
            OPENAI, "gpt-4o", sorts(1_000, 500, 400, input_image=300), PICTURE,
            600 * 2_500 + 400 * 1_250 + 500 * 10_000, "estimated", id="openai-counted-apart",
        ),
        pytest.param(CLAUDE, "claude-sonnet-4-5", PLAIN, PICTURE, 10_500_000, "estimated", id="anthropic"),
        pytest.param(CLAUDE, "claude-sonnet-4-5", PLAIN, PDF, 10_500_000, "estimated", id="anthropic-pages"),
        pytest.param(
            GEMINI, "gemini-2.5-flash-image", sorts(1_000, 1_300, input_image=258, output_image=1_290),
            PICTURE, 1_000 * 300 + 10 * 2_500 + 1_290 * 30_000, "estimated", id="gemini",
        ),
        pytest.param(
            GEMINI, "gemini-2.5-flash", sorts(1_000, 500, input_video=900), PICTURE,
            1_000 * 300 + 500 * 2_500, "estimated", id="gemini-videos",
        ),
        pytest.param(
            GEMINI, "gemini-3.1-flash-live-preview", sorts(1_000, 500, input_image=258), PICTURE,
            742 * 750 + 258 * 1_000 + 500 * 4_500, "known", id="a-price-of-theirs",
        ),
        pytest.param(
            GEMINI, "gemini-3.1-flash-live-preview", PLAIN, PICTURE, None, "unknown", id="and-not-counted"
        ),
        pytest.param(
            OPENAI, "gpt-image-1", sorts(1_000, 500, 400, input_image=300), PICTURE,
            300 * 5_000 + 400 * 1_250 + 300 * 10_000 + 500 * 40_000, "estimated", id="perhaps-of-a-cache",
        ),
        pytest.param(GEMINI, "gemini-2.5-flash", PLAIN, SOUND, None, "unknown", id="sound-not-counted"),
        pytest.param(
            CLAUDE, "claude-sonnet-4-5", sorts(1_000, 500, input_audio=300), SOUND, None, "unknown",
            id="sound-without-a-price",
        ),
    ],
)  # fmt: skip
def test_pictures_at_the_price_of_text_are_an_estimate_and_sound_has_none(
    target, model, said, call, nanos, source
):
    used = counted(said, call, 400, whole=True)
    assert Prices().cost_of(used, target, model, at_us=AT_US) == Cost(nanos, source, VERSION)


@pytest.mark.parametrize(
    ("text_usd", "picture_usd", "said", "source"),
    [
        pytest.param("1", None, PLAIN, "estimated", id="none"),
        pytest.param("1", "1", PLAIN, "known", id="as-text"),
        pytest.param("1", "3", PLAIN, "unknown", id="dearer-uncounted"),
        pytest.param("1", "3", sorts(1_000, 500, input_image=9), "known", id="dearer-counted"),
        pytest.param("0", None, PLAIN, "known", id="free"),
        pytest.param("0", None, sorts(1_000, 500, input_image=9), "known", id="free-counted"),
        pytest.param("0", "1", PLAIN, "unknown", id="free-but-pictures"),
    ],
)
def test_who_gives_pictures_a_price_knows_what_they_cost(text_usd, picture_usd, said, source):
    used = counted(said, PICTURE, 400, whole=True)
    own = {"local/*": Price(input_usd=text_usd, output_usd=text_usd, input_image_usd=picture_usd)}
    assert Prices(own).cost_of(used, LOCAL, "m").source == source


ALL_SORTS = Usage(
    1_000, 200, 100, 500, None,
    {"input_audio": 90, "cached_audio": 40, "input_image": 80, "input_video": 20, "cached_image": 30,
     "cached_video": 0, "cache_write_1h": 70, "output_audio": 60, "output_image": 50},
)  # fmt: skip


def test_each_sort_of_token_has_its_own_price_and_the_parts_are_the_whole():
    own = Price(
        input_usd="1", output_usd="2", cached_input_usd="0.1", cache_write_usd="1.2", cache_write_1h_usd="4",
        input_image_usd="3", input_audio_usd="10", cached_audio_usd="5", output_audio_usd="20",
        output_image_usd="30",
    )  # fmt: skip
    nanos = (
        (1_000 - 200 - 100 - 50 - 70) * 1_000 + 160 * 100 + 30 * 1_200 + 70 * 4_000 + 50 * 10_000 + 40 * 5_000
        + 70 * 3_000 + (500 - 60 - 50) * 2_000 + 60 * 20_000 + 50 * 30_000
    )  # fmt: skip
    assert cost(ALL_SORTS, LOCAL, "m", own={"local/*": own}) == Cost(nanos, "known", "settings")
    one = dict.fromkeys(Price.model_fields, Decimal(1))
    assert cost(ALL_SORTS, LOCAL, "m", own={"local/*": Price(**one)}).nanos == 1_500 * 1_000
    for name in ("cache_write_1h_usd", "input_audio_usd", "output_audio_usd", "output_image_usd"):
        without = own.model_copy(update={name: None})
        assert cost(ALL_SORTS, LOCAL, "m", own={"local/*": without}).source == "unknown", name
    free = Price(input_usd="0", output_usd="0")
    assert cost(ALL_SORTS, LOCAL, "m", own={"local/*": free}) == Cost(0, "known", "settings")


def test_fractions_of_a_nano_are_rounded_once_and_to_even():
    odd = Price(input_usd="0.0005", output_usd="0.0015")
    assert cost(Usage(1, None, None, 0), LOCAL, "m", own={"local/*": odd}).nanos == 0
    assert cost(Usage(0, None, None, 1), LOCAL, "m", own={"local/*": odd}).nanos == 2
    assert cost(Usage(3, None, None, 1), LOCAL, "m", own={"local/*": odd}).nanos == 3


def test_a_call_that_was_refused_costs_nothing_and_one_that_nobody_counted_is_unknown():
    prices = Prices()
    assert prices.cost_of(NOTHING, LOCAL, "m").nanos == 0
    assert prices.cost_of(NOTHING, LOCAL, "m").source == "estimated"
    assert prices.cost_of(UNCOUNTED, OPENAI, "gpt-4o").nanos is None


# -- tokens -----------------------------------------------------------------------------------------------


def test_the_providers_numbers_are_taken_of_a_whole_answer():
    assert counted(PLAIN, CALL, 9_999, whole=True) == Counted(PLAIN, "provider")


def test_what_is_missing_is_estimated_and_said_to_be():
    assert counted(Usage(), CALL, 400, whole=True) == Counted(Usage(104, None, None, 100), "estimated")
    assert counted(Usage(7), CALL, 401, whole=True) == Counted(Usage(7, None, None, 101), "estimated")


def test_of_a_cut_answer_an_early_count_is_not_taken_for_the_whole():
    """Anthropic says 1 output token at its start; what came after it was paid for, too."""
    cut = Usage(50, 10, None, 1)
    assert counted(cut, CALL, 400, whole=False) == Counted(Usage(50, 10, None, 100), "estimated")
    assert counted(Usage(50, 10, None, 300), CALL, 400, whole=False).usage.output_tokens == 300


def test_what_cannot_be_estimated_is_unknown():
    assert counted(Usage(), PICTURE, 10, whole=True).source == "unknown"
    assert counted(Usage(9, None, None, 9), PICTURE, 10, whole=True).source == "provider"
    assert counted(Usage(9), CALL, 0, whole=True, media=True).source == "unknown"


def test_sound_that_nobody_counted_apart_has_no_known_cost():
    for said, call, media, untold in (
        (PLAIN, SOUND, False, True),
        (sorts(1_000, 500, input_audio=9), SOUND, False, False),
        (PLAIN, CALL, True, True),
        (sorts(1_000, 500, output_image=9), CALL, True, False),
        (PLAIN, CALL, False, False),
    ):
        found = counted(said, call, 10, whole=True, media=media)
        assert (found.source, found.untold) == ("provider", untold)
    assert counted(Usage(9), SOUND, 10, whole=False).untold
    untold = Counted(PLAIN, "provider", untold=True)
    assert Prices().cost_of(untold, OPENAI, "gpt-4o", at_us=AT_US).source == "unknown"
    for price, source in ((OWN, "unknown"), (Price(input_usd="0", output_usd="0"), "known")):
        assert Prices({"local/*": price}).cost_of(untold, LOCAL, "m").source == source


def test_input_counts_messages_calls_tools_schema_and_media():
    assert input_tokens(Call("", [{"role": "user", "content": "é" * 10}])) == 5 + 4
    tool = Tool("look", "Looks it up.", {"type": "object"})
    parts = [{"type": "text", "text": "abcd"}, {"type": "media", "mime": "image/png", "data": "A"}]
    whole = Call(
        "",
        [
            {"role": "user", "content": parts},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "name": "look", "arguments": "{}"}],
            },
        ],
        tools=[tool],
        schema={"type": "object"},
    )
    texts = (
        4
        + len('[{"id":"1","name":"look","arguments":"{}"}]')
        + len("lookLooks it up.")
        + 2 * len('{"type":"object"}')
    )
    assert input_tokens(whole) == -(-texts // 4) + 2 * 4 + TOKENS_A_MEDIA


def test_a_reservation_is_the_input_and_the_longest_answer():
    choice = Choice(OPENAI, "gpt-4o")
    bounded = Call("", CALL.messages, params=Params(max_output_tokens=100))
    held = Prices().reserve_for(bounded, choice)
    assert (held.tokens, held.nanos) == (104 + 100, 104 * 2_500 + 100 * 10_000)
    assert Prices().reserve_for(CALL, choice).tokens == 104 + OUTPUT_TOKENS_ASSUMED
    assert Prices().reserve_for(CALL, Choice(LOCAL, "m")).nanos is None


@pytest.mark.parametrize(
    ("shape", "model", "reasoning", "thinking"),
    [
        ("anthropic", "claude-sonnet-4-5", "medium", 4_096),
        ("anthropic", "claude-sonnet-4-5", "high", 16_384),
        ("anthropic", "claude-opus-5", "high", 0),
        ("gemini", "gemini-2.5-pro", "high", 24_576),
        ("openai-chat", "gpt-5", "high", 0),
    ],
)
def test_what_an_answer_is_told_to_think_is_held_with_it(shape, model, reasoning, thinking):
    choice = Choice(Target("p", shape, "http://127.0.0.1:1"), model)
    asked = replace(CALL, params=Params(reasoning=reasoning))
    assert Prices().reserve_for(asked, choice).tokens == 104 + OUTPUT_TOKENS_ASSUMED + thinking
    if shape == "anthropic":
        sent = orjson.loads(PROVIDERS[shape].request(replace(asked, model=model), choice.target).body)
        assert 104 + sent["max_tokens"] == Prices().reserve_for(asked, choice).tokens
