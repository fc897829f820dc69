"""What one answer may be of: depth, numbers, names and sizes, each bounded where it is read."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.calls import Call, Target
from connectors.llm.deltas import Media, Named, Piece, Usage
from connectors.llm.fallback import decide
from connectors.llm.ledger import Attempt
from connectors.llm.nesting import NESTING_MAX, read_json
from connectors.llm.plan import Choice, Next, Plan, Stop, Tried
from connectors.llm.prices import Counted, Price, Prices
from connectors.llm.providers import PROVIDERS
from connectors.llm.providers.normalising import COUNT_MAX
from connectors.llm.raw import RawKeeper
from connectors.llm.route import FALLBACK_ON
from schemas.catalog import LocalSchemas
from schemas.envelope import fitting
from schemas.topics import LLM_RAW
from schemas.wire import WireCodec
from tests.unit.support_llm import deltas_of, sent, told

SHAPES = sorted(PROVIDERS)
RECORD_MAX = 1_048_576


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", [300, 1_000])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_of_any_depth_is_told(shape, levels):
    error = f'{{"error": {{"message": "m", "details": {deep(levels)}}}}}'
    assert told(deltas_of(shape, [sent(shape, "", error)])).end == "oversized"
    failed = PROVIDERS[shape].failed(503, {}, error.encode())
    assert failed.error_class == "overloaded"
    assert failed.raw.startswith('{"error"')


ARGUMENTS = {
    "gemini": '{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":%s}}]}}]}',
    "ollama": '{"message":{"tool_calls":[{"function":{"name":"f","arguments":%s}}]}}',
    "anthropic": (
        '{"type":"content_block_start","index":0,'
        '"content_block":{"type":"tool_use","id":"a","name":"f","input":%s}}'
    ),
    "openai-chat": (
        '{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":%s}}]}}]}'
    ),
}


@pytest.mark.parametrize("shape", sorted(ARGUMENTS))
def test_arguments_that_nobody_could_write_again_are_oversized(shape):
    def answer(levels: int) -> str:
        chunk = ARGUMENTS[shape] % ('{"a":' * levels + "1" + "}" * levels)
        return told(deltas_of(shape, [sent(shape, "", chunk)])).end

    assert answer(300) == "oversized"
    assert answer(60) == "truncated", "read, and the answer only breaks off"


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_the_deepest_that_is_read_can_be_written(opening):
    closing = "]" if opening == "[" else "}"
    inmost = "" if opening == "[" else "1"

    def value(levels: int) -> str:
        return opening * levels + inmost + closing * levels

    assert orjson.dumps([[read_json(value(NESTING_MAX))]])
    assert read_json("[" + ",".join(["[]"] * 1_000) + "]"), "many brackets are not deep"
    with pytest.raises(ValueError, match="deeper"):
        read_json(value(NESTING_MAX + 1))


def test_an_answer_beyond_its_bounds_is_not_made_again_by_the_same_model():
    one, other = (Choice(Target(name, "openai-chat", "http://127.0.0.1:1"), "m", retries=3) for name in "ab")
    plan = Plan(Call("", []), [one, other], frozenset(FALLBACK_ON), after_content="restart")
    tried = [Tried("a", "m", "oversized", had_content=False)]
    assert decide(plan, tried, 0) == Next(other, "fallback")
    stop = decide(replace(plan, choices=[one]), tried, 0)
    assert isinstance(stop, Stop)
    assert "oversized" in stop.message


def test_a_media_type_is_bounded():
    image = {"image_url": {"url": f"data:{'a' * 100_000};base64,AAAA"}}
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"images": [image]}}]})
    assert told(deltas_of("openai-chat", [sent("openai-chat", "", chunk)])).end == "malformed"
    item = {"type": "image_generation_call", "output_format": "a" * 100_000, "result": "AAAA"}
    event = json.dumps({"type": "response.output_item.done", "item": item})
    deltas = deltas_of("openai-responses", [sent("openai-responses", "", event)])
    assert told(deltas).end == "malformed"
    assert not [each for each in deltas if isinstance(each, Media)]


USAGES = {
    "openai-chat": {"choices": [], "usage": {"prompt_tokens": 2**53 - 1, "completion_tokens": 7}},
    "gemini": {"usageMetadata": {"promptTokenCount": 2**53 - 1, "candidatesTokenCount": 7}},
    "ollama": {"prompt_eval_count": 2**53 - 1, "eval_count": 7},
}


@pytest.mark.parametrize("shape", sorted(USAGES))
def test_a_count_that_no_answer_can_have_is_none(shape):
    (usage,) = (
        each
        for each in PROVIDERS[shape].normaliser().take("", json.dumps(USAGES[shape]))
        if isinstance(each, Usage)
    )
    assert (usage.input_tokens, usage.output_tokens) == (None, 7)


def test_no_cost_is_beyond_64_bits():
    target = Target("p", "openai-chat", "http://127.0.0.1:1")
    prices = Prices(own={"p/*": Price(input_usd=Decimal(100_000), output_usd=Decimal(100_000))})

    def nanos(tokens: int) -> int | None:
        return prices.cost_of(Counted(Usage(tokens, None, None, tokens), "provider"), target, "m").nanos

    most = nanos(3 * COUNT_MAX)  # Anthropic's input is a sum of three
    assert most is not None
    assert most < 2**63
    assert nanos(2**53) is None


TARGET = Target("p", "openai-chat", "http://127.0.0.1:1", "sk-secret-0123456789")


class Outlet:
    """Keeps what it is given."""

    def __init__(self):
        self.values = []

    def send(self, _key, value, _partition, topic):
        """See outlet."""
        assert topic is LLM_RAW
        self.values.append(value)


@pytest.mark.parametrize(
    "events",
    [[("n" * 1_500_000, "{}")], [("", "🦊" * 60_000)] * 5, [("é" * 256, "é" * 1_000)] * 300],
    ids=["name", "foxes", "names"],
)
@pytest.mark.parametrize("keep", ["full", "redacted"])
def test_what_is_kept_raw_always_fits_a_record(events, keep):
    outlet, wire = Outlet(), WireCodec(LocalSchemas())
    row = Attempt(tenant="acme", stream_id="s", kind="llm", attempt=1, epoch=0)
    keeper = RawKeeper(row, TARGET, keep, wire, outlet, 0)
    for event, data in events:
        keeper.take(event, data)
    keeper.flush()
    records = [wire.decode(value, LLM_RAW.subject) for value in outlet.values]
    assert all(len(value) < RECORD_MAX * 3 // 4 for value in outlet.values)
    assert sum(len(record["chunks"]) for record in records) == len(events)
    assert min(record["first_index"] for record in records) == 0


def test_a_body_that_is_kept_raw_is_bounded_with_its_headers_and_shows_no_key():
    outlet, wire = Outlet(), WireCodec(LocalSchemas())
    row = Attempt(tenant="acme", stream_id="s", kind="llm", attempt=1, epoch=0)
    keeper = RawKeeper(row, TARGET, "full", wire, outlet, 0)
    headers = {f"x-ratelimit-{'a' * number}": "é" * 60_000 for number in range(1, 60)}
    headers |= {"set-cookie": "a=b", "request-id": TARGET.api_key}
    keeper.body(529, headers, "🦊" * 65_536)
    keeper.body(200, {}, "of another connection")
    keeper.flush()
    (value,) = outlet.values
    record = wire.decode(value, LLM_RAW.subject)
    assert len(value) < RECORD_MAX * 3 // 4
    assert (record["status"], len(record["chunks"][0])) == (529, 65_536)
    assert record["headers"]["request-id"] == "***"
    assert "set-cookie" not in record["headers"]


def test_a_refusal_before_events_of_another_connection_is_not_kept_raw():
    outlet, wire = Outlet(), WireCodec(LocalSchemas())
    row = Attempt(tenant="acme", stream_id="s", kind="llm", attempt=1, epoch=3)
    keeper = RawKeeper(row, TARGET, "full", wire, outlet, 0)
    keeper.body(503, {}, "busy")
    for number in range(100):
        keeper.take("", str(number))
    row.epoch = 4
    keeper.flush()
    records = [wire.decode(value, LLM_RAW.subject) for value in outlet.values]
    assert [chunk for record in records for chunk in record["chunks"]] == [*map(str, range(100))]
    assert {(record["status"], record["epoch"]) for record in records} == {(0, 3)}


@pytest.mark.parametrize("keep", ["full", "redacted"])
def test_a_key_that_a_provider_quotes_is_not_kept_raw(keep):
    outlet, wire = Outlet(), WireCodec(LocalSchemas())
    keeper = RawKeeper(
        Attempt(tenant="acme", stream_id="s", kind="llm", attempt=1, epoch=0), TARGET, keep, wire, outlet, 0
    )
    keeper.take(f"k-{TARGET.api_key}", json.dumps({"code": TARGET.api_key, "words": "hush"}))
    keeper.flush()
    (record,) = (wire.decode(value, LLM_RAW.subject) for value in outlet.values)
    assert record["events"] == ["k-***"]
    assert json.loads(record["chunks"][0])["code"] == "***"
    assert TARGET.api_key.encode() not in outlet.values[0]


def test_an_index_of_a_piece_is_of_the_contract():
    start = '{"type":"content_block_delta","index":9007199254740991,"delta":{"type":"text_delta","text":"a"}}'
    (piece,) = (each for each in PROVIDERS["anthropic"].normaliser().take("", start))
    assert isinstance(piece, Piece)
    assert piece.index == 0


NAMINGS = {
    "openai-chat": ("x-request-id", '{"id": %s, "model": %s, "choices": []}'),
    "openai-responses": ("x-request-id", '{"type": "response.created", "response": {"id": %s, "model": %s}}'),
    "anthropic": ("request-id", '{"type": "message_start", "message": {"id": %s, "model": %s}}'),
    "gemini": ("x-request-id", '{"responseId": %s, "modelVersion": %s}'),
}


@pytest.mark.parametrize("shape", sorted(NAMINGS))
@pytest.mark.parametrize(
    ("said", "named"),
    [("req\n1", "req1"), ("é" * 200, "é" * 128), ("a\tb", "ab")],
    ids=["line", "bytes", "tab"],
)
def test_names_are_as_the_contract_has_them_on_the_ledger_and_in_events(shape, said, named):
    header, event = NAMINGS[shape]
    assert PROVIDERS[shape].named({header: said}) == Named(named)
    deltas = PROVIDERS[shape].normaliser().take("", event % (json.dumps(said), json.dumps(said)))
    assert Named(named, named) in deltas


@given(st.text(max_size=300), st.integers(1, 256))
def test_what_is_made_to_fit_does_and_what_fits_is_left(text, bytes_max):
    made = fitting(text, bytes_max)
    assert made.isprintable()
    assert len(made.encode()) <= bytes_max
    assert fitting(made, bytes_max) == made
    if text.isprintable() and len(text.encode()) <= bytes_max:
        assert made == text
