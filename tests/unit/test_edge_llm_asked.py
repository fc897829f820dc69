"""Questions in three shapes: whatever a body holds, it is a question or a refusal that shows none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.nesting import NESTING_MAX
from connectors.llm.request import request_of
from edge.access.identity import ANYBODY
from edge.errors import RequestError
from edge.llm import anthropic_asked, openai_asked
from edge.llm.ask import From, record_of, traceparent_of
from edge.llm.asked import Asked, read

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "my-secret-words"  # what people write is theirs
READERS: dict[str, Callable[[bytes], Asked]] = {
    "own": lambda body: read(Asked, body),
    "openai": lambda body: openai_asked.question_of(body).asked,
    "anthropic": lambda body: anthropic_asked.question_of(body).asked,
}
reader = pytest.mark.parametrize("ask", READERS.values(), ids=READERS)
NAMES = st.sampled_from(
    [
        "messages", "role", "content", "type", "text", "tool_calls", "id", "name", "arguments", "function",
        "tools", "parameters", "model", "stop", "stream", "sluicegate", "prompt", "params", "max_tokens",
        "system", "input", "source", "data", "url", "schema", "response_format", "thinking",
    ]
)  # fmt: skip
WORDS = st.sampled_from(
    ["user", "assistant", "tool", "text", "image", "function", "tool_use", "json_schema", "m", SECRET]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=25,
)
BASE = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}


@reader
@given(value=st.dictionaries(NAMES, VALUES, max_size=6))
def test_whatever_comes_is_a_question_that_the_worker_takes_or_a_refusal(ask, value: dict[str, Any]):
    given = value if ask is READERS["own"] else BASE | value
    try:
        body = orjson.dumps(given)
    except TypeError:  # a number that JSON of others may hold, and this one not
        return
    refused, asked = outcome(ask, body)
    if refused is not None:
        assert refused.status in (400, 422)
        assert SECRET not in str(refused)
    else:
        request_of(record_of(asked, From("default", ANYBODY), "s", "open-1", 1))


def outcome(ask: Callable[[bytes], Asked], body: bytes) -> tuple[RequestError | None, Any]:
    try:
        return None, ask(body)
    except RequestError as error:
        return error, None


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": ""},
        {"role": "user", "content": []},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "name": "t", "arguments": ""}]},
        {"role": "tool", "content": "", "tool_call_id": "c"},
    ],
    ids=["empty", "no-parts", "call", "tool"],
)
def test_the_worker_takes_what_is_empty_as_it_was_said(message):
    asked = READERS["own"](orjson.dumps({"messages": [message]}))
    (said,) = request_of(record_of(asked, From("default", ANYBODY), "s", "open-1", 1)).messages
    assert said.get("content", "") == message["content"]


LONG = "é" * 128  # 256 bytes, which our events carry of a call's id
CALLS = {
    "own": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": LONG, "name": LONG, "arguments": "{}"}]},
        {"role": "tool", "tool_call_id": LONG, "content": "y", "is_error": True},
    ],
    "openai": [
        {"role": "user", "content": "x", "name": "Zoë"},
        {"role": "assistant", "tool_calls": [{"id": LONG, "function": {"name": LONG, "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": LONG, "content": "y", "name": LONG[:64]},
    ],
    "anthropic": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": LONG, "name": LONG, "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": LONG, "content": "y", "is_error": True},
        ]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("shape", sorted(CALLS))
def test_names_that_a_model_gave_are_taken_back(shape):
    asked = READERS[shape](
        orjson.dumps(BASE | {"messages": CALLS[shape]} if shape != "own" else {"messages": CALLS[shape]})
    )
    user, called, answered = request_of(record_of(asked, From("default", ANYBODY), "s", "open-1", 1)).messages
    assert (called["tool_calls"][0]["id"], called["tool_calls"][0]["name"]) == (LONG, LONG)
    assert answered["tool_call_id"] == LONG
    assert "name" not in answered
    assert (user.get("name"), answered.get("is_error")) == {
        "own": (None, True), "openai": ("Zoë", None), "anthropic": (None, True),
    }[shape]  # fmt: skip


@reader
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"x"',
        b"\xff",
        b'{"a":"\\ud800"}',
    ],
    ids=range(7),
)  # fmt: skip
def test_what_is_no_json_object_is_a_bad_request(ask, body):
    with pytest.raises(RequestError) as raised:
        ask(body)
    assert raised.value.status == 400


def deep(levels: int) -> str:
    """JSON of so many levels, an object within the other."""
    return '{"a":' * levels + "1" + "}" * levels


@reader
@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 300, 5_000])
def test_what_is_too_deep_is_refused(ask, levels):
    with pytest.raises(RequestError) as raised:
        ask(deep(levels).encode())
    assert (raised.value.status, raised.value.extra["field"]) == (422, "request")
    assert "128 levels" in str(raised.value)


@pytest.mark.parametrize("where", ["tools", "schema"])
def test_the_deepest_that_is_taken_is_taken_by_the_worker_too(where):
    def asking(levels: int) -> bytes:
        inner = orjson.Fragment(deep(levels))
        part = {"schema": inner} if where == "schema" else {"tools": [{"name": "t", "parameters": inner}]}
        return orjson.dumps({"prompt": "p", **part})

    around = 1 if where == "schema" else 3
    asked = READERS["own"](asking(NESTING_MAX - around))
    request_of(record_of(asked, From("default", ANYBODY), "s", "open-1", 1))
    with pytest.raises(RequestError):
        READERS["own"](asking(NESTING_MAX - around + 1))


@pytest.mark.parametrize("arguments", ["x", "[]", '"{}"', deep(NESTING_MAX + 1)], ids=range(4))
def test_arguments_of_a_call_are_an_object_of_json(arguments):
    call = {"id": "c", "name": "t", "arguments": arguments}
    with pytest.raises(RequestError) as raised:
        READERS["own"](orjson.dumps({"messages": [{"role": "assistant", "tool_calls": [call]}]}))
    assert raised.value.extra["field"] == "messages.0.tool_calls.0.arguments"


@reader
def test_a_value_that_is_refused_is_never_shown(ask):
    for wrong in (
        {"messages": SECRET},
        {"messages": [{"role": SECRET, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": SECRET}]}]},
        {"model": [SECRET]},
        {"tools": [{"type": SECRET}]},
    ):
        with pytest.raises(RequestError) as raised:
            ask(orjson.dumps(BASE | {"prompt": "p"} | wrong))
        assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("", False),
        ("00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("nonsense\r\nx: y", False),
    ],
    ids=["good", "none", "capitals", "nonsense"],
)
def test_a_trace_context_that_is_malformed_is_none(header, taken):
    assert bool(traceparent_of(header)) == taken
