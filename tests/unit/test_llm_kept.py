"""What is kept of questions and answers under each policy."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.calls import Call, Tool
from connectors.llm.kept import BYTES_MAX, kept_input, kept_output, kept_raw, redacted

CALL = Call(
    model="m",
    messages=[
        {"role": "system", "content": "You keep secrets."},
        {"role": "user", "content": [{"type": "text", "text": "My PIN is 1234"}]},
    ],
    tools=[Tool("find", "finds things", {"type": "object"})],
)


def test_nothing_is_kept_unless_the_policy_says_so():
    assert kept_input(CALL, "off") is None
    assert kept_output("an answer", "off") is None


def test_all_is_kept_as_it_was():
    sent = orjson.loads(kept_input(CALL, "full"))
    assert sent["messages"] == CALL.messages
    assert sent["tools"][0]["name"] == "find"
    assert orjson.loads(kept_output("an answer", "full")) == {"text": "an answer"}
    raw = '{"choices": [{"delta": {"content": "hi"}}]}'
    assert kept_raw(raw, "full") == raw


def test_the_shape_is_kept_and_no_word_of_it():
    text = kept_input(CALL, "redacted")
    assert orjson.loads(text)["messages"][1] == {
        "role": "user",
        "content": [{"type": "text", "text": "·" * len("My PIN is 1234")}],
    }
    assert "1234" not in text
    raw = kept_raw('{"type":"content_block_delta","index":0,"delta":{"text":"hush"}}', "redacted")
    assert orjson.loads(raw) == {"type": "content_block_delta", "index": 0, "delta": {"text": "····"}}
    assert kept_raw("[DONE]", "redacted") == "[DONE]"
    assert "word" not in kept_raw("a word that is no JSON", "redacted")


WORDS = st.text("abcdefgh", min_size=9, max_size=12)
VALUES = st.recursive(
    st.one_of(WORDS, st.integers(-9, 9), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(("text", "content", "x")), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_no_text_of_whatever_nesting_comes_through(value):
    shown = orjson.dumps(redacted(value)).decode()
    for word in _words(value):
        assert word not in shown


def _words(value):
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [word for part in value for word in _words(part)] if isinstance(value, list) else []


PLAIN = (
    "index",
    "name",
    "code",
    "status",
    "id",
    "type",
    "role",
    "model",
    "event",
    "mime",
    "stop_reason",
    "object",
)
SECRETS = st.recursive(
    st.one_of(WORDS, st.integers(10**9, 10**12), WORDS.map(lambda word: {word: 1})),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from((*PLAIN, "content", "tool_calls", "index", "text")), inner, max_size=4
        ),
    ),
    max_leaves=8,
)
PLACES = {
    "gemini": lambda said: {"candidates": [{"content": {"parts": [{"functionCall": {"args": said}}]}}]},
    "ollama": lambda said: {"message": {"tool_calls": [{"function": {"arguments": said}}]}},
    "anthropic": lambda said: {"content_block": {"type": "tool_use", "id": "a", "input": said}},
    "responses": lambda said: {"item": {"type": "function_call", "arguments": said}},
    "tool": lambda said: {"tools": [{"name": "f", "parameters": said}], "schema": said},
}


@given(SECRETS, st.sampled_from(sorted(PLACES)))
def test_nothing_of_arguments_comes_through_whatever_its_keys(said, place):
    raw = kept_raw(orjson.dumps(PLACES[place](said)).decode(), "redacted")
    for word in _all_of(said):
        assert word not in raw


@given(st.dictionaries(st.sampled_from(PLAIN), WORDS | st.integers(10**9, 10**12), min_size=1))
def test_what_is_said_has_no_keys_of_the_providers(said):
    for value in (
        {"messages": [{"role": "user", "content": [said]}]},
        {"messages": [said]},
        {"message": {"role": "tool", "content": said}},
        {"candidates": [{"content": {"parts": [said]}}]},
    ):
        shown = orjson.dumps(redacted(value)).decode()
        for word in _all_of(list(said.values())):
            assert word not in shown


def _all_of(value):
    """Each word, number and made-up key of a value."""
    if isinstance(value, dict):
        keys = [key for key in value if key not in (*PLAIN, "content", "tool_calls", "index", "text")]
        return keys + [word for part in value.values() for word in _all_of(part)]
    if isinstance(value, list):
        return [word for part in value for word in _all_of(part)]
    return [] if value == 1 else [str(value)]


def test_what_an_operator_needs_is_kept():
    call = {"functionCall": {"id": "c", "name": "book", "args": {"name": "Jane Doe", "code": "4111 1111"}}}
    raw = {
        "candidates": [{"content": {"role": "model", "parts": [call]}, "finishReason": "STOP", "index": 0}],
        "modelVersion": "gemini-3-pro",
        "usageMetadata": {"promptTokenCount": 7},
        "error": {"code": "rate_limited", "message": "Jane Doe asks too often", "status": "two words"},
    }
    shown = orjson.loads(kept_raw(orjson.dumps(raw).decode(), "redacted"))
    (candidate,) = shown["candidates"]
    assert (candidate["finishReason"], candidate["content"]["role"]) == ("STOP", "model")
    assert shown["usageMetadata"] == {"promptTokenCount": 7}
    assert shown["modelVersion"] == "gemini-3-pro"
    assert shown["error"] == {"code": "rate_limited", "message": "·" * 23, "status": "·" * 9}
    arguments = candidate["content"]["parts"][0]["functionCall"]["args"]
    assert arguments == "·" * len('{"name":"Jane Doe","code":"4111 1111"}')


def test_what_is_too_long_for_a_row_is_cut_and_says_so():
    long = kept_output("é" * BYTES_MAX, "full")
    assert len(long.encode()) <= BYTES_MAX
    assert orjson.loads(long)["cut"] is True
