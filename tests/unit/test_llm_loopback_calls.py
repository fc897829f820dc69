"""The loopback provider as our own providers ask and read it: what a request wants is what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import jsonschema
import orjson
import pytest

from connectors.llm.calls import Call, Params, Target, Tool
from connectors.llm.deltas import Failed, Finished, Over, Piece, Usage
from connectors.llm.loopback.faults import NOT_IN
from connectors.llm.loopback.server import Loopback, LoopbackOptions, LoopbackThread
from connectors.llm.loopback.wanted import REFUSALS
from connectors.llm.normalised import normalised
from connectors.llm.providers import PROVIDERS
from connectors.llm.recorder import record_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.llm.calls import Shape
    from connectors.llm.deltas import Delta

CLIENT = httpx2.Client(verify=False)  # to make one that trusts authorities takes longer than a test
each_shape = pytest.mark.parametrize("shape", list(PROVIDERS))
TOOL = Tool(
    "look", "looks", {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": 18, "maximum": 20},
        "of": {"enum": ["river", "sea"]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3},
        "gate": {"$ref": "#/$defs/gate"},
    },
    "required": ["name", "age", "of", "tags", "gate"],
    "additionalProperties": False,
    "$defs": {
        "gate": {
            "type": "object",
            "properties": {"open": {"type": "boolean"}},
            "required": ["open"],
            "additionalProperties": False,
        }
    },
}


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    with LoopbackThread(LoopbackOptions(speed=0)) as loopback:
        yield loopback


def deltas(loopback: Loopback, shape: Shape, model: str, **fields: Any) -> list[Delta]:
    provider = PROVIDERS[shape]
    call = Call(model, [{"role": "user", "content": "what flows here"}], **fields)
    request = provider.request(call, Target("test", shape, loopback.base_url(shape), "none"))
    recording, _ = record_call(CLIENT, provider, request)
    return [delta for _, delta in normalised(recording, provider)]


def text(found: list[Delta], channel: str = "text") -> str:
    return "".join(delta.text for delta in found if isinstance(delta, Piece) and delta.channel == channel)


def usage(found: list[Delta]) -> Usage:
    known = Usage()
    for delta in found:
        known = known.updated(delta) if isinstance(delta, Usage) else known
    return known


def finish(found: list[Delta]) -> str:
    return next((delta.finish for delta in found if isinstance(delta, Finished)), "")


@each_shape
def test_an_echo_with_reasoning_is_whole_and_counted(loopback: Loopback, shape: Shape):
    found = deltas(loopback, shape, "echo?reasoning=5")
    assert text(found) == "what flows here"
    assert len(text(found, "reasoning").split()) == 5
    assert (usage(found).input_tokens, usage(found).output_tokens) == (3, 8)
    assert finish(found) == "stop"
    assert isinstance(found[-1], Over)


@each_shape
def test_a_tool_is_called_with_what_its_schema_takes(loopback: Loopback, shape: Shape):
    found = deltas(loopback, shape, "tool", tools=[TOOL])
    jsonschema.validate(orjson.loads(text(found, "tool")), dict(TOOL.parameters))
    assert {delta.tool for delta in found if isinstance(delta, Piece)} == {"look"}
    assert finish(found) == "tool_calls"
    assert isinstance(found[-1], Over)


@each_shape
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_answer_follows_the_schema_that_is_asked_for(loopback: Loopback, shape: Shape, seed: int):
    found = deltas(loopback, shape, f"json?seed={seed}", schema=SCHEMA, schema_name="person")
    jsonschema.validate(orjson.loads(text(found)), SCHEMA)


@each_shape
def test_an_answer_is_as_long_as_it_may_be(loopback: Loopback, shape: Shape):
    found = deltas(loopback, shape, "words?tokens=50", params=Params(max_output_tokens=7))
    assert len(text(found).split()) == 7
    assert finish(found) == "length"
    assert isinstance(found[-1], Over)


@each_shape
def test_missing_usage_is_not_said_and_not_nought(loopback: Loopback, shape: Shape):
    found = deltas(loopback, shape, "words?fault=missing_usage")
    assert usage(found) == Usage()
    assert isinstance(found[-1], Over)


@each_shape
@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize(
    "fault", ["cut", "closed", "ended", "cut_utf8", "bad_utf8", "malformed", "error_frame"]
)
@pytest.mark.parametrize("model", ["words", "welcome"])
def test_what_broke_off_is_never_whole(loopback: Loopback, shape: Shape, model: str, fault: str, after: int):
    found = deltas(loopback, shape, f"{model}?fault={fault}&after={after}")
    assert isinstance(found[-1], Failed)
    assert not any(isinstance(delta, Over) for delta in found)
    pieces = [delta for delta in found if isinstance(delta, Piece) and delta.text]
    assert len(pieces) == after, "and what came before it was read"


@each_shape
@pytest.mark.parametrize("fault", ["unknown", "comments", "split", "duplicate_start"])
@pytest.mark.parametrize("model", ["words", "welcome"])
def test_what_is_only_odd_changes_no_text(loopback: Loopback, shape: Shape, model: str, fault: str):
    if shape in NOT_IN.get(fault, ()):
        assert isinstance(deltas(loopback, shape, f"{model}?fault={fault}")[-1], Failed)
        return
    good, odd = deltas(loopback, shape, model), deltas(loopback, shape, f"{model}?fault={fault}")
    assert text(odd) == text(good)
    assert isinstance(odd[-1], Over)


@each_shape
@pytest.mark.parametrize("fault", sorted(REFUSALS))
def test_an_answer_of_another_status_is_of_the_class_that_it_is_meant_to_be(
    loopback: Loopback, shape: Shape, fault: str
):
    (failed,) = deltas(loopback, shape, f"words?fault={fault}")
    assert isinstance(failed, Failed)
    classes = {"bad_gateway": "server", "moderated": "content_refused"}
    assert failed.error_class == classes.get(fault, fault)


@each_shape
def test_a_limit_says_when_to_come_again(loopback: Loopback, shape: Shape):
    (failed,) = deltas(loopback, shape, "words?fault=rate_limited&retry_after=7")
    assert isinstance(failed, Failed)
    assert failed.retry_after_ms == 7_000


@each_shape
def test_a_refusal_is_no_answer(loopback: Loopback, shape: Shape):
    found = deltas(loopback, shape, "words?fault=refusal")
    if shape == "ollama":  # it has no words for one: it is a model's text
        assert text(found).startswith("I can")
    else:
        assert finish(found) in ("refusal", "content_filter")
