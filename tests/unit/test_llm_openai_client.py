"""The recorded answers in OpenAI's shapes, read by us and by the client of the ``openai`` package."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from connectors.llm.deltas import Usage
from tests.unit.support_llm import STREAMED, Told, body_of, told_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED: list[Any] = [{"role": "user", "content": "Hi"}]


@contextmanager
def client_of(body: bytes) -> Iterator[openai.OpenAI]:
    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as transport,
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1", http_client=transport) as client,
    ):
        yield client


def of_chat(body: bytes) -> Told:
    out, calls = Told(), dict[int, str]()
    with client_of(body) as client:
        for chunk in client.chat.completions.create(model="m", messages=ASKED, stream=True):
            if usage := chunk.usage:
                of_input, of_output = usage.prompt_tokens_details, usage.completion_tokens_details
                out.usage = Usage(
                    usage.prompt_tokens,
                    of_input and of_input.cached_tokens,
                    of_input and of_input.cache_write_tokens,
                    usage.completion_tokens,
                    of_output and of_output.reasoning_tokens,
                )
            for choice in chunk.choices:
                delta = choice.delta
                out.text += (delta.content or "") + ((delta.audio and delta.audio.transcript) or "")
                out.reasoning += getattr(delta, "reasoning_content", None) or ""
                out.refusal += delta.refusal or ""
                out.finish_raw = choice.finish_reason or out.finish_raw
                for call in delta.tool_calls or ():
                    assert call.function is not None
                    if call.id:
                        calls[call.index] = call.id
                        out.tools[call.id] = [call.function.name, ""]
                    out.tools[calls[call.index]][1] += call.function.arguments or ""
    return out


@pytest.mark.parametrize("name", sorted(each for each in STREAMED if each.startswith("openai-chat/")))
def test_the_client_reads_the_same_chat(name):
    ours = told_of(STREAMED[name])
    if ours.end != "over":
        with pytest.raises(openai.APIError):
            of_chat(body_of(STREAMED[name]))
        return
    out = of_chat(body_of(STREAMED[name]))
    for field in ("text", "reasoning", "refusal", "tools", "usage", "finish_raw"):
        assert getattr(ours, field) == getattr(out, field), field


@pytest.mark.parametrize("name", sorted(each for each in STREAMED if each.startswith("openai-responses/")))
def test_the_client_reads_the_same_response(name):
    ours, body = told_of(STREAMED[name]), body_of(STREAMED[name])
    texts, last, kinds = {"text": "", "refusal": "", "reasoning": ""}, None, list[str]()
    with client_of(body) as client:
        for event in client.responses.create(model="m", input="Hi", stream=True):
            kinds.append(event.type)
            match event.type:
                case "response.output_text.delta":
                    texts["text"] += event.delta
                case "response.refusal.delta":
                    texts["refusal"] += event.delta
                case "response.reasoning_summary_text.delta":
                    texts["reasoning"] += event.delta
                case "response.completed" | "response.incomplete" | "response.failed":
                    last = event.response
    assert ("error" in kinds) == (ours.end != "over")
    assert last is not None
    assert {field: getattr(ours, field) for field in texts} == texts
    if ours.finish in ("stop", "tool_calls", "refusal"):
        assert ours.text == last.output_text
    calls = {
        each.call_id: [each.name, each.arguments] for each in last.output if each.type == "function_call"
    }
    assert ours.tools == calls
    usage = last.usage and Usage(
        last.usage.input_tokens,
        last.usage.input_tokens_details.cached_tokens,
        getattr(last.usage.input_tokens_details, "cache_write_tokens", None),  # llama.cpp leaves out some
        last.usage.output_tokens,
        getattr(last.usage.output_tokens_details, "reasoning_tokens", None),
    )
    assert ours.usage == usage
    assert (ours.named.request_id, ours.named.model) == (last.id, last.model)
