"""Anthropic's own client, pointed at an edge: what it asks, and what it makes of our streams."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.support.edge_llm_world import world
from tests.support.llm_twin import end, failed, finish, piece, reset, text, usage
from tests.support.sse_client import read_stream
from tests.support.tokens import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.edge_llm_world import LlmWorld

__all__ = ["world"]
pytestmark = pytest.mark.timeout(120)
ASKED: list[Any] = [{"role": "user", "content": "hi"}]
WEATHER: list[Any] = [{"name": "weather", "description": "Of a place.", "input_schema": {"type": "object"}}]


@pytest.fixture
def client(world: LlmWorld) -> Iterator[Anthropic]:
    with Anthropic(base_url=world.edge.url, api_key="none", http_client=plain()) as client:
        yield client


def plain() -> httpx2.Client:
    return httpx2.Client(trust_env=False, verify=False, timeout=30)


def test_the_helper_of_the_client_gathers_thinking_text_and_tool_calls(world: LlmWorld, client: Anthropic):
    world.twin.answers["all"] = [
        piece("Let me ", channel="reasoning"), piece("see.", channel="reasoning"), *text("Look", "ing."),
        piece('{"pla', channel="tool", call_id="c-1", tool="weather"),
        piece('ce":"Oslo"}', channel="tool", call_id="c-1", tool="weather"),
        piece("{}", channel="tool", call_id="c-2", tool="weather"),
        usage(cached_input_tokens=4, cache_write_tokens=1), end(),
    ]  # fmt: skip
    with client.messages.stream(model="all", max_tokens=9, messages=ASKED, tools=WEATHER) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4
    assert kinds[-1] == "message_stop"
    thinking, said, first, second = final.content
    assert (thinking.type, thinking.thinking) == ("thinking", "Let me see.")
    assert said.text == "Looking."
    assert (first.id, first.name, first.input) == ("c-1", "weather", {"place": "Oslo"})
    assert (second.id, second.input) == ("c-2", {})
    assert final.stop_reason == "tool_use"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7 - 4 - 1, 5)
    assert (final.usage.cache_read_input_tokens, final.usage.cache_creation_input_tokens) == (4, 1)
    assert (final.model, final.role) == ("all", "assistant")
    seen = read_stream(f"{world.edge.url}/v1/streams/{final.id}/events")
    assert [event["type"] for event in seen.events].count("token") == 7


def test_pieces_come_while_the_model_still_speaks(world: LlmWorld, client: Anthropic):
    go_on = threading.Event()
    world.twin.answers["slow"] = [*text("one"), go_on, *text("two"), end()]
    with client.messages.stream(model="slow", max_tokens=9, messages=ASKED) as stream:
        words = stream.text_stream
        assert next(words) == "one"
        go_on.set()
        assert next(words) == "two"


def test_the_async_client_reads_the_same(world: LlmWorld):
    world.twin.answers["async"] = [*text("a", "b"), end()]

    async def read() -> str:
        http = httpx2.AsyncClient(trust_env=False, verify=False, timeout=30)
        async with (
            AsyncAnthropic(base_url=world.edge.url, api_key="none", http_client=http) as client,
            client.messages.stream(model="async", max_tokens=9, messages=ASKED) as stream,
        ):
            return "".join([word async for word in stream.text_stream])

    assert asyncio.run(read()) == "ab"


def test_a_whole_answer_is_given_to_whoever_does_not_stream(world: LlmWorld, client: Anthropic):
    world.twin.answers["whole"] = [
        piece("Hm.", channel="reasoning"), *text("Hel", "lo"),
        piece('{"a":', channel="tool", call_id="c", tool="t"), piece("1}", channel="tool", call_id="c"),
        finish("length"), usage(), end(),
    ]  # fmt: skip
    whole = client.messages.create(model="whole", max_tokens=9, messages=ASKED)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    assert whole.content[1].text == "Hello"
    assert whole.content[2].input == {"a": 1}
    assert whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == 5
    assert whole._request_id == whole.id


def test_an_answer_that_stopped_at_a_sequence_of_the_question_says_at_which(
    world: LlmWorld, client: Anthropic
):
    note = finish("stop", raw="stop_sequence", stop_sequence="END")
    world.twin.answers["stops"] = [*text("a"), note, usage(), end()]
    asked: Any = {"model": "stops", "max_tokens": 9, "messages": ASKED, "stop_sequences": ["END"]}
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    whole = client.messages.create(**asked)
    for message in (final, whole):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_what_is_asked_reaches_the_worker_in_our_words(world: LlmWorld, client: Anthropic):
    world.twin.answers["asks"] = [*text("{}"), end()]
    messages: list[Any] = [
        {"role": "user", "content": [
            {"type": "text", "text": "What?", "cache_control": {"type": "ephemeral"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
            {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "c-1", "name": "look", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "c-1", "is_error": True,
             "content": [{"type": "text", "text": "a cat"}]},
            {"type": "text", "text": "So?"},
        ]},
    ]  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"type": "number"}}}
    whole = client.messages.create(
        model="asks",
        max_tokens=9,
        system=[{"type": "text", "text": "Be short."}],
        messages=messages,
        stop_sequences=["END"],
        thinking={"type": "enabled", "budget_tokens": 1_024},
        tools=WEATHER,
        tool_choice={"type": "any"},
        output_config={"format": {"type": "json_schema", "schema": schema}},
        extra_body={"temperature": 0.5, "top_p": 0.25, "sluicegate": {"task_id": "t-1"}},
    )
    request = world.twin.wait_for(whole.id)
    assert request["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [
            {"type": "text", "text": "What?"},
            {"type": "media", "mime": "image/png", "data": "AAAA"},
            {"type": "media", "mime": "image/*", "url": "https://x.test/a.png"},
        ]},
        {"role": "assistant", "content": "Looking.", "tool_calls": [
            {"id": "c-1", "name": "look", "arguments": '{"a":1}'}
        ]},
        {"role": "tool", "tool_call_id": "c-1", "content": "a cat", "is_error": True},
        {"role": "user", "content": "So?"},
    ]  # fmt: skip
    assert request["params"] == {
        "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.25, "stop": ["END"], "reasoning": "low",
        "tool_choice": "required",
    }  # fmt: skip
    assert (request["schema"], request["task_id"]) == (schema, "t-1")
    assert request["after_content"] == "surface"
    assert request["tools"][0]["parameters"] == {"type": "object"}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("steps", "error", "kind"),
    [
        (
            [failed("not_found"), end("upstream_error", "no model")],
            anthropic.NotFoundError,
            "not_found_error",
        ),
        ([end("upstream_error", "broke")], anthropic.InternalServerError, "api_error"),
        ([failed("overloaded"), end("upstream_error", "full")], anthropic.APIStatusError, "overloaded_error"),
    ],
    ids=["no-model", "upstream", "overloaded"],
)
def test_a_failure_before_any_content_has_a_status_and_is_not_asked_again(
    world: LlmWorld, client: Anthropic, steps, error, kind, streamed
):
    model = f"fails-{kind}-{streamed}"
    world.twin.answers[model] = steps
    with pytest.raises(error) as raised:
        client.messages.create(model=model, max_tokens=9, messages=ASKED, stream=streamed)
    assert raised.value.body["error"]["type"] == kind
    assert raised.value.body["error"]["message"] == steps[-1][1]["message"]
    assert [request["model"] for request in world.twin.requests].count(model) == 1


@pytest.mark.parametrize(
    "steps",
    [[end("upstream_error", "it broke")], [reset(), *text("other"), end()]],
    ids=["upstream", "reset"],
)
def test_what_breaks_off_is_never_taken_for_a_whole_answer(world: LlmWorld, client: Anthropic, steps):
    model = f"breaks-{steps[0][0]}"
    world.twin.answers[model] = [*text("half"), *steps]
    got: list[str] = []
    with client.messages.stream(model=model, max_tokens=9, messages=ASKED) as stream:
        with pytest.raises(anthropic.APIError):
            got.extend(stream.text_stream)
        assert stream.current_message_snapshot.stop_reason is None
    assert got == ["half"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0"),
        ({"extra_body": {"top_k": 3}}, "top_k"),
        ({"extra_body": {"heat": 3}}, "heat"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0"),
    ],
    ids=["role", "block", "top_k", "unknown", "tool"],
)
def test_what_is_wrong_is_a_bad_request_that_names_the_field(client: Anthropic, wrong, field):
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(**{"model": "m", "max_tokens": 9, "messages": ASKED, **wrong})
    assert field in raised.value.body["error"]["message"]


def test_a_token_comes_as_the_key_or_as_a_bearer(world: LlmWorld):
    world.twin.answers["mine"] = [*text("x"), end()]
    token = world.issuer.token(**{**ALL, "tenants": ["acme"]})
    for told in ({"api_key": token}, {"auth_token": token}):
        with Anthropic(base_url=world.guarded.url, http_client=plain(), **told) as client:
            whole = client.messages.create(model="mine", max_tokens=9, messages=ASKED)
            assert world.twin.wait_for(whole.id)["tenant"] == "acme"
    with (
        Anthropic(base_url=world.guarded.url, api_key="none", http_client=plain()) as client,
        pytest.raises(anthropic.AuthenticationError) as raised,
    ):
        client.messages.create(model="mine", max_tokens=9, messages=ASKED)
    assert raised.value.body["error"]["type"] == "authentication_error"
    answer = httpx2.get(
        f"{world.guarded.url}/v1/streams", headers={"x-api-key": token}, trust_env=False, verify=False
    )
    assert answer.status_code == 401, "the key's header is for others' endpoints alone"


def test_models_are_listed_for_their_client_too(client: Anthropic):
    assert "default" in [model.id for model in client.models.list()]
