"""Calls, and the requests that a shape makes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from connectors.llm.calls import Call, Target, Tool
from connectors.llm.providers import PROVIDERS

if TYPE_CHECKING:
    from connectors.llm.calls import HttpCall, Shape

SECRET = "sk-very-secret"
PNG = "iVBORw0KGgo="
BASES = {
    "openai-chat": "https://api.openai.com/v1",
    "openai-responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "ollama": "http://127.0.0.1:11434",
}
WEATHER = Tool(
    "get_weather",
    "Tells the weather.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
PLAIN = Call("m", [{"role": "user", "content": "Hi"}])


def target(shape: Shape, **more: Any) -> Target:
    return Target("t", shape, **{"base_url": BASES[shape], "api_key": SECRET, **more})


def requested(shape: Shape, call: Call, **more: Any) -> tuple[HttpCall, dict[str, Any]]:
    made = PROVIDERS[shape].request(call, target(shape, **more))
    return made, json.loads(made.body)


def media(mime: str, **where: str) -> Call:
    return Call("m", [{"role": "user", "content": [{"type": "media", "mime": mime, **where}]}])
