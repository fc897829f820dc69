"""A call is written in each shape's way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from connectors.llm.calls import Call, Params, Tool
from connectors.llm.providers import PROVIDERS
from tests.unit.support_llm_calls import BASES, PLAIN, PNG, SECRET, WEATHER, requested, target

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TALK = Call(
    "m",
    [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "media", "mime": "image/png", "data": PNG},
            ],
        },
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "c1", "name": "get_weather", "arguments": '{"city": "Paris"}'},
                {"id": "c2", "name": "get_weather", "arguments": {"city": "Lyon"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
        {"role": "user", "content": "So?"},
    ],
    Params(max_output_tokens=300, temperature=0.5, top_p=0.9, tool_choice="get_weather"),
    [WEATHER],
)


def test_openai_chat():
    made, body = requested("openai-chat", TALK)
    assert made.url == "https://api.openai.com/v1/chat/completions"
    assert made.headers["authorization"] == f"Bearer {SECRET}"
    call = {"type": "function", "function": {"name": "get_weather"}}
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                ],
            },
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {
                        "id": "c1",
                        **call,
                        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                    },
                    {"id": "c2", **call, "function": {"name": "get_weather", "arguments": '{"city":"Lyon"}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "tool", "tool_call_id": "c2", "content": "sun"},
            {"role": "user", "content": "So?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_completion_tokens": 300,
        "tool_choice": call,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "Tells the weather.",
                    "parameters": WEATHER.parameters,
                },
            }
        ],
    }


def test_openai_responses():
    made, body = requested("openai-responses", TALK)
    assert made.url == "https://api.openai.com/v1/responses"
    assert body == {
        "model": "m",
        "input": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
                ],
            },
            {"role": "assistant", "content": "I look."},
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "get_weather",
                "arguments": '{"city": "Paris"}',
            },
            {"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": '{"city":"Lyon"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2", "output": "sun"},
            {"role": "user", "content": [{"type": "input_text", "text": "So?"}]},
        ],
        "stream": True,
        "store": False,
        "max_output_tokens": 300,
        "temperature": 0.5,
        "top_p": 0.9,
        "tool_choice": {"type": "function", "name": "get_weather"},
        "tools": [
            {
                "type": "function",
                "name": "get_weather",
                "description": "Tells the weather.",
                "parameters": WEATHER.parameters,
                "strict": True,
            }
        ],
    }


def test_anthropic():
    made, body = requested("anthropic", TALK)
    assert made.url == "https://api.anthropic.com/v1/messages"
    assert (made.headers["x-api-key"], made.headers["anthropic-version"]) == (SECRET, "2023-06-01")
    source = {"type": "base64", "media_type": "image/png", "data": PNG}

    def use(call_id: str, city: str) -> dict[str, Any]:
        return {"type": "tool_use", "id": call_id, "name": "get_weather", "input": {"city": city}}

    def result(call_id: str, said: str) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": call_id, "content": [{"type": "text", "text": said}]}

    assert body == {
        "model": "m",
        "max_tokens": 300,
        "system": "Be brief.",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}],
            },
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "I look."}, use("c1", "Paris"), use("c2", "Lyon")],
            },
            {"role": "user", "content": [result("c1", "rain"), result("c2", "sun")]},
            {"role": "user", "content": [{"type": "text", "text": "So?"}]},
        ],
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "tool_choice": {"type": "tool", "name": "get_weather"},
        "tools": [
            {
                "name": "get_weather",
                "description": "Tells the weather.",
                "input_schema": WEATHER.parameters,
            }
        ],
    }


def test_gemini():
    made, body = requested("gemini", dataclasses.replace(TALK, model="models/gemini-2.5-flash"))
    assert made.url == f"{BASES['gemini']}/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert made.headers["x-goog-api-key"] == SECRET

    def called(call_id: str, city: str) -> dict[str, Any]:
        return {"functionCall": {"id": call_id, "name": "get_weather", "args": {"city": city}}}

    def response(call_id: str, said: str) -> dict[str, Any]:
        return {"functionResponse": {"id": call_id, "name": "get_weather", "response": {"result": said}}}

    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "What is it?"},
                    {"inlineData": {"mimeType": "image/png", "data": PNG}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "I look."},
                    {**called("c1", "Paris"), "thoughtSignature": "skip_thought_signature_validator"},
                    called("c2", "Lyon"),
                ],
            },
            {"role": "user", "parts": [response("c1", "rain"), response("c2", "sun")]},
            {"role": "user", "parts": [{"text": "So?"}]},
        ],
        "generationConfig": {"maxOutputTokens": 300, "temperature": 0.5, "topP": 0.9},
        "tools": [
            {
                "functionDeclarations": [
                    {
                        "name": "get_weather",
                        "description": "Tells the weather.",
                        "parametersJsonSchema": WEATHER.parameters,
                    }
                ]
            }
        ],
        "toolConfig": {
            "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get_weather"]},
        },
    }


def test_ollama():
    params = dataclasses.replace(TALK.params, tool_choice="auto", stop=("END",), seed=7, reasoning="low")
    made, body = requested("ollama", dataclasses.replace(TALK, params=params, schema=CITY))
    assert made.url == "http://127.0.0.1:11434/api/chat"
    assert made.headers["accept"] == "application/x-ndjson"
    call = {"name": "get_weather"}
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is it?", "images": [PNG]},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {"function": {**call, "arguments": {"city": "Paris"}}},
                    {"function": {**call, "arguments": {"city": "Lyon"}}},
                ],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "c1", "tool_name": "get_weather"},
            {"role": "tool", "content": "sun", "tool_call_id": "c2", "tool_name": "get_weather"},
            {"role": "user", "content": "So?"},
        ],
        "stream": True,
        "think": "low",
        "format": CITY,
        "tools": [
            {
                "type": "function",
                "function": {
                    **call,
                    "description": "Tells the weather.",
                    "parameters": WEATHER.parameters,
                },
            }
        ],
        "options": {"num_predict": 300, "temperature": 0.5, "top_p": 0.9, "stop": ["END"], "seed": 7},
    }


@pytest.mark.parametrize(
    ("shape", "params_of"),
    [
        ("openai-chat", CompletionCreateParamsStreaming),
        ("openai-responses", ResponseCreateParamsStreaming),
        ("anthropic", MessageCreateParamsStreaming),
    ],
)
def test_the_package_of_the_provider_knows_all_that_is_sent(shape, params_of):
    known = TypeAdapter(params_of)
    for call in (PLAIN, TALK, dataclasses.replace(TALK, schema=CITY, params=Params(reasoning="high"))):
        _, body = requested(shape, call)
        sampling = (
            {"temperature", "top_p"} if shape == "anthropic" else set()
        )  # only its older models take them
        assert set(body) - sampling <= set(params_of.__required_keys__ | params_of.__optional_keys__)
        known.validate_python(body)


@pytest.mark.parametrize("shape", sorted(PROVIDERS))
def test_a_call_is_streamed_and_nothing_is_said_that_was_not_asked(shape):
    made, body = requested(shape, PLAIN)
    assert body.pop("stream", True) is True
    assert made.headers["accept-encoding"] == "identity"
    extra = {
        "openai-chat": {"messages", "stream_options"},
        "openai-responses": {"input", "store"},
        "anthropic": {"messages", "max_tokens"},
        "gemini": {"contents"},
        "ollama": {"messages"},
    }
    assert set(body) - {"model"} == extra[shape]


@pytest.mark.parametrize("shape", sorted(PROVIDERS))
def test_a_key_is_in_no_text_that_may_be_logged(shape):
    made, _ = requested(shape, PLAIN)
    assert SECRET in "".join(made.headers.values())
    assert SECRET not in repr(made) + repr(target(shape)) + made.url
    assert "Hi" not in repr(made)
    keyless, _ = requested(shape, PLAIN, api_key="")
    assert not {"authorization", "x-api-key", "x-goog-api-key"} & set(keyless.headers)


def test_headers_of_the_target_win():
    more = {"Api-Key": "azure", "Authorization": "Bearer other"}
    made, _ = requested("openai-chat", PLAIN, headers=more)
    assert (made.headers["api-key"], made.headers["authorization"]) == ("azure", "Bearer other")


def test_most_servers_know_only_the_old_name_of_the_bound():
    call = dataclasses.replace(PLAIN, params=Params(max_output_tokens=9))
    assert requested("openai-chat", call)[1]["max_completion_tokens"] == 9
    for base in ("http://127.0.0.1:8000/v1", "https://openai.com.example.org/v1"):
        _, body = requested("openai-chat", call, base_url=base)
        assert body["max_tokens"] == 9
        assert "max_completion_tokens" not in body


def test_the_path_of_anthropic_is_found_with_and_without_its_version():
    for base in ("https://x.example/v1", "https://x.example/v1/", "https://x.example"):
        assert requested("anthropic", PLAIN, base_url=base)[0].url == "https://x.example/v1/messages"


def test_a_model_is_no_way_to_another_path():
    call = dataclasses.replace(PLAIN, model="../../x?key=1#")
    assert requested("gemini", call)[0].url == (
        f"{BASES['gemini']}/models/..%2F..%2Fx%3Fkey%3D1%23:streamGenerateContent?alt=sse"
    )


@pytest.mark.parametrize(
    ("shape", "model", "expected"),
    [
        ("openai-chat", "o4-mini", {"reasoning_effort": "low"}),
        ("openai-responses", "o4-mini", {"reasoning": {"effort": "low", "summary": "auto"}}),
        (
            "anthropic",
            "claude-sonnet-4-5-20250929",
            {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 4_096 + 1_024},
        ),
        ("anthropic", "claude-opus-4.5", {"thinking": {"type": "enabled", "budget_tokens": 1_024}}),
        (
            "anthropic",
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
            {"thinking": {"type": "enabled", "budget_tokens": 1_024}},
        ),
        ("anthropic", "claude-3-7-sonnet-latest", {"thinking": {"type": "enabled", "budget_tokens": 1_024}}),
        ("anthropic", "claude-opus-4-20250514", {"thinking": {"type": "enabled", "budget_tokens": 1_024}}),
        (
            "anthropic",
            "claude-opus-4-6",
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}},
        ),
        ("anthropic", "claude-opus-5", {"output_config": {"effort": "low"}}),
        (
            "gemini",
            "gemini-2.5-pro",
            {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": 1_024}}},
        ),
        (
            "gemini",
            "gemini-3-pro",
            {"generationConfig": {"thinkingConfig": {"includeThoughts": True, "thinkingLevel": "low"}}},
        ),
        ("ollama", "gpt-oss", {"think": "low"}),
    ],
)
def test_reasoning_is_asked_for_as_the_model_takes_it(shape, model, expected):
    _, body = requested(shape, dataclasses.replace(PLAIN, model=model, params=Params(reasoning="low")))
    assert {name: body[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("shape", "at"),
    [
        ("openai-chat", lambda body: body["response_format"]["json_schema"]["schema"]),
        ("openai-responses", lambda body: body["text"]["format"]["schema"]),
        ("anthropic", lambda body: body["output_config"]["format"]["schema"]),
        ("gemini", lambda body: body["generationConfig"]["responseJsonSchema"]),
        ("ollama", lambda body: body["format"]),
    ],
    ids=sorted(PROVIDERS, key=list(PROVIDERS).index),
)
def test_a_schema_of_the_answer_is_sent(shape, at):
    assert at(requested(shape, dataclasses.replace(PLAIN, schema=CITY))[1]) == CITY


def test_only_a_closed_schema_is_sent_as_strict():
    closed = {**CITY, "required": ["city"], "additionalProperties": False}
    nested = {**closed, "properties": {"city": {"type": "array", "items": CITY}}}
    for schema, strict in ((CITY, False), (closed, True), (nested, False), ({"type": "string"}, True)):
        call = dataclasses.replace(PLAIN, schema=schema, tools=[Tool("f", "", schema)])
        assert requested("openai-chat", call)[1]["response_format"]["json_schema"]["strict"] is strict
        _, body = requested("openai-responses", call)
        assert (body["text"]["format"]["strict"], body["tools"][0]["strict"]) == (strict, strict)


@pytest.mark.parametrize(
    ("shape", "choice", "expected"),
    [
        ("openai-chat", "required", {"tool_choice": "required"}),
        ("openai-responses", "none", {"tool_choice": "none"}),
        ("anthropic", "required", {"tool_choice": {"type": "any"}}),
        ("anthropic", "none", {"tool_choice": {"type": "none"}}),
        ("gemini", "required", {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}),
        ("gemini", "none", {"toolConfig": {"functionCallingConfig": {"mode": "NONE"}}}),
        ("ollama", "none", {}),
    ],
)
def test_a_choice_of_tools(shape, choice, expected):
    call = dataclasses.replace(PLAIN, tools=[WEATHER], params=Params(tool_choice=choice))
    _, body = requested(shape, call)
    assert {name: body[name] for name in expected} == expected
    if shape == "ollama":
        assert "tools" not in body


def test_anthropic_does_not_think_on_after_a_tool_where_it_would_have_to_repeat_what_it_thought():
    talk = dataclasses.replace(TALK, model="claude-haiku-4-5", params=Params(reasoning="low"))
    assert "thinking" in requested("anthropic", talk)[1]
    after_a_tool = dataclasses.replace(talk, messages=talk.messages[:-1])
    assert "thinking" not in requested("anthropic", after_a_tool)[1]
