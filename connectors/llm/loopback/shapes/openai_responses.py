"""OpenAI responses: ``POST /v1/responses``."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from connectors.llm.loopback.script import CREATED_S, Asked
from connectors.llm.loopback.shapes import openai_chat
from connectors.llm.loopback.shapes.shape import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connectors.llm import calls
    from connectors.llm.loopback.script import Script
    from connectors.llm.loopback.shapes.shape import Kind, Said
    from connectors.llm.provider import Framing

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class OpenAiResponses:
    """See ``Shape``."""

    name: calls.Shape = "openai-responses"
    framing: Framing = "sse"
    request_id_header = "x-request-id"

    def asked(self, path: str, body: Mapping[str, Any]) -> Asked:  # noqa: ARG002
        """See ``Shape``."""
        given = body["input"]
        items = [{"content": given}] if isinstance(given, str) else given
        instructions = [str(body["instructions"])] if body.get("instructions") else []
        tool_choice = body.get("tool_choice")
        tools = [tool for tool in body.get("tools") or () if tool.get("type") == "function"]
        return Asked(
            model=str(body["model"]),
            texts=instructions + [text_of(item.get("content")) for item in items if "content" in item],
            tools=[(str(tool["name"]), tool.get("parameters") or {}) for tool in tools],
            tool_choice=str(tool_choice.get("name", "")) if isinstance(tool_choice, dict) else "",
            schema=((body.get("text") or {}).get("format") or {}).get("schema"),
            tokens_max=body.get("max_output_tokens"),
            stream=bool(body.get("stream", False)),
        )

    def lines(self, script: Script) -> Iterator[Said]:
        """See ``Shape``."""
        number = count()

        def event(kind: str, **fields: Any) -> Said:
            return kind, {"type": kind, "sequence_number": next(number), **fields}

        begun = _response(script, "in_progress", [])
        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        output: list[Mapping[str, Any]] = []
        for item in _items(script):
            place = {"item_id": item.whole["id"], "output_index": len(output)}
            yield event("response.output_item.added", output_index=len(output), item=item.begun)
            for kind, fields in item.events():
                yield event(kind, **place, **fields)
            yield event("response.output_item.done", output_index=len(output), item=item.whole)
            output.append(item.whole)
        ending = "incomplete" if script.finish == "length" else "completed"
        yield event(f"response.{ending}", response=_response(script, ending, output))

    def kind(self, event: str, value: Any) -> Kind:  # noqa: ARG002
        """See ``Shape``."""
        kind = value.get("type") if isinstance(value, dict) else None
        if kind in ("response.created", "response.in_progress"):
            return "start"
        if kind in _TERMINAL:
            return "done"
        return "content" if isinstance(kind, str) and kind.endswith(".delta") else "other"

    def without_usage(self, value: Any) -> Any:
        """See ``Shape``."""
        if isinstance(value, dict) and isinstance(value.get("response"), dict):
            return {**value, "response": {**value["response"], "usage": None}}
        return value

    def given_up(self, value: Any) -> Any:
        """See ``Shape``."""
        if self.kind("", value) != "done":
            return value
        response = {**value["response"], "status": "incomplete", "incomplete_details": {"reason": "abort"}}
        return {**value, "type": "response.incomplete", "response": response}

    def failed(self) -> Iterator[Said]:
        """See ``Shape``."""
        error = {"code": "server_error", "message": "The model failed to generate a response."}
        yield "error", {"type": "error", "sequence_number": 10_000, "param": None, **error}
        response = {"id": "resp_loopback", "object": "response", "status": "failed", "error": error}
        failed = {"created_at": CREATED_S, "model": "loopback", "output": [], "usage": None}
        yield (
            "response.failed",
            {"type": "response.failed", "sequence_number": 10_001, "response": {**response, **failed}},
        )

    def ping(self) -> Said | None:
        """See ``Shape``."""
        return None

    def refused(self, fault: str, message: str, retry_after: str) -> tuple[int, Any]:  # noqa: ARG002
        """See ``Shape``."""
        return openai_chat.refused(fault, message)


class _Item:
    """One item of the output: as it begins, as it is whole, and the events between."""

    def __init__(self, script: Script, kind: str) -> None:
        self._script = script
        self._kind = kind
        key, tool = script.key[:24], script.tool
        self._text = "".join(self._pieces())
        match kind:
            case "reasoning":
                self.begun: dict[str, Any] = {"id": f"rs_{key}", "type": "reasoning", "summary": []}
                self.whole = {**self.begun, "summary": [{"type": "summary_text", "text": self._text}]}
            case "function_call":
                call = {"id": f"fc_{key}", "type": kind, "call_id": f"call_{key}", "name": tool}
                self.begun = {**call, "status": "in_progress", "arguments": ""}
                self.whole = {**call, "status": "completed", "arguments": self._text}
            case _:
                item = {"id": f"msg_{key}", "type": "message", "role": "assistant"}
                self.begun = {**item, "status": "in_progress", "content": []}
                self.whole = {**item, "status": "completed", "content": [self._part(self._text)]}

    def events(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        match self._kind:
            case "reasoning":
                name, place = "response.reasoning_summary", {"summary_index": 0}
                part = {"type": "summary_text", "text": ""}
                yield f"{name}_part.added", {**place, "part": part}
                for piece in self._pieces():
                    yield f"{name}_text.delta", {**place, "delta": piece}
                yield f"{name}_text.done", {**place, "text": self._text}
                yield f"{name}_part.done", {**place, "part": {**part, "text": self._text}}
            case "function_call":
                name = "response.function_call_arguments"
                for piece in self._pieces():
                    yield f"{name}.delta", {"delta": piece}
                yield f"{name}.done", {"name": self._script.tool, "arguments": self._text}
            case _:
                refuses = bool(self._script.refusal)
                name = "response.refusal" if refuses else "response.output_text"
                place = {"content_index": 0}
                no_logprobs: dict[str, Any] = {} if refuses else {"logprobs": []}
                yield "response.content_part.added", {**place, "part": self._part("")}
                for piece in self._pieces():
                    yield f"{name}.delta", {**place, "delta": piece, **no_logprobs}
                done = {"refusal" if refuses else "text": self._text}
                yield f"{name}.done", {**place, **done, **no_logprobs}
                yield "response.content_part.done", {**place, "part": self._part(self._text)}

    def _part(self, text: str) -> Mapping[str, Any]:
        if self._script.refusal:
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _pieces(self) -> Any:
        script = self._script
        if self._kind == "message":
            return script.text or script.refusal
        return script.reasoning if self._kind == "reasoning" else script.arguments


def _items(script: Script) -> Iterator[_Item]:
    if script.reasoning:
        yield _Item(script, "reasoning")
    if script.text or script.refusal:
        yield _Item(script, "message")
    if script.tool:
        yield _Item(script, "function_call")


def _response(script: Script, status: str, output: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    over = status != "in_progress"
    return {
        "id": f"resp_{script.key}",
        "object": "response",
        "created_at": CREATED_S,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "model": script.model,
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": 1.0,
        "top_p": 1.0,
        "metadata": {},
        "usage": {
            "input_tokens": script.input_tokens,
            "input_tokens_details": {"cached_tokens": script.cached_tokens},
            "output_tokens": script.output_tokens,
            "output_tokens_details": {"reasoning_tokens": len(script.reasoning)},
            "total_tokens": script.input_tokens + script.output_tokens,
        }
        if over
        else None,
    }
