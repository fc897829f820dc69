"""What is kept of questions and answers under each policy."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm import contents as module
from connectors.llm.calls import Call, Params, Tool
from connectors.llm.contents import Contents
from connectors.llm.deltas import Media, Piece
from connectors.llm.kept import BYTES_MAX, kept_input, kept_output, kept_raw, redacted

CALL = Call(
    model="m",
    messages=[
        {"role": "system", "content": "You keep secrets."},
        {"role": "user", "content": [{"type": "text", "text": "My PIN is 1234"}]},
    ],
    tools=[Tool("find", "finds things", {"type": "object"})],
    params=Params(max_output_tokens=9, stop=("PIN",), reasoning="low", tool_choice="find"),
)
ANSWER = [
    Piece("reasoning", "hm, "), Piece("text", "It "), Piece("tool", "", 0, "c-1", "find"),
    Piece("tool", '{"pin":', 0, "c-1", "find"), Piece("tool", "{}", 0, "c-2", "find"), Piece("text", "is."),
    Piece("tool", "1234}", 0, "c-1", "find"), Piece("reasoning", "a PIN"), Piece("refusal", "No."),
    Media("image/png", 0, b"12"), Media("image/png", 0, b"345"), Media("image/*", 1, reference="https://x/1234"),
]  # fmt: skip


def came(*deltas, text_alone=False):
    contents = Contents(text_alone=text_alone)
    for delta in deltas:
        contents.take(delta)
    return contents


def test_nothing_is_kept_unless_the_policy_says_so():
    assert kept_input(CALL, "off") is None
    assert kept_output(came(*ANSWER), "off") is None
    assert came(*ANSWER, text_alone=True).value() == {"text": "It is."}


def test_all_is_kept_as_it_was():
    sent = orjson.loads(kept_input(CALL, "full"))
    assert sent["messages"] == CALL.messages
    assert sent["tools"][0]["name"] == "find"
    assert sent["params"] == {
        "max_output_tokens": 9, "stop": ["PIN"], "reasoning": "low", "tool_choice": "find",
    }  # fmt: skip
    assert orjson.loads(kept_output(came(), "full")) == {"text": ""}
    assert orjson.loads(kept_output(came(*ANSWER), "full")) == {
        "text": "It is.", "reasoning": "hm, a PIN", "refusal": "No.",
        "tool_calls": [
            {"id": "c-1", "name": "find", "arguments": '{"pin":1234}'},
            {"id": "c-2", "name": "find", "arguments": "{}"},
        ],
        "media": [
            {"mime": "image/png", "index": 0, "bytes": 5},
            {"mime": "image/*", "index": 1, "bytes": 0, "reference": "https://x/1234"},
        ],
    }  # fmt: skip
    raw = '{"choices": [{"delta": {"content": "hi"}}]}'
    assert kept_raw(raw, "full") == raw


def test_the_shape_is_kept_and_no_word_of_it():
    text = kept_input(CALL, "redacted")
    assert orjson.loads(text)["messages"][1] == {
        "role": "user",
        "content": [{"type": "text", "text": "·" * len("My PIN is 1234")}],
    }
    assert "1234" not in text
    assert orjson.loads(text)["params"] == {
        "max_output_tokens": 9, "stop": ["···"], "reasoning": "low", "tool_choice": "find",
    }  # fmt: skip
    text = kept_output(came(*ANSWER), "redacted")
    for word in ("1234", "pin", "PIN", "hm", "No", "is", "https"):
        assert word not in text
    shown = orjson.loads(text)
    assert shown["tool_calls"][1] == {"id": "c-2", "name": "find", "arguments": "··"}
    assert (shown["media"][0]["bytes"], len(shown["reasoning"])) == (5, len("hm, a PIN"))
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
    long = kept_output(came(Piece("text", "é" * BYTES_MAX)), "full")
    assert len(long.encode()) <= BYTES_MAX
    assert orjson.loads(long)["cut"] is True


def test_what_an_answer_has_too_much_of_is_cut_and_says_so(monkeypatch):
    monkeypatch.setattr(module, "KEPT_MAX", 10)
    monkeypatch.setattr(module, "MEDIA_MAX", 1)
    thoughts = [Piece("reasoning", "0123456"), Piece("text", "0123456789")]
    assert came(*thoughts).value() == {"text": "0123456789", "reasoning": "0123456"}
    for more, kept in (
        (Piece("reasoning", "789x"), {"reasoning": "0123456789"}),
        (Piece("text", "x"), {}),
        (Piece("tool", "{}", 0, "call", "t"), {}),
        (Piece("tool", "{}", 0, "c", "t"), {"tool_calls": [{"id": "c", "name": "t", "arguments": "{"}]}),
    ):
        value = {"text": "0123456789", "reasoning": "0123456", **kept, "cut": True}
        assert came(*thoughts, more).value() == value
    pictures = came(Media("image/png", 0, b"1"), Media("image/png", 1, b"1")).value()
    assert ([each["index"] for each in pictures["media"]], pictures["cut"]) == ([0], True)
