"""A call that a shape has no words for, or that is none, is refused before anything is sent."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.calls import Call, Params, Tool
from connectors.llm.errors import CallRefused
from connectors.llm.providers import PROVIDERS
from tests.unit.support_llm_calls import PLAIN, PNG, WEATHER, media, requested


@pytest.mark.parametrize(
    ("shape", "call", "where"),
    [
        ("openai-chat", media("audio/wav", url="https://x/y.wav"), "messages[0].content[0]"),
        ("openai-chat", media("video/mp4", data="AAAA"), "messages[0].content[0]"),
        ("openai-responses", media("audio/wav", data="AAAA"), "messages[0].content[0]"),
        ("openai-responses", dataclasses.replace(PLAIN, params=Params(stop=("a",))), "params.stop"),
        ("openai-responses", dataclasses.replace(PLAIN, params=Params(seed=0)), "params.seed"),
        ("anthropic", dataclasses.replace(PLAIN, params=Params(seed=1)), "params.seed"),
        ("anthropic", media("audio/wav", data="AAAA"), "messages[0].content[0]"),
        ("anthropic", Call("m", [{"role": "user", "content": ""}]), "messages[0]"),
        ("ollama", media("image/png", url="https://x/y.png"), "messages[0].content[0]"),
        ("ollama", media("audio/wav", data="AAAA"), "messages[0].content[0]"),
        (
            "ollama",
            dataclasses.replace(PLAIN, tools=[WEATHER], params=Params(tool_choice="required")),
            "params.tool_choice",
        ),
        (
            "gemini",
            Call("m", [{"role": "tool", "tool_call_id": "c9", "content": "x"}]),
            "messages[0].tool_call_id",
        ),
    ],
    ids=str,
)
def test_what_a_shape_cannot_say_is_refused(shape, call, where):
    with pytest.raises(CallRefused) as refused:
        requested(shape, call)
    assert refused.value.where == where
    assert refused.value.remedy


CALL_ARGUMENTS = "messages[0].tool_calls[0].arguments"


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages"),
        ([{"role": "system", "content": "x"}], "messages"),
        (["hi"], "messages[0]"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        (user(7), "messages[0].content"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "messages[0].tool_calls[0]"),
        ([{"role": "assistant", "tool_calls": "f"}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{"id": "a", "name": "f", "arguments": "{"}]}], CALL_ARGUMENTS),
        (user([7]), "messages[0].content[0]"),
        (user([{"type": "text", "text": None}]), "messages[0].content[0]"),
        (user([{"type": "media", "mime": "png", "data": "AAAA"}]), "messages[0].content[0].mime"),
        (user([{"type": "media", "mime": "image/png"}]), "messages[0].content[0]"),
        (user([{"type": "media", "mime": "image/png", "data": "A"}]), "messages[0].content[0].data"),
        (
            user([{"type": "media", "mime": "image/png", "url": "file:///etc/x"}]),
            "messages[0].content[0].url",
        ),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        (
            [{"role": "user", "content": "x", "tool_calls": [{"id": "a", "name": "f"}]}],
            "messages[0].tool_calls",
        ),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], "messages[0].tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "name": "f", "arguments": "[]"}]}],
            CALL_ARGUMENTS,
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", sorted(PROVIDERS))
def test_what_is_no_message_is_refused_before_it_is_sent(shape, messages, where):
    with pytest.raises(CallRefused) as refused:
        requested(shape, Call("m", messages))
    assert refused.value.where == where


@pytest.mark.parametrize("shape", sorted(PROVIDERS))
def test_media_are_the_user_s_to_send(shape):
    said = [{"type": "media", "mime": "image/png", "data": PNG}]
    with pytest.raises(CallRefused) as refused:
        requested(
            shape, Call("m", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": said}])
        )
    assert refused.value.where in ("messages[1].content[0]", "messages[1]")


@pytest.mark.parametrize("shape", sorted(PROVIDERS))
def test_a_call_without_a_model_is_refused(shape):
    with pytest.raises(CallRefused) as refused:
        requested(shape, dataclasses.replace(PLAIN, model=""))
    assert refused.value.where == "model"


@pytest.mark.parametrize("shape", sorted(PROVIDERS))
@pytest.mark.parametrize("choice", ["another", "required"])
def test_a_choice_of_a_tool_that_is_not_there_is_refused(shape, choice):
    with pytest.raises(CallRefused):
        requested(shape, dataclasses.replace(PLAIN, params=Params(tool_choice=choice)))


@pytest.mark.parametrize("shape", sorted(PROVIDERS))
def test_text_that_is_no_unicode_is_refused(shape):
    with pytest.raises(CallRefused):
        requested(shape, Call("m", [{"role": "user", "content": "\ud83e"}]))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(max_size=4)
    | st.sampled_from(["text", "media"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "role",
                    "content",
                    "type",
                    "text",
                    "mime",
                    "data",
                    "url",
                    "tool_calls",
                    "tool_call_id",
                    "id",
                    "name",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    shape=st.sampled_from(sorted(PROVIDERS)),
    role=st.sampled_from(["user", "assistant", "tool", "system"]),
    fields=st.dictionaries(st.sampled_from(["content", "tool_calls", "tool_call_id"]), VALUES, max_size=3),
    tool=VALUES,
)
def test_any_message_is_sent_or_refused(shape, role, fields, tool):
    call = Call(
        "m", [{"role": "user", "content": "Hi"}, {"role": role, **fields}], tools=[Tool("f", "", {"x": tool})]
    )
    with suppress(CallRefused):
        requested(shape, call)
