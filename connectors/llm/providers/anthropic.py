"""Anthropic's messages.

https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from connectors.llm.deltas import Alive, Failed, Named, Piece, Usage
from connectors.llm.errors import CallRefused
from connectors.llm.framing import clipped
from connectors.llm.providers.failures import failed_answer
from connectors.llm.providers.messages import Media, given, messages_of, output_tokens_max, request_to
from connectors.llm.providers.normalising import (
    BLOCKS_MAX,
    Reader,
    as_json,
    kind_of,
    mapping,
    name_of,
    number,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connectors.llm.calls import Call, HttpCall, Shape, Target, Tool
    from connectors.llm.deltas import Delta, Finish
    from connectors.llm.provider import Framing
    from connectors.llm.providers.messages import Message

VERSION: Final = "2023-06-01"
_THINKING_BUDGETS: Final = {"low": 1_024, "medium": 4_096, "high": 16_384}
"""Tokens, for models that are told a budget; 1,024 is the least that they take."""
_BY_BUDGET: Final = re.compile(r"claude-3|claude-(opus|sonnet|haiku)-4(?![0-9]|[-.][6-9])")
"""Models before Claude 4.6 take a budget of thinking; later ones an effort, and refuse a budget since 4.7."""
_FINISHES: Final[Mapping[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
}

_COUNTS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


class Anthropic:
    """The shape; its parts are described by ``connectors.llm.provider.Provider``."""

    shape: Shape = "anthropic"
    framing: Framing = "sse"

    def request(self, call: Call, target: Target) -> HttpCall:
        """Make the request. Raises CallRefused."""
        params = call.params
        if params.seed is not None:
            raise CallRefused("params.seed", "anthropic has none.", "Leave it out, or ask another provider.")
        messages = messages_of(call)
        thinking, effort = _thinking(call)
        output_config = given(effort=effort)
        if call.schema is not None:
            output_config["format"] = {"type": "json_schema", "schema": call.schema}
        body = {
            "model": call.model,
            "max_tokens": self.output_tokens_max(call),  # the shape has no default of its own
            "messages": _turns([each for each in messages if each.role != "system"]),
            "stream": True,
            **given(
                system="\n\n".join(each.only_text("anthropic") for each in messages if each.role == "system"),
                temperature=params.temperature,
                top_p=params.top_p,
                stop_sequences=list(params.stop),
                thinking=thinking,
                output_config=output_config,
                tools=[_tool(each) for each in call.tools],
                tool_choice=_tool_choice(call),
            ),
        }
        headers = {"anthropic-version": VERSION, **given(**{"x-api-key": target.api_key})}
        path = "/messages" if target.base_url.rstrip("/").endswith("/v1") else "/v1/messages"
        return request_to(target, path, headers, body)

    def output_tokens_max(self, call: Call) -> int:
        """Give the longest answer: what is thought counts as output."""
        thinking, _ = _thinking(call)
        return output_tokens_max(call, thinking.get("budget_tokens", 0))

    def named(self, headers: Mapping[str, str]) -> Named:
        """Read the names in the headers."""
        return Named(name_of(headers.get("request-id")))

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        """Say what another status than 200 means."""
        return failed_answer(status, headers, body)

    def normaliser(self) -> _Events:
        """Give one for one answer."""
        return _Events()


def _thinking(call: Call) -> tuple[dict[str, Any], str]:
    reasoning, by_budget = call.params.reasoning, _BY_BUDGET.search(call.model)
    # A turn that goes on after a tool has to repeat the thinking before it, which is not kept.
    if not reasoning or (by_budget and call.messages[-1:] and call.messages[-1].get("role") == "tool"):
        return {}, ""
    if by_budget:
        return {"type": "enabled", "budget_tokens": _THINKING_BUDGETS[reasoning]}, ""
    return {"type": "adaptive", "display": "summarized"}, reasoning


def _tool(tool: Tool) -> Mapping[str, Any]:
    return {"name": tool.name, **given(description=tool.description), "input_schema": tool.parameters}


def _tool_choice(call: Call) -> Mapping[str, Any]:
    choice = call.params.tool_choice
    if choice in ("", "auto", "none"):
        return {"type": choice} if choice and call.tools else {}
    if choice == "required" and call.tools:
        return {"type": "any"}
    if choice not in [each.name for each in call.tools]:
        raise CallRefused("params.tool_choice", f"{choice!r:.80} names no tool of the call.")
    return {"type": "tool", "name": choice}


def _turns(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Write the messages; answers of tools are the user's, and those that follow one another are one turn."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if message.role == "tool" and turns and turns[-1]["content"][0].get("type") == "tool_result":
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    parts = [_block(part) for part in message.parts]
    if message.role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.call_id, **given(content=parts)}
        return [result | ({"is_error": True} if message.is_error else {})]
    if message.role == "assistant":
        message.only_text("anthropic")
    uses = [
        {"type": "tool_use", "id": use.call_id, "name": use.name, "input": use.object}
        for use in message.tool_uses
    ]
    if not parts and not uses:
        raise CallRefused(message.where, "is empty, which anthropic refuses.", "Leave it out.")
    return [*parts, *uses]


def _block(part: str | Media) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = {"image": "image", "application": "document"}.get(part.kind)
    if kind is None or (kind == "document" and part.mime != "application/pdf"):
        raise part.refused("anthropic", "Send an image or a PDF.")
    if part.url:
        return {"type": kind, "source": {"type": "url", "url": part.url}}
    return {"type": kind, "source": {"type": "base64", "media_type": part.mime, "data": part.data}}


class _Events(Reader):
    """Reads ``message_start`` … ``message_stop``."""

    def __init__(self) -> None:
        super().__init__()
        self._id = ""
        self._had_content = False
        self._tools: dict[int, tuple[str, str]] = {}
        """Blocks of tools that are called: index to (id, name)."""
        self._unargued: set[int] = set()
        """Those of them whose arguments have not begun."""
        self._counts: dict[str, int] = {}
        """The provider's own counts so far, which add up to the input."""

    def _event(self, event: str, value: Mapping[str, Any], out: list[Delta]) -> None:
        kind = kind_of(event, value)
        if read := self._READS.get(kind):
            read(self, value, out)
        if not out:
            out.append(Alive(clipped(kind)))

    def _start(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        """Take the start; a repeated one changes nothing, another answer amid one cannot be joined to it."""
        message = mapping(value.get("message"))
        message_id = text(message.get("id"))
        if self._had_content and message_id != self._id:
            self._fail(out, "malformed", f"message {message_id} begins within {self._id}")
            return
        self._id = message_id
        self._name(out, message_id, message.get("model"))
        # output counted before there is any would pass for all of it if the answer broke off
        usage = {
            name: count for name, count in mapping(message.get("usage")).items() if name != "output_tokens"
        }
        self._usage(usage, out)

    def _block_start(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        index, block = number(value.get("index")) or 0, mapping(value.get("content_block"))
        match block.get("type"):
            case "text":
                self._content(out, Piece("text", text(block.get("text")), index))
            case "thinking":
                self._content(out, Piece("reasoning", text(block.get("thinking")), index))
            case "tool_use":
                self._tool_start(index, block, out)
            case "fallback":  # another model goes on
                self._name(out, "", mapping(block.get("to")).get("model"))

    def _tool_start(self, index: int, block: Mapping[str, Any], out: list[Delta]) -> None:
        if len(self._tools) >= BLOCKS_MAX:
            self._fail(out, "oversized", f"more than {BLOCKS_MAX} tool calls")
            return
        tool = (name_of(block.get("id")) or f"call_{index}", name_of(block.get("name")))
        if self._tools.get(index) == tool:
            return
        self._tools[index] = tool
        self._had_content = True
        whole = mapping(block.get("input"))
        out.append(Piece("tool", as_json(whole) if whole else "", index, *tool))
        if not whole:
            self._unargued.add(index)

    def _block_delta(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        index, delta = number(value.get("index")) or 0, mapping(value.get("delta"))
        match delta.get("type"):
            case "text_delta":
                self._content(out, Piece("text", text(delta.get("text")), index))
            case "thinking_delta":
                self._content(out, Piece("reasoning", text(delta.get("thinking")), index))
            case "input_json_delta" if index in self._tools:  # not those that the provider itself calls
                written = text(delta.get("partial_json"))
                self._content(out, Piece("tool", written, index, *self._tools[index]))
                if written:
                    self._unargued.discard(index)

    def _block_stop(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        index = number(value.get("index")) or 0
        if index in self._unargued:  # a call without arguments has no delta that says so
            self._unargued.discard(index)
            out.append(Piece("tool", "{}", index, *self._tools[index]))

    def _delta(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        delta = mapping(value.get("delta"))
        self._usage(mapping(value.get("usage")), out)
        if reason := text(delta.get("stop_reason")):
            self._content(out, Piece("refusal", text(mapping(delta.get("stop_details")).get("explanation"))))
            self._finish(out, _FINISHES.get(reason, "other"), reason, text(delta.get("stop_sequence")))

    def _stop(self, _value: Mapping[str, Any], out: list[Delta]) -> None:
        self._over(out)

    def _failed(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._error(out, value.get("error") or value, as_json(value))

    def _content(self, out: list[Delta], piece: Piece) -> None:
        if piece.text:
            self._had_content = True
            out.append(piece)

    def _usage(self, usage: Mapping[str, Any], out: list[Delta]) -> None:
        """Take counts, each cumulative; input is told in three that do not have each other in them."""
        for counted in _COUNTS:
            count = number(usage.get(counted))
            if count is not None:
                self._counts[counted] = count
        thought = number(mapping(usage.get("output_tokens_details")).get("thinking_tokens"))
        hour = number(mapping(usage.get("cache_creation")).get("ephemeral_1h_input_tokens"))
        if not usage or not self._counts:
            return
        plain, read, written, output = (self._counts.get(counted) for counted in _COUNTS)
        whole = None if plain is None else plain + (read or 0) + (written or 0)
        out.append(Usage(whole, read, written, output, thought, {"cache_write_1h": hour} if hour else {}))

    _READS: ClassVar[Mapping[str, Callable[[_Events, Mapping[str, Any], list[Delta]], None]]] = {
        "message_start": _start,
        "content_block_start": _block_start,
        "content_block_delta": _block_delta,
        "content_block_stop": _block_stop,
        "message_delta": _delta,
        "message_stop": _stop,
        "error": _failed,
    }
