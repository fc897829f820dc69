"""OpenAI's own client, pointed at an edge: what it asks, and what it makes of our streams."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.access_world import until
from tests.support.edge_llm_world import world
from tests.support.llm_twin import end, failed, finish, piece, reset, text, usage
from tests.support.sse_client import read_stream
from tests.support.tokens import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai import Stream
    from openai.types.chat import ChatCompletionChunk

    from tests.support.edge_llm_world import LlmWorld

__all__ = ["world"]
pytestmark = pytest.mark.timeout(120)
ASKED: list[Any] = [{"role": "user", "content": "hi"}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Of a place.", "parameters": {"type": "object"}},
    }
]


@pytest.fixture
def client(world: LlmWorld) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{world.edge.url}/v1", api_key="none", http_client=plain()) as client:
        yield client


def plain() -> httpx2.Client:
    return httpx2.Client(trust_env=False, verify=False, timeout=30)


def joined(chunks: Stream[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_text_comes_chunk_by_chunk_with_usage_and_the_name_of_its_stream(world: LlmWorld, client: OpenAI):
    world.twin.answers["words"] = [
        *text("Hel", "lo"), finish("length"), usage(cached_input_tokens=4),
        usage(input_tokens=1, output_tokens=2, reasoning_tokens=1), end(),
    ]  # fmt: skip
    raw = client.chat.completions.with_raw_response.create(
        model="words", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    stream_id = raw.headers["x-sluicegate-stream"]
    chunks = list(raw.parse())
    assert {chunk.id for chunk in chunks} == {stream_id} == {raw.headers["x-request-id"]}
    assert {chunk.model for chunk in chunks} == {"words"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices] == ["", "Hel", "lo", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices] == [None] * 3 + ["length"]
    total = chunks[-1].usage
    assert (total.prompt_tokens, total.completion_tokens, total.total_tokens) == (8, 7, 15)
    details = total.prompt_tokens_details, total.completion_tokens_details
    assert (details[0].cached_tokens, details[1].reasoning_tokens) == (4, 1)
    seen = read_stream(f"{world.edge.url}/v1/streams/{stream_id}/events")
    assert "".join(event["text"] for event in seen.events if event["type"] == "token") == "Hello"


def test_of_two_who_name_one_stream_at_one_moment_one_is_answered_and_the_other_is_refused(world: LlmWorld):
    world.twin.answers["race"] = lambda request: [*text(f"to {request['messages'][0]['content']}"), end()]
    stream_id = f"race-{uuid4()}"

    def ask(who: str) -> tuple[str, httpx2.Response]:
        asking = {
            "model": "race",
            "messages": [{"role": "user", "content": who}],
            "sluicegate": {"stream_id": stream_id},
        }
        with plain() as http:
            return who, http.post(f"{world.edge.url}/v1/chat/completions", json=asking)

    with ThreadPoolExecutor(2) as pool:
        (winner, won), (_, lost) = sorted(pool.map(ask, ("ann", "bob")), key=lambda each: each[1].status_code)
    assert (won.status_code, lost.status_code) == (200, 409)
    assert won.json()["choices"][0]["message"]["content"] == f"to {winner}"
    assert lost.json()["error"]["code"] == "stream_exists"


def test_pieces_come_while_the_model_still_speaks(world: LlmWorld, client: OpenAI):
    first, second = threading.Event(), threading.Event()
    world.twin.answers["slow"] = [*text("one"), first, *text("two"), second, end()]
    chunks = iter(client.chat.completions.create(model="slow", messages=ASKED, stream=True))
    assert next(chunks).choices[0].delta.content == ""
    assert next(chunks).choices[0].delta.content == "one"
    first.set()
    assert next(chunks).choices[0].delta.content == "two"
    second.set()
    assert next(chunks).choices[0].finish_reason == "stop"


def test_the_async_client_reads_the_same(world: LlmWorld):
    world.twin.answers["async"] = [*text("a", "b"), end()]

    async def read() -> str:
        http = httpx2.AsyncClient(trust_env=False, verify=False, timeout=30)
        async with AsyncOpenAI(base_url=f"{world.edge.url}/v1", api_key="none", http_client=http) as client:
            chunks = await client.chat.completions.create(model="async", messages=ASKED, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    assert asyncio.run(read()) == "ab"


def test_the_helper_of_the_client_gathers_text_and_tool_calls(world: LlmWorld, client: OpenAI):
    world.twin.answers["tools"] = [
        piece("Let me ", channel="reasoning"), piece("see.", channel="reasoning"), *text("Looking."),
        piece('{"pla', channel="tool", call_id="c-1", tool="weather"),
        piece('ce":"Oslo"}', channel="tool", call_id="c-1", tool="weather"),
        piece("{}", channel="tool", call_id="c-2", tool="weather"),
        usage(), end(),
    ]  # fmt: skip
    with client.chat.completions.stream(
        model="tools", messages=ASKED, tools=WEATHER, tool_choice="auto"
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    message = final.choices[0].message
    assert message.content == "Looking."
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("c-1", "weather", '{"place":"Oslo"}'),
        ("c-2", "weather", "{}"),
    ]
    assert final.choices[0].finish_reason == "tool_calls"
    request = world.twin.wait_for(final.id)
    assert request["tools"] == [
        {"name": "weather", "description": "Of a place.", "parameters": {"type": "object"}}
    ]
    assert request["params"]["tool_choice"] == "auto"


def test_reasoning_and_refusal_have_fields_of_their_own(world: LlmWorld, client: OpenAI):
    world.twin.answers["thinks"] = [piece("Hm.", channel="reasoning"), piece("No.", channel="refusal"), end()]
    chunks = list(client.chat.completions.create(model="thinks", messages=ASKED, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning", "") for delta in deltas) == "Hm."
    assert "".join(delta.refusal or "" for delta in deltas) == "No."


def test_a_whole_answer_is_given_to_whoever_does_not_stream(world: LlmWorld, client: OpenAI):
    world.twin.answers["whole"] = [
        piece("Hm.", channel="reasoning"), *text("Hel", "lo"),
        piece('{"a":', channel="tool", call_id="c", tool="t"),
        piece("1}", channel="tool", call_id="c", tool="t"),
        usage(), end(),
    ]  # fmt: skip
    whole = client.chat.completions.create(model="whole", messages=ASKED)
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.content == "Hello"
    assert whole.choices[0].message.reasoning == "Hm."
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"a":1}'
    assert whole.usage.total_tokens == 12
    assert whole._request_id == whole.id


def test_what_is_asked_reaches_the_worker_in_our_words(world: LlmWorld, client: OpenAI):
    world.twin.answers["all"] = [*text("{}"), end()]
    messages: list[Any] = [
        {"role": "developer", "content": "Be short.", "name": "house"},
        {"role": "user", "content": [
            {"type": "text", "text": "What?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "mp3"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c-1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        ]},
        {"role": "tool", "tool_call_id": "c-1", "content": "a cat"},
    ]  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"type": "number"}}}
    whole = client.chat.completions.create(
        model="all",
        messages=messages,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.25,
        stop="END",
        seed=3,
        reasoning_effort="minimal",
        tools=WEATHER,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}},
        user="ann",
        n=1,
        extra_body={"sluicegate": {"task_id": "t-1", "deadline_ms": 5_000, "after_content": "continue"}},
    )
    request = world.twin.wait_for(whole.id)
    assert request["messages"] == [
        {"role": "system", "content": "Be short.", "name": "house"},
        {"role": "user", "content": [
            {"type": "text", "text": "What?"},
            {"type": "media", "mime": "image/png", "data": "AAAA"},
            {"type": "media", "mime": "image/*", "url": "https://x.test/a.png", "detail": "low"},
            {"type": "media", "mime": "audio/mpeg", "data": "BBBB"},
        ]},
        {"role": "assistant", "tool_calls": [{"id": "c-1", "name": "look", "arguments": "{}"}]},
        {"role": "tool", "tool_call_id": "c-1", "content": "a cat"},
    ]  # fmt: skip
    assert request["params"] == {
        "max_output_tokens": 9, "temperature": 0.5, "top_p": 0.25, "stop": ["END"], "seed": 3,
        "reasoning": "low", "tool_choice": "weather",
    }  # fmt: skip
    assert (request["schema"], request["schema_name"]) == (schema, "thing")
    assert (request["task_id"], request["deadline_ms"], request["after_content"]) == (
        "t-1",
        5_000,
        "continue",
    )


def test_what_is_shown_is_never_begun_anew_unless_the_client_says_how(world: LlmWorld, client: OpenAI):
    whole = client.chat.completions.with_raw_response
    world.twin.answers["surface"] = [*text("x"), end()]
    answer = whole.create(model="surface", messages=ASKED).parse()
    request = world.twin.wait_for(answer.id)
    assert (request["after_content"], request["no_reset"]) == ("surface", True)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([failed("not_found"), end("upstream_error", "no such model")], 404),
        ([failed("rate_limited"), end("upstream_error", "slow down")], 429),
        ([end("upstream_error", "it broke")], 502),
        ([end("timed_out", "it took too long")], 504),
        ([end("cancelled", "it was cancelled")], 499),
    ],
    ids=["no-model", "rate", "upstream", "timeout", "cancelled"],
)  # fmt: skip
def test_a_failure_before_any_content_has_a_status_and_is_not_asked_again(
    world: LlmWorld, client: OpenAI, steps, status, streamed
):
    model = f"fails-{status}-{streamed}"
    world.twin.answers[model] = steps
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=model, messages=ASKED, stream=streamed)
    assert raised.value.status_code == status
    assert raised.value.body["message"] == steps[-1][1]["message"]
    assert [request["model"] for request in world.twin.requests].count(model) == 1


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([end("upstream_error", "it broke")], "upstream_error"),
        ([end("timed_out", "too long")], "timed_out"),
        ([reset(), *text("other"), end()], "superseded"),
    ],
    ids=["upstream", "timeout", "reset"],
)
def test_what_breaks_off_is_never_taken_for_a_whole_answer(world: LlmWorld, client: OpenAI, steps, code):
    world.twin.answers[f"breaks-{code}"] = [*text("half"), *steps]
    got: list[str] = []
    chunks = client.chat.completions.create(model=f"breaks-{code}", messages=ASKED, stream=True)
    with pytest.raises(openai.APIError) as raised:
        got.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(got) == "half"
    assert raised.value.code == code


def test_a_reset_before_any_content_is_not_seen(world: LlmWorld, client: OpenAI):
    world.twin.answers["again"] = [reset(), *text("good"), end()]
    assert joined(client.chat.completions.create(model="again", messages=ASKED, stream=True)) == "good"


def test_a_filtered_answer_has_the_finish_that_says_so(world: LlmWorld, client: OpenAI):
    world.twin.answers["filter"] = [*text("He"), finish("content_filter"), end("upstream_error", "filtered")]
    chunks = list(client.chat.completions.create(model="filter", messages=ASKED, stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages.0.content.0"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_body": {"heat": 1}}, "heat"),
        ({"extra_body": {"sluicegate": {"after_content": "restart"}}}, "sluicegate.after_content"),
        ({"temperature": 99}, "params.temperature"),
    ],
    ids=["role", "part", "n", "logprobs", "unknown", "restart", "range"],
)
def test_what_is_wrong_is_a_bad_request_that_names_the_field(client: OpenAI, wrong, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**{"model": "m", "messages": ASKED, "stream": True, **wrong})
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"


def test_who_brings_no_token_or_one_of_another_tenant_is_told_so_in_their_shape(world: LlmWorld):
    world.twin.answers["mine"] = [*text("x"), end()]
    base = f"{world.guarded.url}/v1"
    with OpenAI(base_url=base, api_key="none", http_client=plain()) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(model="mine", messages=ASKED)
        assert refused.value.code == "token_refused"
    only = {**ALL, "tenants": ["acme"]}
    with OpenAI(base_url=base, api_key=world.issuer.token(**only), http_client=plain()) as client:
        whole = client.chat.completions.create(model="mine", messages=ASKED)
        assert world.twin.wait_for(whole.id)["tenant"] == "acme"
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="mine", messages=ASKED, extra_query={"tenant": "other"})
    for missing in ("subscribe", "publish"):
        scope = "publish subscribe".replace(missing, "").strip()
        token = world.issuer.token(**{**only, "scope": scope})
        before = len(world.twin.requests)
        with (
            OpenAI(base_url=base, api_key=token, http_client=plain()) as client,
            pytest.raises(openai.PermissionDeniedError),
        ):
            client.chat.completions.create(model="mine", messages=ASKED)
        assert len(world.twin.requests) == before


def test_a_client_that_leaves_cancels_nothing_unless_it_said_so(world: LlmWorld, client: OpenAI):
    go_on = threading.Event()
    world.twin.answers["left"] = [*text("one"), go_on, *text("two"), end()]
    left = {}
    for cancels in (False, True):
        chunks = client.chat.completions.create(
            model="left",
            messages=ASKED,
            stream=True,
            extra_body={"sluicegate": {"cancel_on_disconnect": cancels}},
        )
        left[cancels] = next(iter(chunks)).id
        chunks.close()
    until(lambda: [cancel.stream_id for cancel in world.twin.cancels] == [left[True]])
    go_on.set()
    seen = read_stream(f"{world.edge.url}/v1/streams/{left[False]}/events")
    assert "".join(event["text"] for event in seen.events if event["type"] == "token") == "onetwo"


def test_the_same_key_gives_the_same_answer_and_is_paid_for_once(world: LlmWorld, client: OpenAI):
    world.twin.answers["keyed"] = [*text("once"), end()]
    headers = {"Idempotency-Key": "k-1"}
    answers = [
        client.chat.completions.create(model="keyed", messages=ASKED, extra_headers=headers) for _ in range(2)
    ]
    assert answers[0].id == answers[1].id
    assert [answer.choices[0].message.content for answer in answers] == ["once", "once"]
    assert [request["model"] for request in world.twin.requests].count("keyed") == 1


def test_a_stream_that_is_there_is_a_conflict_that_nobody_repeats(world: LlmWorld, client: OpenAI):
    world.twin.answers["there"] = [*text("x"), end()]
    named = {"sluicegate": {"stream_id": "there-1"}}
    client.chat.completions.create(model="there", messages=ASKED, extra_body=named)
    with pytest.raises(openai.ConflictError) as raised:
        client.chat.completions.create(model="there", messages=ASKED, extra_body=named)
    assert raised.value.code == "stream_exists"


def test_a_route_is_a_model_and_all_that_may_be_named_are_listed(world: LlmWorld, client: OpenAI):
    world.twin.answers["cheap"] = [*text("x"), end()]
    candidates = [{"target": "a", "model": "small"}, {"target": "b", "when": {"models": ["large", "x-*"]}}]
    world.twin.route("cheap", {"candidates": candidates})
    world.twin.route("budgets", {"tenants": {}})
    until(lambda: "cheap" in [model.id for model in client.models.list()])
    assert [model.id for model in client.models.list()][:4] == ["default", "cheap", "small", "large"]
    whole = client.chat.completions.create(model="cheap", messages=ASKED)
    assert whole.model == "cheap"
    request = world.twin.wait_for(whole.id)
    assert (request["route"], request["model"]) == ("cheap", "")


def test_who_may_not_ask_is_not_told_of_models(world: LlmWorld):
    token = world.issuer.token(**{**ALL, "scope": "subscribe"})
    with (
        OpenAI(base_url=f"{world.guarded.url}/v1", api_key=token, http_client=plain()) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        client.models.list()
