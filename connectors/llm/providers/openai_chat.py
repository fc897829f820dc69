"""OpenAI's chat completions, and all that answers in their shape (vLLM, llama.cpp, OpenRouter, Groq, …).

https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from connectors.llm.deltas import Failed, Named, Piece, Usage
from connectors.llm.errors import CallRefused
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
    details_of,
    mapping,
    name_of,
    number,
    objects,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.llm.calls import Call, HttpCall, Shape, Target
    from connectors.llm.deltas import Delta, Detail, Finish
    from connectors.llm.provider import Framing
    from connectors.llm.providers.messages import Message

_FINISHES: Final[Mapping[str, Finish]] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",  # Zhipu's
}
"""Any other, as ``abort`` of vLLM and SGLang, is no whole answer."""
_BROKEN: Final[Mapping[str, str]] = {
    "error": "server_error",
    "insufficient_system_resource": "overloaded",
    "network_error": "server_error",
}
"""Reasons by which an answer was given up (OpenRouter's, DeepSeek's, Zhipu's), and the errors they are."""
_SOUNDS: Final = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_PCM: Final = "audio/pcm;rate=24000"
"""16 bits, one channel: the only format that a streamed answer comes in."""


class OpenAiChat:
    """The shape; its parts are described by ``connectors.llm.provider.Provider``."""

    shape: Shape = "openai-chat"
    framing: Framing = "sse"

    def request(self, call: Call, target: Target) -> HttpCall:
        """Make the request. Raises CallRefused."""
        params = call.params
        body = {
            "model": call.model,
            "messages": [_written(each) for each in messages_of(call)],
            "stream": True,
            "stream_options": {"include_usage": True},
            **given(
                temperature=params.temperature,
                top_p=params.top_p,
                stop=list(params.stop),
                seed=params.seed,
                reasoning_effort=params.reasoning,
                tools=[_tool(each.name, each.description, each.parameters) for each in call.tools],
                tool_choice=tool_choice(call, lambda name: {"type": "function", "function": {"name": name}}),
                response_format=_response_format(call),
            ),
        }
        if params.max_output_tokens is not None:
            # OpenAI refuses the old name for its reasoning models; most others know only that one
            host = "." + (urlsplit(target.base_url).hostname or "")
            own = host.endswith((".openai.com", ".openai.azure.com"))
            body["max_completion_tokens" if own else "max_tokens"] = params.max_output_tokens
        return request_to(target, "/chat/completions", bearer(target), body)

    def output_tokens_max(self, call: Call) -> int:
        """Give the longest answer."""
        return output_tokens_max(call)

    def named(self, headers: Mapping[str, str]) -> Named:
        """Read the names in the headers."""
        return Named(name_of(headers.get("x-request-id")) or name_of(headers.get("x-generation-id")))

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        """Say what another status than 200 means."""
        return failed_answer(status, headers, body)

    def normaliser(self) -> _Chunks:
        """Give one for one answer."""
        return _Chunks()


def bearer(target: Target) -> dict[str, str]:
    """Give the header of a key, if there is one."""
    return {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}


def tool_choice(call: Call, named: Any) -> Any:
    """Give a choice of tools in OpenAI's words; ``named`` writes that of one tool. Raises CallRefused."""
    choice = call.params.tool_choice
    if choice in ("", "auto", "none"):
        return choice if call.tools else ""
    if choice == "required" and call.tools:
        return choice
    if choice not in [each.name for each in call.tools]:
        raise CallRefused("params.tool_choice", f"{choice!r:.80} names no tool of the call.")
    return named(choice)


def _response_format(call: Call) -> Mapping[str, Any]:
    if call.schema is None:
        return {}
    name = call.schema_name or "answer"
    schema = {"name": name, "schema": call.schema, "strict": is_strict(call.schema)}
    return {"type": "json_schema", "json_schema": schema}


def _tool(name: str, description: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    function = {"name": name, **given(description=description), "parameters": parameters}
    return {"type": "function", "function": function}


def _written(message: Message) -> Mapping[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id, "content": message.only_text("openai-chat")}
    if message.role != "user":
        calls = [
            {
                "id": use.call_id,
                "type": "function",
                "function": {"name": use.name, "arguments": use.arguments},
            }
            for use in message.tool_uses
        ]
        content = message.only_text("openai-chat") or (None if calls else "")
        return {"role": message.role, "content": content, **given(tool_calls=calls, name=message.name)}
    only_text = all(isinstance(part, str) for part in message.parts)
    said = message.only_text("openai-chat") if only_text else [_part(part) for part in message.parts]
    return {"role": "user", "content": said, **given(name=message.name)}


def _part(part: str | Media) -> Mapping[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.data_url, **given(detail=part.detail)}}
    if part.data and part.mime in _SOUNDS:
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": _SOUNDS[part.mime]}}
    if part.data and part.mime == "application/pdf":
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": part.data_url}}
    raise part.refused("openai-chat", "Send an image, or WAV, MP3 or PDF as data.")


class _Chunks(Reader):
    """Reads ``chat.completion.chunk`` objects."""

    ends_unsaid = True  # some servers close without [DONE]

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[tuple[int, int], tuple[str, str]] = {}
        """Tool calls: (choice, index) to (id, name)."""
        self._call_count = 0
        self._unfinished: set[int] = set()
        """Choices that began and have not said why they finished."""
        self._refused = False

    def _other(self, event: str, data: str, out: list[Delta]) -> None:
        if data.strip() == "[DONE]":
            self._over(out)
        else:
            super()._other(event, data, out)

    def _event(self, event: str, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._name(out, value.get("id"), value.get("model"))
        groq = mapping(value.get("x_groq"))
        usage = mapping(value.get("usage")) or mapping(groq.get("usage"))
        if usage:
            out.append(_usage(usage))
        error = value.get("error") or groq.get("error")
        for choice in objects(value.get("choices")):
            self._choice(choice, out)
            if (reason := text(choice.get("finish_reason"))) in _BROKEN:
                error = error or choice.get("error") or {"code": _BROKEN[reason], "message": reason}
        if error or event == "error" or value.get("object") == "error":
            self._error(out, error or value, as_json(value))

    def _choice(self, choice: Mapping[str, Any], out: list[Delta]) -> None:
        index = number(choice.get("index")) or 0
        if index >= BLOCKS_MAX:
            self._fail(out, "malformed", f"choice {index}")
            return
        before = len(out)
        # beside a delta, some repeat the whole message so far
        delta = mapping(choice.get("delta" if "delta" in choice else "message"))
        if delta.get("reasoning") and delta.get("reasoning_content"):  # the same under two names
            delta = {part: said for part, said in delta.items() if part != "reasoning"}
        for part, said in delta.items():
            if said and (read := self._READS.get(part)):
                read(self, said, index, out)
        if len(out) > before:
            self._unfinished.add(index)
        reason = text(choice.get("finish_reason"))
        if reason and reason not in _BROKEN:
            self._unfinished.discard(index)
            finish = _FINISHES.get(reason, "other")
            finish = "refusal" if self._refused and finish == "stop" else finish
            self._finish(out, finish, reason, text(choice.get("stop_reason")))  # vLLM's

    def _over(self, out: list[Delta]) -> None:
        if self._unfinished:
            self._fail(out, "truncated", "the answer ended without a finish_reason")
        else:
            super()._over(out)

    def _content(self, content: object, index: int, out: list[Delta]) -> None:
        self._piece(out, "text", content, index)
        for part in objects(content):  # Mistral's
            for thought in objects(part.get("thinking")):
                self._piece(out, "reasoning", thought.get("text"), index)
            self._piece(out, "text", part.get("text"), index)

    def _reasoning(self, reasoning: object, index: int, out: list[Delta]) -> None:
        self._piece(out, "reasoning", reasoning, index)

    def _refusal(self, refusal: object, index: int, out: list[Delta]) -> None:
        self._piece(out, "refusal", refusal, index)
        self._refused = self._refused or isinstance(refusal, str)

    def _tool_calls(self, calls: object, index: int, out: list[Delta]) -> None:
        for call in objects(calls):
            self._call(call, index, out)

    def _function_call(self, function: object, index: int, out: list[Delta]) -> None:
        self._call({"index": 0, "function": function}, index, out)

    def _audio(self, audio: object, index: int, out: list[Delta]) -> None:
        self._piece(out, "text", mapping(audio).get("transcript"), index)
        self._media(out, _PCM, mapping(audio).get("data"))

    def _images(self, images: object, _index: int, out: list[Delta]) -> None:  # OpenRouter's
        for image in objects(images):
            url = text(mapping(image.get("image_url")).get("url"))
            head, _, data = url.partition(";base64,")
            if data and head.startswith("data:"):
                self._media(out, head.removeprefix("data:"), data)
            else:
                self._media(out, "image/*", "", url)

    def _call(self, call: Mapping[str, Any], choice: int, out: list[Delta]) -> None:
        key = (choice, number(call.get("index")) or 0)
        function = mapping(call.get("function"))
        call_id, tool = name_of(call.get("id")), name_of(function.get("name"))
        known_id, known_tool = self._calls.get(key, ("", ""))
        # servers that count no index tell calls apart by their ids alone
        new = not known_id or bool(call_id and call_id != known_id)
        if new:
            if self._call_count >= BLOCKS_MAX:
                self._fail(out, "oversized", f"more than {BLOCKS_MAX} tool calls")
                return
            known_id, known_tool = call_id or f"call_{self._call_count}", ""
            self._call_count += 1
        self._calls[key] = (known_id, tool or known_tool)
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = as_json(arguments)
        if new or text(arguments):
            out.append(Piece("tool", text(arguments), choice, *self._calls[key]))

    _READS: ClassVar[Mapping[str, Callable[[_Chunks, object, int, list[Delta]], None]]] = {
        "content": _content,
        "reasoning": _reasoning,
        "reasoning_content": _reasoning,
        "refusal": _refusal,
        "tool_calls": _tool_calls,
        "function_call": _function_call,
        "audio": _audio,
        "images": _images,
    }


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Read usage; output has its reasoning in it, but for some (xAI) whose total shows that it has not."""
    prompt, completion = number(usage.get("prompt_tokens")), number(usage.get("completion_tokens"))
    details = mapping(usage.get("prompt_tokens_details"))
    cached = number(details.get("cached_tokens"))
    if cached is None:
        cached = number(usage.get("prompt_cache_hit_tokens"))  # DeepSeek's
    of_output = mapping(usage.get("completion_tokens_details"))
    reasoning = number(of_output.get("reasoning_tokens"))
    total = number(usage.get("total_tokens"))
    if reasoning and None not in (prompt, completion, total):
        assert prompt is not None
        assert completion is not None
        if total == prompt + completion + reasoning:
            completion += reasoning
    written = number(details.get("cache_write_tokens"))
    return Usage(prompt, cached, written, completion, reasoning, usage_details(details, of_output))


def usage_details(of_input: Mapping[str, Any], of_output: Mapping[str, Any]) -> dict[Detail, int]:
    """Give what of the tokens is sound, pictures and videos, in whichever of OpenAI's shapes."""
    of_cached = mapping(of_input.get("cached_tokens_details"))
    return {
        **details_of("input", of_input),
        **details_of("cached", of_cached),
        **details_of("output", of_output),
    }
