"""OpenAI chat completions: ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from connectors.llm.loopback.script import CREATED_S, Asked
from connectors.llm.loopback.shapes.shape import MESSAGES, dropped, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connectors.llm import calls
    from connectors.llm.loopback.script import Script
    from connectors.llm.loopback.shapes.shape import Kind, Said
    from connectors.llm.provider import Framing

REFUSED: Final = {  # status, type, code
    "rate_limited": (429, "requests", "rate_limit_exceeded"),
    "spend_limited": (429, "insufficient_quota", "insufficient_quota"),
    "server": (500, "server_error", None),
    "overloaded": (503, "service_unavailable_error", None),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key"),
    "not_found": (404, "invalid_request_error", "model_not_found"),
    "bad_request": (400, "invalid_request_error", None),
    "context_overflow": (400, "invalid_request_error", "context_length_exceeded"),
    "moderated": (400, "invalid_request_error", "content_policy_violation"),
}
_CONTENTS: Final = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls")
QUOTA: Final = "You exceeded your current quota, please check your plan and billing details."


def refused(fault: str, message: str) -> tuple[int, Any]:
    """Give the error as both of OpenAI's shapes have it."""
    status, kind, code = REFUSED[fault]
    said = message or (QUOTA if fault == "spend_limited" else MESSAGES[fault])
    return status, {"error": {"message": said, "type": kind, "param": None, "code": code}}


class OpenAiChat:
    """See ``Shape``."""

    name: calls.Shape = "openai-chat"
    framing: Framing = "sse"
    request_id_header = "x-request-id"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:  # noqa: ARG002
        """See ``Shape``."""
        tool_choice = body.get("tool_choice")
        response_format = body.get("response_format") or {}
        functions = [tool["function"] for tool in body.get("tools") or () if tool.get("type") == "function"]
        return Asked(
            model=str(body["model"]),
            texts=[text_of(message.get("content")) for message in body["messages"]],
            tools=[(str(each["name"]), each.get("parameters") or {}) for each in functions],
            tool_choice=tool_choice["function"]["name"] if isinstance(tool_choice, dict) else "",
            schema=(response_format.get("json_schema") or {}).get("schema"),
            tokens_max=body.get("max_completion_tokens") or body.get("max_tokens"),
            stream=bool(body.get("stream", False)),
            usage=bool((body.get("stream_options") or {}).get("include_usage", False)),
        )

    def lines(self, script: Script) -> Iterator[Said]:
        """See ``Shape``."""
        base = {
            "id": f"chatcmpl-{script.key}",
            "object": "chat.completion.chunk",
            "created": CREATED_S,
            "model": script.model,
            "system_fingerprint": "fp_loopback",
        }
        no_usage: dict[str, Any] = {"usage": None} if script.usage else {}

        def chunk(delta: Mapping[str, Any], finish: str | None = None) -> Said:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return "", {**base, "choices": [choice], **no_usage}

        yield chunk({"role": "assistant", "content": None if script.tool else "", "refusal": None})
        for piece in script.reasoning:
            yield chunk({"reasoning": piece})
        for piece in script.text:
            yield chunk({"content": piece})
        for piece in script.refusal:
            yield chunk({"refusal": piece})
        if script.tool:
            function = {"name": script.tool, "arguments": ""}
            call = {"index": 0, "id": f"call_{script.key[:24]}", "type": "function", "function": function}
            yield chunk({"tool_calls": [call]})
            for piece in script.arguments:
                yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        # A refusal ends with `stop`: that its text came as one is all that tells it from an answer.
        yield chunk({}, "stop" if script.finish == "refusal" else script.finish)
        if script.usage:
            yield "", {**base, "choices": [], "usage": _usage(script)}
        yield "", "[DONE]"

    def kind(self, event: str, value: Any) -> Kind:  # noqa: ARG002
        """See ``Shape``."""
        if value == "[DONE]":
            return "done"
        if not isinstance(value, dict):
            return "other"
        choices = value.get("choices") or ()
        if not choices:
            return "usage" if value.get("usage") else "other"
        delta = choices[0].get("delta") or {}
        if choices[0].get("finish_reason"):
            return "finish"
        if any(delta.get(name) for name in _CONTENTS):
            return "content"
        return "start" if "role" in delta else "other"

    def without_usage(self, value: Any) -> Any:
        """See ``Shape``."""
        if not isinstance(value, dict) or "usage" not in value:
            return value
        return dropped(value, "usage") if value.get("choices") else None

    def given_up(self, value: Any) -> Any:
        """See ``Shape``: the word of vLLM and SGLang."""
        if self.kind("", value) != "finish":
            return value
        return {**value, "choices": [{**value["choices"][0], "finish_reason": "abort"}]}

    def failed(self) -> Iterator[Said]:
        """See ``Shape``."""
        yield "", refused("server", "")[1]

    def ping(self) -> Said | None:
        """See ``Shape``."""
        return None

    def refused(self, fault: str, message: str, retry_after: str) -> tuple[int, Any]:  # noqa: ARG002
        """See ``Shape``."""
        return refused(fault, message)


def _usage(script: Script) -> Mapping[str, Any]:
    return {
        "prompt_tokens": script.input_tokens,
        "completion_tokens": script.output_tokens,
        "total_tokens": script.input_tokens + script.output_tokens,
        "prompt_tokens_details": {"cached_tokens": script.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": len(script.reasoning)},
    }
