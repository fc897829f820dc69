"""Dialects: what servers that are compatible with a shape say in words of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.llm.deltas import Finished, Media, Usage
from connectors.llm.providers import PROVIDERS
from tests.unit.support_llm import RECORDED, STREAMED, Told, body_of, deltas_of, sent, told

SHAPES = sorted(PROVIDERS)
DELTA = "response.function_call_arguments.delta"


def chat(*chunks: dict[str, Any]) -> Told:
    return told(deltas_of("openai-chat", [sent("openai-chat", "", json.dumps(chunk)) for chunk in chunks]))


def counted(usage: dict[str, Any], **more: Any) -> Usage | None:
    return chat(
        {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": usage, **more}
    ).usage


@pytest.mark.parametrize("name", sorted(each for each in STREAMED if not each.startswith("ollama/")))
def test_lines_may_end_with_cr_lf(name):
    recording = STREAMED[name]
    body = body_of(recording)
    assert deltas_of(recording.shape, [body.replace(b"\n", b"\r\n")]) == deltas_of(recording.shape, [body])


def test_reasoning_that_is_counted_apart_is_added_where_the_total_shows_it():
    apart = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    details = {"completion_tokens_details": {"reasoning_tokens": 100}}
    assert counted({**apart, **details}) == Usage(10, None, None, 105, 100)
    assert counted({**apart, **details, "completion_tokens": 105}) == Usage(10, None, None, 105, 100)
    assert counted({**details, "completion_tokens": 105}) == Usage(None, None, None, 105, 100)


def test_cached_tokens_are_counted_under_other_names():
    deepseek = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 8}
    assert counted(deepseek) == Usage(10, 8, None, 1)
    openrouter = {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3}}
    assert counted(openrouter) == Usage(10, 2, 3)
    assert counted({}, x_groq={"usage": {"prompt_tokens": 7, "completion_tokens": 2}}) == Usage(
        7, None, None, 2
    )


def gemini(**usage: Any) -> dict[str, Any]:
    return {"candidates": [{"finishReason": "STOP", "index": 0}], "usageMetadata": usage}


def modalities(**counts: int) -> list[dict[str, Any]]:
    return [{"modality": name, "tokenCount": count} for name, count in counts.items()]


@pytest.mark.parametrize(
    ("shape", "event", "expected"),
    [
        (
            "openai-chat",
            {"choices": [], "usage": {
                "prompt_tokens": 100, "completion_tokens": 60,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 30, "image_tokens": 20},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 40},
            }},
            Usage(100, 0, None, 60, 0, {"input_audio": 30, "input_image": 20, "output_audio": 40}),
        ),
        (
            "openai-chat",  # as OpenAI's realtime counts, which some servers take over
            {"choices": [], "usage": {
                "prompt_tokens": 100, "completion_tokens": 60,
                "prompt_tokens_details": {
                    "cached_tokens": 9, "audio_tokens": 30, "cached_tokens_details": {"audio_tokens": 0},
                },
            }},
            Usage(100, 9, None, 60, None, {"input_audio": 30, "cached_audio": 0}),
        ),
        (
            "openai-responses",
            {"type": "response.completed", "response": {"usage": {
                "input_tokens": 50, "output_tokens": 200, "input_tokens_details": {"image_tokens": 10},
                "output_tokens_details": {"image_tokens": 190},
            }}},
            Usage(50, None, None, 200, None, {"input_image": 10, "output_image": 190}),
        ),
        (
            "anthropic",
            {"type": "message_start", "message": {"id": "m", "usage": {
                "input_tokens": 5, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 300,
                "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
            }}},
            Usage(305, 0, 300, None, None, {"cache_write_1h": 200}),
        ),
        (
            "gemini",
            gemini(
                promptTokenCount=700, candidatesTokenCount=1_300, cachedContentTokenCount=400,
                toolUsePromptTokenCount=5,
                promptTokensDetails=modalities(TEXT=100, IMAGE=258, AUDIO=292, VIDEO=50),
                toolUsePromptTokensDetails=modalities(AUDIO=5),
                cacheTokensDetails=modalities(TEXT=100, AUDIO=300),
                candidatesTokensDetails=modalities(TEXT=10, IMAGE=1_290),
            ),
            Usage(705, 400, None, 1_300, None, {
                "input_image": 258, "input_audio": 297, "input_video": 50, "cached_audio": 300,
                "cached_image": 0, "cached_video": 0, "output_image": 1_290,
            }),
        ),
        (
            "gemini",
            gemini(promptTokenCount=9, candidatesTokenCount=1, promptTokensDetails=modalities(TEXT=9)),
            Usage(9, None, None, 1),
        ),
    ],
    ids=["chat", "chat-cached", "responses", "anthropic", "gemini", "gemini-text"],
)  # fmt: skip
def test_sound_pictures_and_long_writes_are_counted_apart(shape, event, expected):
    assert told(deltas_of(shape, [sent(shape, event.get("type", ""), json.dumps(event))])).usage == expected


@pytest.mark.parametrize("count", [-1, 1.5, "7", True, None, 2**60, [], {}], ids=str)
def test_what_is_no_count_is_not_known(count):
    assert counted({"prompt_tokens": count, "completion_tokens": 1}) == Usage(None, None, None, 1)


def test_a_later_count_replaces_what_it_says_and_no_more():
    first = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    last = {"choices": [], "usage": {"completion_tokens": 9}}
    assert chat(first, last).usage == Usage(5, None, None, 9)


def test_a_message_that_is_repeated_beside_its_deltas_is_told_once():
    whole = {"role": "assistant", "content": "Hi there"}
    answer = chat(
        {"choices": [{"delta": {"content": "Hi"}, "message": whole}]},
        {"choices": [{"delta": {"content": " there"}, "message": whole}]},
        {"choices": [{"delta": {}, "message": whole, "finish_reason": "eos_token"}]},
    )
    assert (answer.text, answer.finish, answer.end) == ("Hi there", "stop", "over")


def test_the_older_call_of_a_function_is_a_call_of_a_tool():
    begun = {"choices": [{"delta": {"function_call": {"name": "f", "arguments": '{"x"'}}}]}
    more = {"choices": [{"delta": {"function_call": {"arguments": ":1}"}}, "finish_reason": "function_call"}]}
    answer = chat(begun, more)
    assert (answer.tools, answer.finish, answer.end) == ({"call_0": ["f", '{"x":1}']}, "tool_calls", "over")


def test_arguments_may_come_as_an_object():
    call = {"id": "c", "function": {"name": "f", "arguments": {"x": 1}}}
    assert chat({"choices": [{"delta": {"tool_calls": [call]}}]}).tools == {"c": ["f", '{"x":1}']}


def test_outputs_that_have_no_index_are_told_apart_by_their_items():
    def event(kind: str, **fields: Any) -> bytes:
        return sent("openai-responses", kind, json.dumps({"type": kind, **fields}))

    def called(number: int) -> list[bytes]:
        item = {"id": f"fc_{number}", "type": "function_call", "call_id": f"c{number}", "name": "f"}
        pieces = ('{"x":', f"{number}}}")
        return [
            event("response.output_item.added", item=item),
            *(
                event("response.function_call_arguments.delta", item_id=item["id"], delta=each)
                for each in pieces
            ),
            event("response.output_item.done", item={**item, "arguments": "".join(pieces)}),
        ]

    deltas = deltas_of("openai-responses", [*called(1), *called(2)])
    assert told(deltas).tools == {"c1": ["f", '{"x":1}'], "c2": ["f", '{"x":2}']}


def test_sound_of_a_response_is_media():
    heard = {"type": "response.audio.delta", "delta": "AAEC"}
    said = {"type": "response.audio.transcript.delta", "delta": "Hi"}
    chunks = [sent("openai-responses", each["type"], json.dumps(each)) for each in (heard, said)]
    answer = told(deltas_of("openai-responses", chunks))
    assert (answer.media, answer.text) == ([("audio/pcm;rate=24000", bytes(range(3)))], "Hi")


@pytest.mark.parametrize(
    ("shape", "event", "expected"),
    [
        (
            "anthropic",
            {"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"}},
            Finished("stop", "stop_sequence", "END"),
        ),
        (
            "openai-chat",  # vLLM's
            {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "END"}]},
            Finished("stop", "stop", "END"),
        ),
        (
            "openai-chat",  # a token of the model's own, by its number
            {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": 128_009}]},
            Finished("stop", "stop"),
        ),
    ],
    ids=["anthropic", "vllm", "vllm-token"],
)
def test_the_text_at_which_an_answer_stopped_is_told(shape, event, expected):
    assert expected in deltas_of(shape, [sent(shape, event.get("type", ""), json.dumps(event))])


def test_a_fallback_of_the_provider_names_the_model_that_goes_on():
    events = [sent("anthropic", each.event, each.data) for each in RECORDED["anthropic/text"].events]
    block = {"type": "fallback", "from": {"model": "a"}, "to": {"model": "claude-opus-5"}}
    data = json.dumps({"type": "content_block_start", "index": 0, "content_block": block})
    events.insert(1, sent("anthropic", "content_block_start", data))
    assert told(deltas_of("anthropic", events)).named.model == "claude-opus-5"


def test_a_tool_whose_arguments_come_at_once_has_them():
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}
    start = json.dumps({"type": "content_block_start", "index": 0, "content_block": block})
    stop = json.dumps({"type": "content_block_stop", "index": 0})
    twice = [sent("anthropic", "", each) for each in (start, start, stop)]
    assert told(deltas_of("anthropic", twice)).tools == {"t": ["f", '{"x":1}']}


def test_a_vendor_may_tell_reasoning_under_two_names_at_once():
    delta = {"content": "", "reasoning": "so", "reasoning_content": "so"}
    chunk = {"choices": [{"delta": delta, "finish_reason": "stop"}]}
    assert told(deltas_of("openai-chat", [sent("openai-chat", "", json.dumps(chunk))])).reasoning == "so"


def test_parts_and_pictures_of_compatible_servers_are_read():
    delta = {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
            {"type": "text", "text": "Hi"},
        ],
        "images": [
            {"image_url": {"url": "data:image/png;base64,AAAA"}},
            {"image_url": {"url": "https://x.example/y.png"}},
        ],
    }
    chunk = {"choices": [{"delta": delta, "finish_reason": "stop"}]}
    deltas = deltas_of("openai-chat", [sent("openai-chat", "", json.dumps(chunk))])
    answer = told(deltas)
    assert (answer.text, answer.reasoning, answer.end) == ("Hi", "hm", "over")
    pictures = [
        (each.index, each.mime, each.data, each.reference) for each in deltas if isinstance(each, Media)
    ]
    assert pictures == [(0, "image/png", bytes(3), ""), (1, "image/*", b"", "https://x.example/y.png")]


def finished(shape: str, word: str | None) -> Told:
    """What an answer comes to that its shape's end mark and this word end."""
    details = None if word is None else {"reason": word}
    events: dict[str, list[dict[str, Any]]] = {
        "openai-chat": [{"choices": [{"delta": {"content": "a"}, "finish_reason": word}]}],
        "openai-responses": [{"type": "response.incomplete", "response": {"incomplete_details": details}}],
        "anthropic": [
            {"type": "message_delta", "delta": {"stop_reason": word}},
            {"type": "message_stop"},
        ],
        "gemini": [{"candidates": [{"finishReason": word}]}],
        "ollama": [{"message": {"content": "a"}, "done": True, "done_reason": word}],
    }
    return told(deltas_of(shape, [sent(shape, "", json.dumps(each)) for each in events[shape]]))


@pytest.mark.parametrize("word", ["abort", "cancelled", "timeout", "unload", "novel"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_reason_that_nobody_knows_is_no_whole_answer_and_is_kept_in_its_own_word(shape, word):
    answer = finished(shape, word)
    assert (answer.finish, answer.finish_raw, answer.end) == ("other", word, "truncated")
    assert word in answer.error_raw


def test_an_answer_that_is_incomplete_for_no_reason_is_not_whole():
    answer = finished("openai-responses", None)
    assert (answer.finish, answer.finish_raw, answer.end) == ("other", "incomplete", "truncated")
    for word, finish in (("max_output_tokens", "length"), ("content_filter", "content_filter")):
        assert (finished("openai-responses", word).finish, finished("openai-responses", word).end) == (
            finish,
            "over",
        )


def test_tool_calls_that_have_no_index_are_told_apart_by_their_ids():
    def chunk(call: dict[str, Any]) -> bytes:
        return sent("openai-chat", "", json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}))

    answer = told(
        deltas_of(
            "openai-chat",
            [
                chunk({"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}),
                chunk({"id": "b", "function": {"name": "g", "arguments": '{"y"'}}),
                chunk({"id": "b", "function": {"arguments": ":2}"}}),
            ],
        )
    )
    assert answer.tools == {"a": ["f", '{"x":1}'], "b": ["g", '{"y":2}']}


def test_a_whole_block_is_taken_where_no_piece_of_it_came():
    def event(kind: str, **fields: Any) -> bytes:
        return sent("openai-responses", kind, json.dumps({"type": kind, "output_index": 0, **fields}))

    done = event("response.output_text.done", text="Hi")
    assert told(deltas_of("openai-responses", [done])).text == "Hi"
    piece = event("response.output_text.delta", delta="Hi")
    assert told(deltas_of("openai-responses", [piece, done])).text == "Hi"
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    assert told(deltas_of("openai-responses", [event("response.output_item.done", item=item)])).tools == {
        "c": ["f", "{}"]
    }


def test_an_answer_that_is_not_streamed_is_read_all_the_same():
    message = {"role": "assistant", "content": "Hi", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    whole = {
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    answer = told(deltas_of("openai-chat", [json.dumps(whole, indent=1).encode()]))
    assert (answer.text, answer.end, answer.tools) == ("Hi", "over", {"c": ["f", ""]})
    listed = [json.loads(each.data) for each in RECORDED["gemini/text"].events]
    answer = told(deltas_of("gemini", [json.dumps(listed, indent=1).encode()]))
    assert answer.text.startswith("The rain in Spain")
    assert answer.end == "over"


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_is_read_however_it_is_wrapped(shape):
    error = {"error": {"message": "Rate limit reached", "type": "rate_limit_error"}}
    bare = told(deltas_of(shape, [json.dumps(error).encode()]))
    assert bare.end == "rate_limited"
    if PROVIDERS[shape].framing == "sse":
        assert (
            told(deltas_of(shape, [sent(shape, "error", json.dumps(error["error"]))])).end == "rate_limited"
        )
        assert told(deltas_of(shape, [sent(shape, "error", "the context length is exceeded")])).end == (
            "context_overflow"
        )


LISTED = [
    {
        "error": {
            "code": 429,
            "message": "Resource has been exhausted (e.g. check quota).",
            "status": "RESOURCE_EXHAUSTED",
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}],
        }
    }
]
"""As Google's endpoint in OpenAI's shape sends it."""


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_in_a_list_is_the_error_that_it_says(shape):
    """… where OpenAI's own shape has an object: the same class, words and time to wait."""
    one, listed = (
        told(deltas_of(shape, [sent(shape, "", json.dumps(body))])) for body in (LISTED[0], LISTED)
    )
    assert (listed.end, listed.retry_after_ms) == ("rate_limited", 34_500)
    assert listed == one


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if PROVIDERS[shape].framing == "sse"])
def test_an_error_in_a_list_may_come_bare_or_by_its_event(shape):
    bare = json.dumps(LISTED, indent=2).encode()
    assert told(deltas_of(shape, [bare])).end == "rate_limited"
    assert told(deltas_of(shape, [bare[:40], bare[40:] + b"\n"])).end == "rate_limited"
    named = json.dumps([LISTED[0]["error"]])
    assert told(deltas_of(shape, [sent(shape, "error", named)])).end == "rate_limited"


NO_ERRORS = ["[]", "[1]", '[{"choices": []}]', '[{"error": null}]', '[[{"error": 1}]]']


@pytest.mark.parametrize("listed", NO_ERRORS)
def test_a_list_without_an_error_is_none_of_a_shape_that_has_no_lists(listed):
    assert told(deltas_of("openai-chat", [sent("openai-chat", "", listed)])).end == "malformed"
