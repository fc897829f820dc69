"""Gemini: ``POST /v1beta/models/{model}:streamGenerateContent?alt=sse``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import orjson

from connectors.llm.loopback.script import Asked
from connectors.llm.loopback.shapes.shape import MESSAGES, dropped, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from connectors.llm import calls
    from connectors.llm.loopback.script import Script
    from connectors.llm.loopback.shapes.shape import Kind, Said
    from connectors.llm.provider import Framing

REFUSED: Final = {  # status, its name
    "rate_limited": (429, "RESOURCE_EXHAUSTED"),
    "spend_limited": (429, "RESOURCE_EXHAUSTED"),
    "server": (500, "INTERNAL"),
    "overloaded": (503, "UNAVAILABLE"),
    "unauthorized": (401, "UNAUTHENTICATED"),
    "not_found": (404, "NOT_FOUND"),
    "bad_request": (400, "INVALID_ARGUMENT"),
    "context_overflow": (400, "INVALID_ARGUMENT"),
    "moderated": (400, "INVALID_ARGUMENT"),
}
_WORDS: Final = {
    "context_overflow": (
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    ),
    "spend_limited": "You exceeded your current quota, please check your plan and billing details.",
}
_FINISH: Final = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "refusal": "SAFETY"}


class Gemini:
    """See ``Shape``."""

    name: calls.Shape = "gemini"
    framing: Framing = "sse"
    request_id_header = ""

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:
        """See ``Shape``."""
        model = unquote(path.rpartition("/models/")[2].rpartition(":")[0])
        config = body.get("generationConfig") or {}
        functions = [
            each
            for tool in body.get("tools") or ()
            for each in tool.get("functionDeclarations") or tool.get("function_declarations") or ()
        ]
        named = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        system = body.get("systemInstruction")
        return Asked(
            model=model,
            texts=([text_of(system.get("parts"))] if system else [])
            + [text_of(content.get("parts")) for content in body["contents"]],
            tools=[
                (str(each["name"]), each.get("parametersJsonSchema") or each.get("parameters") or {})
                for each in functions
            ],
            tool_choice=str(next(iter(named.get("allowedFunctionNames") or ()), "")),
            schema=config.get("responseJsonSchema") or config.get("responseSchema"),
            tokens_max=config.get("maxOutputTokens"),
        )

    def lines(self, script: Script) -> Iterator[Said]:
        """See ``Shape``."""
        said = 0

        def chunk(parts: Sequence[Mapping[str, Any]], finish: str = "") -> Said:
            candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
            if finish:
                candidate["finishReason"] = finish
            return "", {
                "candidates": [candidate],
                "usageMetadata": _usage(script, script.output_tokens if finish else said),
                "modelVersion": script.model,
                "responseId": script.key[:22],
            }

        for piece in script.reasoning:
            said += 1
            yield chunk([{"text": piece, "thought": True}])
        for piece in script.text or script.refusal:
            said += 1
            yield chunk([{"text": piece}])
        if script.tool:
            said = script.output_tokens
            arguments = orjson.loads("".join(script.arguments))
            yield chunk([{"functionCall": {"name": script.tool, "args": arguments}}])
        yield chunk([{"text": ""}], _FINISH[script.finish])

    def kind(self, event: str, value: Any) -> Kind:  # noqa: ARG002
        """See ``Shape``."""
        candidates = value.get("candidates") if isinstance(value, dict) else None
        if not candidates:
            return "other"
        if candidates[0].get("finishReason"):
            return "finish"
        return "content"

    def without_usage(self, value: Any) -> Any:
        """See ``Shape``."""
        return dropped(value, "usageMetadata") if isinstance(value, dict) else value

    def given_up(self, value: Any) -> Any:
        """See ``Shape``."""
        if self.kind("", value) != "finish":
            return value
        return {**value, "candidates": [{**value["candidates"][0], "finishReason": "OTHER"}]}

    def failed(self) -> Iterator[Said]:
        """See ``Shape``."""
        yield "", self.refused("overloaded", "", "")[1]

    def ping(self) -> Said | None:
        """See ``Shape``."""
        return None

    def refused(self, fault: str, message: str, retry_after: str) -> tuple[int, Any]:
        """See ``Shape``."""
        status, name = REFUSED[fault]
        said = message or _WORDS.get(fault, MESSAGES[fault])
        error: dict[str, Any] = {"code": status, "message": said, "status": name}
        if fault == "rate_limited" and retry_after.isdecimal():
            kind = "type.googleapis.com/google.rpc.RetryInfo"
            error["details"] = [{"@type": kind, "retryDelay": f"{retry_after}s"}]
        return status, {"error": error}


def _usage(script: Script, said: int) -> Mapping[str, Any]:
    thoughts = min(said, len(script.reasoning))
    usage = {
        "promptTokenCount": script.input_tokens,
        "candidatesTokenCount": said - thoughts,
        "totalTokenCount": script.input_tokens + said,
    }
    if script.cached_tokens:
        usage["cachedContentTokenCount"] = script.cached_tokens
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    return usage
