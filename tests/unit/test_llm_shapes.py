"""Each shape asked over a socket by our own request: the same answer in all, and each fault its outcome."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import httpx2
import pytest

from connectors.llm.calls import Call, Params, Target, Tool
from connectors.llm.deltas import Over
from connectors.llm.framing import EVENT_BYTES_MAX
from connectors.llm.loopback.faults import NOT_IN
from connectors.llm.loopback.server import LoopbackThread
from connectors.llm.loopback.wanted import BLEMISHES, BREAKS, REFUSALS
from connectors.llm.providers import PROVIDERS
from tests.unit.support_llm import Told, deltas_of, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connectors.llm.calls import Shape
    from connectors.llm.loopback.server import Loopback

    Ask = Callable[[Shape, Call], Told]

SHAPES = sorted(PROVIDERS)
each_shape = pytest.mark.parametrize("shape", SHAPES)
QUESTION = "which way does the water flow — upward? 🌊 no, down and on and on"
CALL = Call("", [{"role": "user", "content": QUESTION}])
LOOK = Tool("look", "Looks.", {"type": "object", "properties": {"place": {"type": "string"}}})


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Ask the loopback provider in a shape: one client, as making one reads all certificates."""
    with LoopbackThread() as loopback, httpx2.Client(timeout=60) as client:
        yield partial(_asked, loopback, client)


def _asked(loopback: Loopback, client: httpx2.Client, shape: Shape, call: Call) -> Told:
    provider = PROVIDERS[shape]
    request = provider.request(call, Target("loopback", shape, loopback.base_url(shape), "key"))
    chunks: list[bytes] = []
    with (
        client.stream("POST", request.url, headers=dict(request.headers), content=request.body) as response,
    ):
        headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status_code != 200:
            failed = provider.failed(response.status_code, headers, response.read())
            return Told(end=failed.error_class, error_raw=failed.raw, retry_after_ms=failed.retry_after_ms)
        with suppress(httpx2.TransportError):  # an attempt makes its own of it; here it is what came before
            chunks.extend(response.iter_raw(65_536 if "huge" in call.model else 7))
    answer = told(deltas_of(shape, chunks))
    answer.named = provider.named(headers)
    return answer


def with_model(model: str, **more: object) -> Call:
    return dataclasses.replace(CALL, model=model, **more)


def test_all_shapes_tell_the_same_answer(ask):
    answers = {shape: ask(shape, with_model("echo?reasoning=3")) for shape in SHAPES}
    for shape, answer in answers.items():
        assert (answer.text, answer.finish, answer.end) == (QUESTION, "stop", "over"), shape
        assert len(answer.reasoning.split()) == 3, shape
        assert answer.usage is not None
        words = len(QUESTION.split())
        assert answer.usage.input_tokens == words, shape
        assert answer.usage.output_tokens == words + 3, shape


def test_all_shapes_tell_the_same_call_of_a_tool(ask):
    for shape in SHAPES:
        answer = ask(shape, with_model("tool", tools=[LOOK]))
        ((name, arguments),) = answer.tools.values()
        assert (name, answer.finish, answer.end) == ("look", "tool_calls", "over"), shape
        assert set(json.loads(arguments)) <= {"place"}, shape


def test_all_shapes_carry_the_schema_and_give_what_follows_it(ask):
    schema = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    for shape in SHAPES:
        answer = ask(shape, with_model("json", schema=schema))
        assert isinstance(json.loads(answer.text)["place"], str), shape


def test_the_bound_on_the_answer_is_heeded(ask):
    for shape in SHAPES:
        answer = ask(shape, with_model("words?tokens=50", params=Params(max_output_tokens=5)))
        assert (answer.finish, answer.end) == ("length", "over"), shape
        assert len(answer.text.split()) == 5, shape


CLASSES = {"moderated": "content_refused", "bad_gateway": "server"}


@each_shape
@pytest.mark.parametrize("fault", sorted(REFUSALS))
def test_a_refusal_is_of_the_class_that_it_is_named_by(ask, shape, fault):
    answer = ask(shape, with_model(f"echo?fault={fault}&retry_after=2"))
    assert answer.end == CLASSES.get(fault, fault)
    assert answer.error_raw
    assert answer.retry_after_ms in (0, 2_000)


GIVEN_UP = {"gemini": "server"}  # its own word for it is one of an error


@each_shape
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("fault", sorted(BREAKS.keys() - {"stall", "pings"}))
def test_an_answer_that_breaks_is_not_whole(ask, shape, fault, after):
    if shape in NOT_IN.get(fault, ()):
        return  # it has no words for it
    answer = ask(shape, with_model(f"echo?fault={fault}&after={after}"))
    assert answer.end not in ("", "over")
    assert QUESTION.startswith(answer.text)
    assert answer.text != QUESTION
    expected = {
        "cut_utf8": {"malformed"},
        "error_frame": {"server", "overloaded"},
        "abort": {GIVEN_UP.get(shape, "truncated")},
    }
    assert answer.end in expected.get(fault, {"truncated"})


# What an answer with a blemish comes to: its end, and whether its text is whole.
BLEMISHED = {
    "malformed": ("malformed", False),
    "bad_utf8": ("malformed", False),
    "huge": ("oversized", False),
    "html": ("malformed", False),
    "unknown": ("over", True),
    "comments": ("over", True),
    "split": ("over", True),
    "duplicate_start": ("over", True),
    "missing_usage": ("over", True),
    "missing_finish": ("truncated", True),
    "refusal": ("over", False),
}


def test_each_blemish_has_its_outcome():
    assert set(BLEMISHED) | {"missing_done", "no_answer", "drop"} == set(BLEMISHES)


@each_shape
@pytest.mark.parametrize("fault", sorted(BLEMISHED))
def test_an_answer_with_a_blemish_comes_to(ask, shape, fault):
    if shape in NOT_IN.get(fault, ()):
        return  # it has no words for it
    more = f"&huge_bytes={EVENT_BYTES_MAX + 1}" if fault == "huge" else ""
    answer = ask(shape, with_model(f"echo?fault={fault}{more}"))
    end, whole = BLEMISHED[fault]
    assert answer.end == end
    assert (answer.text == QUESTION) is whole
    if fault == "missing_usage":
        assert answer.usage is None or answer.usage.output_tokens is None
    if fault == "refusal":
        # Gemini's refusals are its filter's; Ollama has no word for one
        assert answer.finish == {"ollama": "stop", "gemini": "content_filter"}.get(shape, "refusal")


@each_shape
def test_an_end_mark_that_is_missing(ask, shape):
    if shape in NOT_IN["missing_done"]:
        return
    answer = ask(shape, with_model("echo?fault=missing_done"))
    assert answer.text == QUESTION
    assert answer.end == ("over" if shape == "openai-chat" else "truncated")


def test_pings_are_no_content():
    for shape in SHAPES:
        lines = {"ollama": b"{}\n", "anthropic": b'event: ping\ndata: {"type":"ping"}\n\n'}
        deltas = deltas_of(shape, [lines.get(shape, b": ping\n\n")] * 50)
        assert told(deltas).end == "truncated"
        assert not any(isinstance(each, Over) for each in deltas)
