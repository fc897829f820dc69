"""What each recorded answer comes to: its content, its tokens, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from connectors.llm.deltas import Failed, Finished, Over, Piece, Usage
from connectors.llm.framing import Frame
from connectors.llm.providers import PROVIDERS
from connectors.llm.recording import Recorded, Recording, read_recording, write_recording
from tests.unit.support_llm import RECORDED, STREAMED, body_of, deltas_of, told, told_of

if TYPE_CHECKING:
    from connectors.llm.framing import Framed

RAIN = "The rain in Spain stays mainly in the plain. 🌧️"
LYON = '{"city":"Lyon","people":522250}'
SORRY = "I'm sorry, I can't help with that."
PICTURE = [("image/png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")]
SAID = " Paris\n\nQuestion: The French"
PARIS = ["get_weather", '{"location":"Paris"}']


def tokens(
    sent: int | None,
    got: int | None,
    cached: int | None = None,
    written: int | None = None,
    thought: int | None = None,
) -> Usage:
    return Usage(sent, cached, written, got, thought)


# What is not named is empty, and nothing was counted.
GOLDEN: dict[str, dict[str, Any]] = {
    "openai-chat/text": {"text": RAIN, "usage": tokens(19, 10, 0, thought=0), "finish": "stop"},
    "openai-chat/padding-and-comments": {
        "text": "Yes.",
        "usage": tokens(11, 2, 0, thought=0),
        "finish": "stop",
    },
    "openai-chat/reasoning": {
        "text": "9.8 is larger than 9.11.",
        "reasoning": "9.8 is 9.80, which is above 9.11.",
        "usage": tokens(22, 41, 16, thought=29),
        "finish": "stop",
    },
    "openai-chat/tool-calls": {
        "tools": {
            "call_DdmO9pD3xa9XTPNJ32zg2hcA": PARIS,
            "call_t5Qz7rS0bXy1kq2c9mJmWn3L": ["get_time", '{"zone":"Europe/Paris"}'],
        },
        "usage": tokens(82, 36, 64, thought=0),
        "finish": "tool_calls",
    },
    "openai-chat/structured": {"text": LYON, "usage": tokens(57, 13, 0, thought=0), "finish": "stop"},
    "openai-chat/cached-usage": {
        "text": "42",
        "usage": tokens(2006, 332, 1920, thought=320),
        "finish": "stop",
    },
    "openai-chat/usage-missing": {"text": "Hi there", "finish": "stop"},
    "openai-chat/refusal": {"refusal": SORRY, "usage": tokens(81, 11, 0, thought=0), "finish": "refusal"},
    "openai-chat/content-filter": {
        "text": "Mix the",
        "usage": tokens(30, 2, 0, thought=0),
        "finish": "content_filter",
    },
    "openai-chat/length": {"text": "Once upon a", "usage": tokens(9, 3, 0, thought=0), "finish": "length"},
    "openai-chat/error-in-band": {"text": "The answer is", "end": "server"},
    "openai-chat/error-with-usage": {"text": "The", "usage": tokens(14, 1), "end": "rate_limited"},
    "openai-chat/sound": {
        "text": "Hello",
        "media": [
            ("audio/pcm;rate=24000", bytes(range(8))),
            ("audio/pcm;rate=24000", bytes(range(8, 16))),
        ],
        "usage": tokens(20, 24, 0, thought=0),
        "finish": "stop",
    },
    "openai-chat/llama-cpp": {"text": SAID, "usage": tokens(11, 6, 1), "finish": "length"},
    # in this shape it calls an answer that met its bound completed
    "openai-responses/llama-cpp": {"text": SAID, "usage": tokens(11, 6, 6), "finish": "stop"},
    "anthropic/llama-cpp": {"text": SAID, "usage": tokens(5 + 6, 6, 6), "finish": "length"},
    "openai-responses/text": {
        "text": "Hi there! How can I assist you today? 👋",
        "usage": tokens(37, 11, 0, 0, 0),
        "finish": "stop",
    },
    "openai-responses/reasoning": {
        "text": "9.8 is larger.",
        "reasoning": "**Comparing decimals**\n\n9.8 is 9.80.So it is above 9.11.",
        "usage": tokens(26, 139, 0, 0, 128),
        "finish": "stop",
    },
    "openai-responses/tool-calls": {
        "tools": {"call_sbTxW7fLFvT6rXJc0vEpYg5N": PARIS, "call_9kQm3XhTz0": ["get_time", "{}"]},
        "usage": tokens(291, 23, 0, 0, 0),
        "finish": "tool_calls",
    },
    "openai-responses/structured": {"text": LYON, "usage": tokens(61, 12, 0, 0, 0), "finish": "stop"},
    "openai-responses/cached-usage": {"text": "42", "usage": tokens(2048, 70, 1920, 0, 64), "finish": "stop"},
    "openai-responses/usage-missing": {"text": "Hi", "finish": "stop"},
    "openai-responses/refusal": {"refusal": SORRY, "usage": tokens(81, 11, 0, 0, 0), "finish": "refusal"},
    "openai-responses/content-filter": {
        "text": "Mix the",
        "usage": tokens(30, 2, 0, 0, 0),
        "finish": "content_filter",
    },
    "openai-responses/length": {"text": "Once upon a", "usage": tokens(9, 3, 0, 0, 0), "finish": "length"},
    "openai-responses/error-in-band": {
        "text": "The answer is",
        "usage": tokens(12, 2, 0, 0, 0),
        "end": "server",
    },
    "openai-responses/picture": {"media": PICTURE, "usage": tokens(50, 200, 0, 0, 0), "finish": "stop"},
    "anthropic/text": {"text": "Hello! How are you? 🙂", "usage": tokens(25, 15, 0, 0), "finish": "stop"},
    "anthropic/reasoning": {
        "text": "9.8 is larger.",
        "reasoning": "9.8 is 9.80, above 9.11.",
        "usage": tokens(43, 62, 0, 0, 48),
        "finish": "stop",
    },
    "anthropic/tool-calls": {
        "text": "I will look.",
        "tools": {
            "toolu_01T1x1fJ34qAmk2tNTrN7Up6": ["get_weather", '{"location": "San Francisco, CA"}'],
            "toolu_02": ["get_time", "{}"],
        },
        "usage": tokens(472, 89, 0, 0),
        "finish": "tool_calls",
    },
    "anthropic/structured": {
        "text": '{"city": "Lyon", "people": 522250}',
        "usage": tokens(25, 17, 0, 0),
        "finish": "stop",
    },
    "anthropic/cached-usage": {
        "text": "42",
        "usage": tokens(21 + 188 + 1800, 393, 1800, 188, 380),
        "finish": "stop",
    },
    "anthropic/usage-missing": {"text": "Hi there", "finish": "stop"},
    "anthropic/refusal": {
        "text": "Mix",
        "refusal": "This request was refused due to policy.",
        "usage": tokens(25, 4, 0, 0),
        "finish": "refusal",
    },
    "anthropic/length": {"text": "Once upon a", "usage": tokens(25, 3, 0, 0), "finish": "length"},
    "anthropic/pause": {"text": "Searching", "usage": tokens(25, 40, 0, 0), "finish": "pause"},
    "anthropic/error-in-band": {"text": "The answer", "usage": tokens(25, None, 0, 0), "end": "overloaded"},
    "anthropic/second-start": {"text": "One answer.", "usage": tokens(25, 5, 0, 0), "finish": "stop"},
    "anthropic/unknown-events": {"text": "Yes", "usage": tokens(25, 5, 0, 0), "finish": "stop"},
    "gemini/text": {"text": RAIN, "usage": tokens(8, 12), "finish": "stop"},
    "gemini/reasoning": {
        "text": "9.8 is larger.",
        "reasoning": "**Comparing**\n\n9.8 is 9.80. It is above 9.11.",
        "usage": tokens(21, 8 + 77, thought=77),
        "finish": "stop",
    },
    "gemini/tool-calls": {
        "tools": {"call_0": PARIS, "fc-2": ["get_time", "{}"]},
        "usage": tokens(61, 24 + 30, thought=30),
        "finish": "tool_calls",
    },
    "gemini/structured": {
        "text": '{"city": "Lyon", "people": 522250}',
        "usage": tokens(30, 14),
        "finish": "stop",
    },
    "gemini/cached-usage": {
        "text": "42",
        "usage": tokens(2100 + 12, 1 + 64, 1900, thought=64),
        "finish": "stop",
    },
    "gemini/usage-missing": {"text": "Hi there", "finish": "stop"},
    "gemini/content-filter": {"text": "Mix", "usage": tokens(12, 1), "finish": "content_filter"},
    "gemini/blocked-prompt": {"usage": tokens(9, 0), "finish": "content_filter"},
    "gemini/length": {"text": "Once upon a", "usage": tokens(5, 3), "finish": "length"},
    "gemini/error-in-band": {"text": "The answer", "usage": tokens(12, 2), "end": "overloaded"},
    "gemini/picture": {"text": "Here: ", "media": PICTURE, "usage": tokens(7, 1290), "finish": "stop"},
    "ollama/text": {"text": RAIN, "usage": tokens(26, 10), "finish": "stop"},
    "ollama/reasoning": {
        "text": "9.8 is larger.",
        "reasoning": "9.8 is 9.80, above 9.11.",
        "usage": tokens(24, 31),
        "finish": "stop",
    },
    "ollama/tool-calls": {
        "tools": {"call_0": PARIS, "call_x1": ["get_time", "{}"]},
        "usage": tokens(169, 15),
        "finish": "tool_calls",
    },
    "ollama/structured": {
        "text": '{"city": "Lyon", "people": 522250}',
        "usage": tokens(41, 14),
        "finish": "stop",
    },
    "ollama/cached-usage": {"text": "42", "usage": tokens(None, 2), "finish": "stop"},
    "ollama/usage-missing": {"text": "Hi", "finish": "stop"},
    "ollama/length": {"text": "Once upon", "usage": tokens(9, 2), "finish": "length"},
    "ollama/error-in-band": {"text": "The answer", "end": "server"},
    "ollama/error-at-once": {"end": "not_found"},
}
NOTHING = {"text": "", "reasoning": "", "refusal": "", "tools": {}, "media": [], "usage": None, "finish": ""}

# Class, and milliseconds to wait.
REFUSED: dict[str, tuple[str, int]] = {
    "openai-chat/spent": ("spend_limited", 0),
    "openai-chat/rate-limited": ("rate_limited", 210),
    "openai-chat/bad-gateway": ("server", 0),
    "openai-responses/context-overflow": ("context_overflow", 0),
    "anthropic/overloaded": ("overloaded", 7_000),
    "gemini/rate-limited": ("rate_limited", 34_075),
    "gemini/spent": ("spend_limited", 0),
    "ollama/not-found": ("not_found", 0),
}


def test_each_recording_has_its_golden_answer():
    assert sorted(RECORDED) == sorted([*GOLDEN, *REFUSED])
    assert {name.partition("/")[0] for name in GOLDEN} == set(PROVIDERS)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_recorded_answer_comes_to(name):
    answer = told_of(RECORDED[name])
    expected = {**NOTHING, "end": "over", **GOLDEN[name]}
    assert {field: getattr(answer, field) for field in expected} == expected


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_recorded_refusal_is_of_its_class(name):
    recording = RECORDED[name]
    body = "".join(each.body or "" for each in recording.events)
    failed = PROVIDERS[recording.shape].failed(recording.status, recording.headers, body.encode())
    assert (failed.error_class, failed.retry_after_ms) == REFUSED[name]
    assert failed.raw == body


def test_what_a_provider_names_itself_is_kept():
    chat = told_of(RECORDED["openai-chat/text"]).named
    assert (chat.request_id[:9], chat.model) == ("chatcmpl-", "gpt-4o-mini-2024-07-18")
    gemini = told_of(RECORDED["gemini/text"]).named
    assert (gemini.request_id, gemini.model) == ("tLDyaPDmFpKQ1e8PtOvr8Aw", "gemini-2.5-flash")
    assert told_of(RECORDED["openai-responses/text"]).named.request_id.startswith("resp_")
    assert told_of(RECORDED["ollama/text"]).named.model == "qwen3:0.6b"


@pytest.mark.parametrize(
    ("name", "request_id"),
    [
        ("openai-chat/text", "req_chat_0001"),
        ("openai-chat/error-with-usage", "gen-1762-abc"),
        ("openai-responses/text", "req_resp_0001"),
        ("anthropic/text", "req_018EeWyXxfu5pfWkrYcMdjWG"),
        ("ollama/text", ""),
    ],
)
def test_the_headers_name_the_call(name, request_id):
    recording = RECORDED[name]
    assert PROVIDERS[recording.shape].named(recording.headers).request_id == request_id


def test_the_words_of_finish_and_error_are_kept_as_they_came():
    assert told_of(RECORDED["anthropic/length"]).finish_raw == "max_tokens"
    assert told_of(RECORDED["gemini/content-filter"]).finish_raw == "SAFETY"
    for name in ("openai-chat", "openai-responses", "anthropic", "gemini", "ollama"):
        recording = RECORDED[f"{name}/error-in-band"]
        assert told_of(recording).error_raw in [each.data for each in recording.events]


@pytest.mark.parametrize("name", sorted(STREAMED))
def test_an_answer_cut_anywhere_is_never_taken_for_whole(name):
    recording = STREAMED[name]
    body = body_of(recording)
    whole = told_of(recording)
    step = max(1, len(body) // 400)
    for end in range(0, len(body) - 1, step):
        deltas = deltas_of(recording.shape, [body[:end]])
        cut = told(deltas)
        assert whole.text.startswith(cut.text)
        finished = any(isinstance(each, Finished) for each in deltas)
        if cut.end == "over":
            assert finished
            assert (cut.text, cut.tools, cut.finish) == (whole.text, whole.tools, whole.finish)
        else:
            assert cut.end in {whole.end, "truncated", "malformed"}
        if recording.shape == "anthropic" and "message_stop" not in body[:end].decode("utf-8", "replace"):
            assert cut.end != "over"


@pytest.mark.parametrize("name", sorted(STREAMED))
def test_what_is_recorded_of_an_answer_gives_it_back(name, tmp_path):
    recording = STREAMED[name]
    events: list[Recorded] = []

    def seen(framed: Framed) -> None:
        if isinstance(framed, Frame):
            events.append(Recorded(len(events), framed.data, framed.event))
        elif not isinstance(framed, Failed):
            events.append(Recorded(len(events), comment=framed.raw))

    deltas = deltas_of(recording.shape, [body_of(recording)], seen)
    path = tmp_path / "again.stream.jsonl"
    write_recording(path, Recording(recording.shape, events))
    again = read_recording(path)
    assert body_of(again) == body_of(recording)
    assert deltas_of(again.shape, [body_of(again)]) == deltas


def test_a_recording_may_hold_any_character_of_a_line(tmp_path):
    data = '{"text": "a\u2028b\u0085c\x0b"}'
    path = tmp_path / "lines.stream.jsonl"
    write_recording(path, Recording("openai-chat", [Recorded(0, data)]))
    assert read_recording(path).events == [Recorded(0, data)]


def test_a_tool_call_shows_before_its_arguments():
    for name in ("openai-chat", "openai-responses", "anthropic"):
        recording = RECORDED[f"{name}/tool-calls"]
        pieces = [
            each for each in deltas_of(recording.shape, [body_of(recording)]) if isinstance(each, Piece)
        ]
        first = next(each for each in pieces if each.channel == "tool")
        assert (first.tool, first.text) == ("get_weather", "")
        assert all(each.call_id and each.tool for each in pieces if each.channel == "tool")


def test_the_blocks_of_an_answer_have_numbers_of_their_own():
    recording = RECORDED["openai-responses/reasoning"]
    pieces = [each for each in deltas_of(recording.shape, [body_of(recording)]) if isinstance(each, Piece)]
    assert sorted({(each.channel, each.index) for each in pieces}) == [
        ("reasoning", 0),
        ("reasoning", 1),
        ("text", 2),
    ]


def test_an_answer_ends_once():
    for recording in STREAMED.values():
        ends = [
            each
            for each in deltas_of(recording.shape, [body_of(recording)])
            if isinstance(each, Over | Failed)
        ]
        assert len(ends) == 1
