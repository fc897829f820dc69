"""Questions in three shapes: whatever a body holds, it is a question or a refusal that shows none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        request_of(record_of(asked, From("default", ANYBODY), "s", 1))


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
    (said,) = request_of(record_of(asked, From("default", ANYBODY), "s", 1)).messages
    assert said.get("content", "") == message["content"]


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
        b"[" * 5_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
    ],
    ids=range(9),
)  # fmt: skip
def test_what_is_no_json_object_or_too_deep_is_a_bad_request(ask, body):
    with pytest.raises(RequestError) as raised:
        ask(body)
    assert raised.value.status == 400


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
