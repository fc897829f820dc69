"""Anthropic messages: ``POST /v1/messages``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from connectors.llm.loopback.script import Asked
from connectors.llm.loopback.shapes.shape import MESSAGES, dropped, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from connectors.llm import calls
    from connectors.llm.loopback.script import Script
    from connectors.llm.loopback.shapes.shape import Kind, Said
    from connectors.llm.provider import Framing

REFUSED: Final = {  # status, type; a limit of spending differs from one of requests by its words alone
    "rate_limited": (429, "rate_limit_error"),
    "spend_limited": (429, "rate_limit_error"),
    "server": (500, "api_error"),
    "overloaded": (529, "overloaded_error"),
    "unauthorized": (401, "authentication_error"),
    "not_found": (404, "not_found_error"),
    "bad_request": (400, "invalid_request_error"),
    "context_overflow": (400, "invalid_request_error"),
    "moderated": (400, "invalid_request_error"),
}
_WORDS: Final = {
    "overloaded": "Overloaded",
    "unauthorized": "invalid x-api-key",
    "context_overflow": "prompt is too long: 208310 tokens > 200000 maximum",
    "moderated": "Output blocked by content filtering policy",
}
_FINISH: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
}


class Anthropic:
    """See ``Shape``."""

    name: calls.Shape = "anthropic"
    framing: Framing = "sse"
    request_id_header = "request-id"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:  # noqa: ARG002
        """See ``Shape``."""
        config = body.get("output_config") or {}
        output = config.get("format") or body.get("output_format") or {}
        system = [text_of(body["system"])] if body.get("system") else []
        return Asked(
            model=str(body["model"]),
            texts=system + [text_of(message.get("content")) for message in body["messages"]],
            tools=[(str(tool["name"]), tool.get("input_schema") or {}) for tool in body.get("tools") or ()],
            tool_choice=str((body.get("tool_choice") or {}).get("name", "")),
            schema=output.get("schema"),
            tokens_max=body["max_tokens"],
            stream=bool(body.get("stream", False)),
        )

    def lines(self, script: Script) -> Iterator[Said]:
        """See ``Shape``."""
        message: dict[str, Any] = {
            "id": f"msg_{script.key[:24]}",
            "type": "message",
            "role": "assistant",
            "model": script.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {  # what came from the cache is not in input_tokens
                "input_tokens": script.input_tokens - script.cached_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": script.cached_tokens,
                "output_tokens": 1,
            },
        }
        yield _named({"type": "message_start", "message": message})
        for index, (block, kind, field, pieces) in enumerate(_blocks(script)):
            yield _named({"type": "content_block_start", "index": index, "content_block": block})
            if index == 0:
                yield _named({"type": "ping"})
            for piece in pieces:
                yield _delta(index, kind, field, piece)
            if kind == "thinking_delta":
                yield _delta(index, "signature_delta", "signature", script.key)
            yield _named({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": _FINISH[script.finish], "stop_sequence": None}
        usage = {"output_tokens": script.output_tokens}
        yield _named({"type": "message_delta", "delta": delta, "usage": usage})
        yield _named({"type": "message_stop"})

    def kind(self, event: str, value: Any) -> Kind:  # noqa: ARG002
        """See ``Shape``."""
        if not isinstance(value, dict):
            return "other"
        match value.get("type"):
            case "message_start":
                return "start"
            case "content_block_delta":
                delta = value.get("delta") or {}
                return "other" if delta.get("type") == "signature_delta" else "content"
            case "message_delta":
                return "finish"
            case "message_stop":
                return "done"
        return "other"

    def without_usage(self, value: Any) -> Any:
        """See ``Shape``."""
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("message"), dict):
            return {**value, "message": dropped(value["message"], "usage")}
        return dropped(value, "usage")

    def given_up(self, value: Any) -> Any:
        """See ``Shape``: it has no word for it."""
        return value

    def failed(self) -> Iterator[Said]:
        """See ``Shape``."""
        yield "error", self.refused("overloaded", "", "")[1]

    def ping(self) -> Said | None:
        """See ``Shape``."""
        return _named({"type": "ping"})

    def refused(self, fault: str, message: str, retry_after: str) -> tuple[int, Any]:  # noqa: ARG002
        """See ``Shape``."""
        status, kind = REFUSED[fault]
        said = message or _WORDS.get(fault, MESSAGES[fault])
        return status, {
            "type": "error",
            "error": {"type": kind, "message": said},
            "request_id": "req_loopback",
        }


def _blocks(script: Script) -> Iterator[tuple[Mapping[str, Any], str, str, Sequence[str]]]:
    """Give each block as it starts, what its deltas are called, and its pieces."""
    if script.reasoning:
        start = {"type": "thinking", "thinking": "", "signature": ""}
        yield start, "thinking_delta", "thinking", script.reasoning
    # The shape has no block for a refusal: it is text, and the stop reason says what it was.
    if text := script.text or script.refusal:
        yield {"type": "text", "text": ""}, "text_delta", "text", text
    if script.tool:
        block = {"type": "tool_use", "id": f"toolu_{script.key[:24]}", "name": script.tool, "input": {}}
        yield block, "input_json_delta", "partial_json", script.arguments


def _named(value: Mapping[str, Any]) -> Said:
    return value["type"], value


def _delta(index: int, kind: str, field: str, piece: str) -> Said:
    return _named({"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}})
