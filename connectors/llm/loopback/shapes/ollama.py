"""Ollama: ``POST /api/chat``, a JSON object a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from connectors.llm.loopback.script import Asked
from connectors.llm.loopback.shapes.shape import MESSAGES, dropped, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connectors.llm import calls
    from connectors.llm.loopback.script import Script
    from connectors.llm.loopback.shapes.shape import Kind, Said
    from connectors.llm.provider import Framing

STATUS: Final = {
    "rate_limited": 429,
    "spend_limited": 429,
    "server": 500,
    "overloaded": 503,
    "unauthorized": 401,
    "not_found": 404,
    "bad_request": 400,
    "context_overflow": 400,
    "moderated": 400,
}
_WORDS: Final = {
    "spend_limited": "you've reached your weekly usage limit, please upgrade to continue",
    "overloaded": "server busy, please try again.  maximum pending requests exceeded",
    "unauthorized": "unauthorized",
    "not_found": "model 'loopback' not found",
    "context_overflow": "input length exceeds the context length",
}
_FINISH: Final = {"stop": "stop", "length": "length", "tool_calls": "stop", "refusal": "stop"}
_CREATED: Final = "2023-11-14T22:13:20.000000Z"


class Ollama:
    """See ``Shape``."""

    name: calls.Shape = "ollama"
    framing: Framing = "ndjson"
    request_id_header = ""

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:  # noqa: ARG002
        """See ``Shape``."""
        functions = [tool["function"] for tool in body.get("tools") or ()]
        asked_format = body.get("format")
        tokens_max = (body.get("options") or {}).get("num_predict")
        return Asked(
            model=str(body["model"]),
            texts=[text_of(message.get("content")) for message in body["messages"]],
            tools=[(str(each["name"]), each.get("parameters") or {}) for each in functions],
            schema=asked_format if isinstance(asked_format, dict) else None,
            tokens_max=tokens_max if tokens_max is not None and tokens_max >= 0 else None,
            stream=bool(body.get("stream", True)),
        )

    def lines(self, script: Script) -> Iterator[Said]:
        """See ``Shape``."""

        def line(message: Mapping[str, Any]) -> Said:
            base = {"model": script.model, "created_at": _CREATED}
            return "", {**base, "message": {"role": "assistant", "content": "", **message}, "done": False}

        for piece in script.reasoning:
            yield line({"thinking": piece})
        for piece in script.text or script.refusal:
            yield line({"content": piece})
        if script.tool:
            arguments = orjson.loads("".join(script.arguments))
            yield line({"tool_calls": [{"function": {"name": script.tool, "arguments": arguments}}]})
        yield (
            "",
            {
                "model": script.model,
                "created_at": _CREATED,
                "message": {"role": "assistant", "content": ""},
                "done": True,
                "done_reason": _FINISH[script.finish],
                "total_duration": 1_000_000 * (script.output_tokens + 1),
                "load_duration": 100_000,
                "prompt_eval_count": script.input_tokens,
                "prompt_eval_duration": 900_000,
                "eval_count": script.output_tokens,
                "eval_duration": 1_000_000 * script.output_tokens,
            },
        )

    def kind(self, event: str, value: Any) -> Kind:  # noqa: ARG002
        """See ``Shape``."""
        if not isinstance(value, dict):
            return "other"
        if value.get("done"):
            return "done"
        message = value.get("message") or {}
        said = any(message.get(name) for name in ("content", "thinking", "tool_calls"))
        return "content" if said else "other"

    def without_usage(self, value: Any) -> Any:
        """See ``Shape``."""
        return dropped(value, "prompt_eval_count", "eval_count") if isinstance(value, dict) else value

    def given_up(self, value: Any) -> Any:
        """See ``Shape``."""
        return {**value, "done_reason": "unload"} if self.kind("", value) == "done" else value

    def failed(self) -> Iterator[Said]:
        """See ``Shape``."""
        yield "", {"error": "an error was encountered while running the model: unexpected EOF"}

    def ping(self) -> Said | None:
        """See ``Shape``: a line cannot be a comment, so it is one that says nothing."""
        return "", {
            "model": "loopback",
            "created_at": _CREATED,
            "message": {"role": "assistant", "content": ""},
            "done": False,
        }

    def refused(self, fault: str, message: str, retry_after: str) -> tuple[int, Any]:  # noqa: ARG002
        """See ``Shape``."""
        return STATUS[fault], {"error": message or _WORDS.get(fault, MESSAGES[fault])}
