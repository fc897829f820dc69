"""Parts of a call that shapes write in ways of their own: media, and calls of tools with their answers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from connectors.llm.calls import Call
from connectors.llm.errors import CallRefused
from connectors.llm.providers import PROVIDERS
from tests.unit.support_llm_calls import PNG, media, requested


@pytest.mark.parametrize(
    ("shape", "call", "part"),
    [
        (
            "openai-chat",
            media("image/png", url="https://x/y.png"),
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        ),
        (
            "openai-chat",
            media("audio/wav", data="AAAA"),
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ),
        (
            "openai-responses",
            media("application/pdf", url="https://x/y.pdf"),
            {"type": "input_file", "file_url": "https://x/y.pdf"},
        ),
        (
            "anthropic",
            media("image/png", url="https://x/y.png"),
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        ),
        (
            "anthropic",
            media("application/pdf", data="AAAA"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"},
            },
        ),
        (
            "gemini",
            media("audio/mp3", data="AAAA"),
            {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA"}},
        ),
        (
            "gemini",
            media("video/mp4", url="gs://b/v.mp4"),
            {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/v.mp4"}},
        ),
    ],
    ids=str,
)
def test_media_are_sent(shape, call, part):
    _, body = requested(shape, call)
    (message,) = body.get("messages") or body.get("input") or body["contents"]
    assert (message.get("content") or message["parts"]) == [part]


@pytest.mark.parametrize("shape", ["openai-chat", "openai-responses", "anthropic", "gemini"])
def test_a_picture_at_a_url_may_be_of_any_format(shape):
    _, body = requested(shape, media("image/*", url="https://x/y.png?size=1"))
    written = orjson.dumps(body).decode()
    assert "https://x/y.png?size=1" in written
    assert "image/*" not in written, "no provider knows such a type"


def test_gemini_must_know_what_it_will_find_and_data_has_one_format():
    with pytest.raises(CallRefused, match="takes no image"):
        requested("gemini", media("image/*", url="https://x/y"))
    with pytest.raises(CallRefused, match="must be a media type"):
        requested("anthropic", media("image/*", data=PNG))


def test_who_speaks_a_tools_failure_and_a_pictures_detail_are_told_where_a_shape_has_words_for_them():
    picture = {"type": "media", "mime": "image/png", "data": PNG, "detail": "high"}
    talk = Call("m", [
        {"role": "system", "content": "Be brief.", "name": "house"},
        {"role": "user", "content": [picture], "name": "ann"},
        {"role": "assistant", "content": "Hm.", "name": "bot",
         "tool_calls": [{"id": "c", "name": "look", "arguments": "{}"}]},
        {"role": "tool", "tool_call_id": "c", "content": "no light", "is_error": True},
        {"role": "user", "content": "So?", "name": "bob"},
    ])  # fmt: skip
    bodies = {shape: requested(shape, talk)[1] for shape in PROVIDERS if shape != "ollama"}
    chat = bodies["openai-chat"]["messages"]
    assert [message.get("name") for message in chat] == ["house", "ann", "bot", None, "bob"]
    assert chat[1]["content"][0]["image_url"]["detail"] == "high"
    assert bodies["openai-responses"]["input"][1]["content"][0]["detail"] == "high"
    (result,) = bodies["anthropic"]["messages"][2]["content"]
    assert (result["is_error"], result["content"]) == (True, [{"type": "text", "text": "no light"}])
    (answer,) = bodies["gemini"]["contents"][2]["parts"]
    assert answer["functionResponse"]["response"] == {"error": "no light"}
    for shape in ("openai-responses", "anthropic", "gemini"):
        assert "bob" not in orjson.dumps(bodies[shape]).decode()


@pytest.mark.parametrize("shape", ["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"])
def test_calls_of_one_id_in_two_turns_are_told_apart(shape):
    def turn(tool: str, answer: str) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": "And?"},
            {"role": "assistant", "tool_calls": [{"id": "call_0", "name": tool, "arguments": "{}"}]},
            {"role": "tool", "tool_call_id": "call_0", "content": answer},
        ]

    _, body = requested(shape, Call("m", turn("weather", "rain") + turn("clock", "noon")))
    written = orjson.dumps(body).decode()
    assert written.index("weather") < written.index("rain") < written.index("clock") < written.index("noon")
    if shape in ("gemini", "ollama"):  # by name
        assert written.count("weather") == written.count("clock") == 2
    else:
        assert written.count('"call_0"') == written.count('"call_0_1"') == 2
