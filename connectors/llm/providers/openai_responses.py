"""OpenAI's responses.

https://platform.openai.com/docs/api-reference/responses-streaming
https://platform.openai.com/docs/guides/background: what goes on though nobody reads it
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote

from connectors.llm.calls import HttpCall
from connectors.llm.deltas import Alive, Failed, Named, Piece, Usage
from connectors.llm.errors import CallRefused
from connectors.llm.framing import clipped
from connectors.llm.provider import Cursor
from connectors.llm.providers.failures import failed_answer
from connectors.llm.providers.messages import (
    Media,
    given,
    is_strict,
    messages_of,
    output_tokens_max,
    request_to,
)
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
from connectors.llm.providers.openai_chat import bearer, tool_choice, usage_details

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connectors.llm.calls import Call, Shape, Target, Tool
    from connectors.llm.deltas import Channel, Delta, Finish
    from connectors.llm.provider import Framing
    from connectors.llm.providers.messages import Message

_INCOMPLETE: Final[Mapping[str, Finish]] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}
"""Any other reason, or none, is no whole answer."""
_ANSWER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""What may stand in an address; an answer of another name is not gone on with."""
_PCM: Final = "audio/pcm;rate=24000"


class OpenAiResponses:
    """The shape; its parts are described by ``connectors.llm.provider.Provider``."""

    shape: Shape = "openai-responses"
    framing: Framing = "sse"

    def request(self, call: Call, target: Target) -> HttpCall:
        """Make the request. Raises CallRefused.

        The provider is asked to store nothing, but what it is to keep (``background``), which it must.
        """
        params = call.params
        for name, value in (("stop", params.stop), ("seed", params.seed)):
            if value not in (None, (), []):
                problem = "openai-responses has none."
                raise CallRefused(f"params.{name}", problem, "Leave it out, or ask by openai-chat.")
        # a summary is all of its reasoning that this provider shows, and only if asked for
        reasoning = {"effort": params.reasoning, "summary": "auto"} if params.reasoning else {}
        body = {
            "model": call.model,
            "input": [item for message in messages_of(call) for item in _items(message)],
            "stream": True,
            "store": call.background,
            **({"background": True} if call.background else {}),
            **given(
                max_output_tokens=params.max_output_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                reasoning=reasoning,
                tools=[_tool(each) for each in call.tools],
                tool_choice=tool_choice(call, lambda name: {"type": "function", "name": name}),
                text=_text_format(call),
            ),
        }
        return request_to(target, "/responses", bearer(target), body)

    def resume(self, cursor: Cursor, target: Target) -> HttpCall:
        """Make the request for all of a background answer that is behind a cursor."""
        after = f"&starting_after={cursor.after}" if cursor.after >= 0 else ""
        path = f"/responses/{quote(cursor.answer_id, safe='')}?stream=true{after}"
        made = request_to(target, path, bearer(target), {})
        return HttpCall(made.url, made.headers, b"", "GET")

    def drop(self, answer_id: str, target: Target) -> HttpCall:
        """Make the request that ends a background answer."""
        return request_to(target, f"/responses/{quote(answer_id, safe='')}/cancel", bearer(target), {})

    def output_tokens_max(self, call: Call) -> int:
        """Give the longest answer."""
        return output_tokens_max(call)

    def named(self, headers: Mapping[str, str]) -> Named:
        """Read the names in the headers."""
        return Named(name_of(headers.get("x-request-id")))

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        """Say what another status than 200 means."""
        return failed_answer(status, headers, body)

    def normaliser(self) -> _Events:
        """Give one for one answer."""
        return _Events()


def _tool(tool: Tool) -> Mapping[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        **given(description=tool.description),
        "parameters": tool.parameters,
        "strict": is_strict(tool.parameters),  # which this shape takes for granted
    }


def _text_format(call: Call) -> Mapping[str, Any]:
    if call.schema is None:
        return {}
    named = {"type": "json_schema", "name": call.schema_name or "answer"}
    return {"format": {**named, "schema": call.schema, "strict": is_strict(call.schema)}}


def _items(message: Message) -> Sequence[Mapping[str, Any]]:
    if message.role == "tool":
        output = message.only_text("openai-responses")
        return [{"type": "function_call_output", "call_id": message.call_id, "output": output}]
    if message.role == "user":
        return [{"role": "user", "content": [_part(part) for part in message.parts]}]
    said = message.only_text("openai-responses")
    return [
        *([{"role": message.role, "content": said}] if said else []),
        *(
            {"type": "function_call", "call_id": use.call_id, "name": use.name, "arguments": use.arguments}
            for use in message.tool_uses
        ),
    ]


def _part(part: str | Media) -> Mapping[str, Any]:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    if part.kind == "image":
        return {"type": "input_image", "image_url": part.data_url, "detail": part.detail or "auto"}
    if part.mime == "application/pdf":
        if part.url:
            return {"type": "input_file", "file_url": part.url}
        return {"type": "input_file", "filename": "document.pdf", "file_data": part.data_url}
    raise part.refused("openai-responses", "Send an image or a PDF, or ask by openai-chat.")


class _Events(Reader):
    """Reads ``response.created`` … ``response.completed``, ``.incomplete`` or ``.failed``."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[tuple[int, int, str], int] = {}
        """Texts and calls that began: (output, part of it, channel) to their number, as they came."""
        self._said: set[int] = set()
        """Those of them of which a piece came."""
        self._items: dict[str, int] = {}
        """Outputs of servers that give no index (llama.cpp): id of the item to its number."""
        self._tools: dict[int, tuple[str, str]] = {}
        """Tool calls: output to (id, name)."""
        self._refused = False
        self._answer_id = ""
        self._last = -1
        """Number of the latest event."""
        self._at_seam = False

    @property
    def cursor(self) -> Cursor | None:
        """See Normaliser; it counts for an answer that was asked for with ``background``."""
        return Cursor(self._answer_id, self._last) if self._answer_id and not self._closed else None

    def reconnected(self) -> None:
        """See Normaliser."""
        self._at_seam = True

    def _is_next(self, value: Mapping[str, Any], out: list[Delta]) -> bool:
        """Whether an event is to be read: behind a seam none comes twice, and none is missing."""
        place = number(value.get("sequence_number"))
        if self._at_seam and place is not None:
            if place <= self._last:
                return False
            if place > self._last + 1:
                self._fail(out, "malformed", f"events {self._last + 1} to {place - 1} are missing")
                return False
            self._at_seam = False
        self._last = self._last if place is None else place
        return True

    def _event(self, event: str, value: Mapping[str, Any], out: list[Delta]) -> None:
        kind = kind_of(event, value)
        if not self._is_next(value, out):
            out.append(Alive(clipped(kind)))
            return
        if channel := _DELTAS.get(kind):
            self._said_piece(channel, value, value.get("delta"), out)
        elif done := _DONES.get(kind):
            self._said_whole(done[0], value, value.get(done[1]), out)
        elif read := self._READS.get(kind):
            read(self, value, out)
        if not out:
            out.append(Alive(clipped(kind)))

    def _output(self, value: Mapping[str, Any]) -> int:
        """Give the number of the output that an event is of."""
        index = number(value.get("output_index"))
        if index is not None:
            return index
        item_id = name_of(value.get("item_id")) or name_of(mapping(value.get("item")).get("id"))
        if item_id not in self._items and len(self._items) >= BLOCKS_MAX:
            return 0
        return self._items.setdefault(item_id, len(self._items))

    def _block(self, channel: Channel, value: Mapping[str, Any], out: list[Delta]) -> int:
        """Give the number of the block that an event is of; a new one may be one too many."""
        part = value.get("summary_index") if "summary_index" in value else value.get("content_index")
        key = (self._output(value), number(part) or 0, channel)
        if key not in self._blocks and len(self._blocks) >= BLOCKS_MAX:
            self._fail(out, "oversized", f"more than {BLOCKS_MAX} blocks")
            return 0
        return self._blocks.setdefault(key, len(self._blocks))

    def _said_piece(
        self, channel: Channel, value: Mapping[str, Any], piece: object, out: list[Delta]
    ) -> None:
        said = text(piece)
        if not said:
            return
        if channel == "tool":
            tool = self._tools.get(self._output(value))
            if tool is None:  # its item did not begin, or is none that the caller runs
                return
            index = self._block(channel, value, out)
            out.append(Piece("tool", said, index, *tool))
        else:
            index = self._block(channel, value, out)
            out.append(Piece(channel, said, index))
        self._said.add(index)
        self._refused = self._refused or channel == "refusal"

    def _said_whole(
        self, channel: Channel, value: Mapping[str, Any], whole: object, out: list[Delta]
    ) -> None:
        """Take what a block has become, which says something new only where no piece of it came."""
        if self._block(channel, value, out) not in self._said:
            self._said_piece(channel, value, whole, out)

    def _begun(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        response = mapping(value.get("response"))
        if _ANSWER_ID.fullmatch(text(response.get("id"))):
            self._answer_id = response["id"]
        self._name(out, response.get("id"), response.get("model"))

    def _item_added(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        item, output = mapping(value.get("item")), self._output(value)
        if item.get("type") not in ("function_call", "custom_tool_call") or output in self._tools:
            return
        call_id = name_of(item.get("call_id")) or name_of(item.get("id")) or f"call_{output}"
        index = self._block("tool", value, out)
        self._tools[output] = (call_id, name_of(item.get("name")))
        out.append(Piece("tool", "", index, *self._tools[output]))

    def _item_done(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        item = mapping(value.get("item"))
        match item.get("type"):
            case "function_call" | "custom_tool_call":
                self._item_added(value, out)
                self._said_whole("tool", value, item.get("arguments") or item.get("input"), out)
            case "image_generation_call":  # pictures before it are drafts, which do not join to a whole
                self._media(out, f"image/{text(item.get('output_format')) or 'png'}", item.get("result"))

    def _sound(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._media(out, _PCM, value.get("delta"))

    def _completed(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._ended(value, out)
        finish: Finish = "tool_calls" if self._tools else "refusal" if self._refused else "stop"
        self._finish(out, finish, "completed")
        self._over(out)

    def _incomplete(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._ended(value, out)
        details = mapping(mapping(value.get("response")).get("incomplete_details"))
        reason = text(details.get("reason")) or "incomplete"
        self._finish(out, _INCOMPLETE.get(reason, "other"), reason)
        self._over(out)

    def _failed(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._ended(value, out)
        response = mapping(value.get("response"))
        self._error(out, response.get("error") or value, as_json(response or value))

    def _erred(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        self.owes = True
        self._error(out, value.get("error") or value, as_json(value))

    def _ended(self, value: Mapping[str, Any], out: list[Delta]) -> None:
        self.owes = False
        self._begun(value, out)
        usage = mapping(mapping(value.get("response")).get("usage"))
        if usage:
            of_input = mapping(usage.get("input_tokens_details"))
            of_output = mapping(usage.get("output_tokens_details"))
            out.append(
                Usage(
                    number(usage.get("input_tokens")),
                    number(of_input.get("cached_tokens")),
                    number(of_input.get("cache_write_tokens")),
                    number(usage.get("output_tokens")),
                    number(of_output.get("reasoning_tokens")),
                    usage_details(of_input, of_output),
                )
            )

    _READS: ClassVar[Mapping[str, Callable[[_Events, Mapping[str, Any], list[Delta]], None]]] = {
        "response.created": _begun,
        "response.queued": _begun,
        "response.in_progress": _begun,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.audio.delta": _sound,
        "response.completed": _completed,
        "response.incomplete": _incomplete,
        "response.failed": _failed,
        "response.cancelled": _failed,
        "error": _erred,
    }


_DELTAS: Final[Mapping[str, Channel]] = {
    "response.output_text.delta": "text",
    "response.audio.transcript.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
    "response.function_call_arguments.delta": "tool",
    "response.custom_tool_call_input.delta": "tool",
}
_DONES: Final[Mapping[str, tuple[Channel, str]]] = {
    "response.output_text.done": ("text", "text"),
    "response.refusal.done": ("refusal", "refusal"),
    "response.reasoning_text.done": ("reasoning", "text"),
    "response.reasoning_summary_text.done": ("reasoning", "text"),
    "response.function_call_arguments.done": ("tool", "arguments"),
    "response.custom_tool_call_input.done": ("tool", "input"),
}
