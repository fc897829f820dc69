"""Google's Gemini, ``streamGenerateContent`` as server-sent events.

https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import mimetypes
import re
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlsplit

from connectors.llm.deltas import Failed, Named, Piece, Usage
from connectors.llm.errors import CallRefused
from connectors.llm.kept import named_plainly
from connectors.llm.providers.failures import failed_answer
from connectors.llm.providers.messages import (
    Media,
    given,
    messages_of,
    output_tokens_max,
    request_to,
    tool_names,
)
from connectors.llm.providers.normalising import (
    BLOCKS_MAX,
    MODALITIES,
    Reader,
    as_json,
    mapping,
    name_of,
    number,
    objects,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.calls import Call, HttpCall, Shape, Target, Tool
    from connectors.llm.deltas import Delta, Detail, Finish
    from connectors.llm.provider import Framing
    from connectors.llm.providers.messages import Message

_THINKING_BUDGETS: Final = {"low": 1_024, "medium": 8_192, "high": 24_576}
"""Tokens, as Google's own OpenAI-compatible endpoint translates its efforts for Gemini 2.5."""
_BY_BUDGET: Final = re.compile(r"gemini-2\.")
_NO_SIGNATURE: Final = "skip_thought_signature_validator"
"""Google's word for a call of a tool whose signature is not at hand: our messages carry none, and Gemini 3
asks for one, https://ai.google.dev/gemini-api/docs/thought-signatures."""
_FINISHES: Final[Mapping[str, Finish]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
}
_BROKEN: Final = frozenset(
    {
        "OTHER",
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "IMAGE_OTHER",
        "NO_IMAGE",
    }
)
"""Reasons by which an answer was given up, not finished: asked again it may come."""
_DETAILS: Final = (
    ("promptTokensDetails", "input"),
    ("toolUsePromptTokensDetails", "input"),
    ("cacheTokensDetails", "cached"),
    ("candidatesTokensDetails", "output"),
)
"""Lists of counts by modality, and what they are counts of."""


class Gemini:
    """The shape; its parts are described by ``connectors.llm.provider.Provider``."""

    shape: Shape = "gemini"
    framing: Framing = "sse"

    def request(self, call: Call, target: Target) -> HttpCall:
        """Make the request; usage comes unasked for. Raises CallRefused."""
        params, messages = call.params, messages_of(call)
        system = "\n\n".join(each.only_text("gemini") for each in messages if each.role == "system")
        config = given(
            maxOutputTokens=params.max_output_tokens,
            temperature=params.temperature,
            topP=params.top_p,
            stopSequences=list(params.stop),
            seed=params.seed,
            thinkingConfig=_thinking(call.model, params.reasoning),
        )
        if call.schema is not None:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": call.schema}
        body = {
            "contents": _contents([each for each in messages if each.role != "system"]),
            **given(
                systemInstruction={"parts": [{"text": system}]} if system else None,
                generationConfig=config,
                tools=[{"functionDeclarations": [_tool(each) for each in call.tools]}] if call.tools else [],
                toolConfig=_tool_config(call),
            ),
        }
        model = quote(call.model.removeprefix("models/"), safe="")
        path = f"/models/{model}:streamGenerateContent?alt=sse"
        return request_to(target, path, given(**{"x-goog-api-key": target.api_key}), body)

    def output_tokens_max(self, call: Call) -> int:
        """Give the longest answer: what is thought counts as output."""
        return output_tokens_max(call, _thinking(call.model, call.params.reasoning).get("thinkingBudget", 0))

    def named(self, headers: Mapping[str, str]) -> Named:
        """Read the names in the headers: only what stands before it gives one there."""
        return Named(name_of(headers.get("x-request-id")))

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        """Say what another status than 200 means."""
        return failed_answer(status, headers, body)

    def normaliser(self) -> _Chunks:
        """Give one for one answer."""
        return _Chunks()


def _thinking(model: str, reasoning: str) -> Mapping[str, Any]:
    if not reasoning:
        return {}
    if _BY_BUDGET.search(model):
        return {"includeThoughts": True, "thinkingBudget": _THINKING_BUDGETS[reasoning]}
    return {"includeThoughts": True, "thinkingLevel": reasoning}


def _tool(tool: Tool) -> Mapping[str, Any]:
    return {
        "name": tool.name,
        **given(description=tool.description),
        **given(parametersJsonSchema=tool.parameters),
    }


def _tool_config(call: Call) -> Mapping[str, Any]:
    choice = call.params.tool_choice
    if choice in ("", "auto", "none"):
        config: Mapping[str, Any] = {"mode": choice.upper()} if choice and call.tools else {}
    elif choice == "required" and call.tools:
        config = {"mode": "ANY"}
    elif choice in [each.name for each in call.tools]:
        config = {"mode": "ANY", "allowedFunctionNames": [choice]}
    else:
        raise CallRefused("params.tool_choice", f"{choice!r:.80} names no tool of the call.")
    return given(functionCallingConfig=config)


def _contents(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Write the messages; answers of tools are the user's, and those that follow one another are one turn."""
    names, contents, answering = tool_names(messages), list[dict[str, Any]](), False
    for message in messages:
        if message.role == "tool":
            name = names.get(message.call_id)
            if name is None:
                raise CallRefused(f"{message.where}.tool_call_id", "answers no call of a message before.")
            said = {"error" if message.is_error else "result": message.only_text("gemini")}
            response = {"name": name, "response": said}
            part = {"functionResponse": {"id": message.call_id, **response}}
            if answering:
                contents[-1]["parts"].append(part)
            else:
                contents.append({"role": "user", "parts": [part]})
        elif message.role == "user":
            contents.append({"role": "user", "parts": [_part(part) for part in message.parts]})
        else:
            contents.append({"role": "model", "parts": _said(message)})
        answering = message.role == "tool"
    return contents


def _said(message: Message) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"text": said}] if (said := message.only_text("gemini")) else []
    for number_of, use in enumerate(message.tool_uses):
        called = {"functionCall": {"id": use.call_id, "name": use.name, "args": use.object}}
        parts.append({**called, **({} if number_of else {"thoughtSignature": _NO_SIGNATURE})})
    return parts


def _part(part: str | Media) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    if part.url:
        mime = part.mime
        if mime.endswith("/*"):  # Gemini wants to be told what it will find
            known, _ = mimetypes.guess_type(urlsplit(part.url).path)
            if known is None:
                raise part.refused("gemini", "Say its media type, or send it as data.")
            mime = known
        return {"fileData": {"mimeType": mime, "fileUri": part.url}}
    return {"inlineData": {"mimeType": part.mime, "data": part.data}}


class _Chunks(Reader):
    """Reads ``GenerateContentResponse`` objects."""

    ends_unsaid = True  # it has no end mark
    lists = True  # its errors are, and its answers where alt=sse is not heeded

    def __init__(self) -> None:
        super().__init__()
        self._call_count = 0
        self._unfinished: set[int] = set()
        """Candidates whose latest content came without a reason to finish."""

    def _event(self, event: str, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._name(out, value.get("responseId"), value.get("modelVersion"))
        if usage := mapping(value.get("usageMetadata")):
            out.append(_usage(usage))
        for candidate in objects(value.get("candidates")):
            self._candidate(candidate, out)
        if reason := text(mapping(value.get("promptFeedback")).get("blockReason")):
            self._finish(out, "content_filter", reason)
        if error := value.get("error") or (event == "error" and value):
            self._error(out, error, as_json(value))

    def _candidate(self, candidate: Mapping[str, Any], out: list[Delta]) -> None:
        index = number(candidate.get("index")) or 0
        if index >= BLOCKS_MAX:
            self._fail(out, "malformed", f"candidate {index}")
            return
        for part in objects(mapping(candidate.get("content")).get("parts")):
            self._part(part, index, out)
            self._unfinished.add(index)
        reason = text(candidate.get("finishReason"))
        if reason in _BROKEN:
            said = f"{reason} {text(candidate.get('finishMessage'))}".strip()
            self._fail(out, "server", said, named_plainly(reason))
        elif reason:
            self._unfinished.discard(index)
            finish = _FINISHES.get(reason, "other")
            self._finish(out, "tool_calls" if self._call_count and finish == "stop" else finish, reason)

    def _part(self, part: Mapping[str, Any], index: int, out: list[Delta]) -> None:
        self._piece(out, "reasoning" if part.get("thought") is True else "text", part.get("text"), index)
        if called := mapping(part.get("functionCall")):
            call_id = name_of(called.get("id")) or f"call_{self._call_count}"
            self._call_count += 1
            arguments = as_json(mapping(called.get("args")))
            out.append(Piece("tool", arguments, index, call_id, name_of(called.get("name"))))
        inline, kept = mapping(part.get("inlineData")), mapping(part.get("fileData"))
        if inline or kept:
            mime = name_of((inline or kept).get("mimeType")) or "application/octet-stream"
            self._media(out, mime, inline.get("data"), kept.get("fileUri"))

    def eof(self) -> Sequence[Delta]:
        """Take the end of the body, which is the end mark if the last content said why it finished."""
        if self._unfinished:
            self._finished = False
        return super().eof()


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Read counts so far; cached tokens are in the prompt's, thoughts and what tools sent stand apart."""
    prompt, total = number(usage.get("promptTokenCount")), number(usage.get("totalTokenCount"))
    answered, thought = number(usage.get("candidatesTokenCount")), number(usage.get("thoughtsTokenCount"))
    sent = None if prompt is None else prompt + (number(usage.get("toolUsePromptTokenCount")) or 0)
    output: int | None = None
    if answered is not None or thought is not None:
        output = (answered or 0) + (thought or 0)
    elif total is not None and sent is not None and total >= sent:
        output = total - sent
    cached = number(usage.get("cachedContentTokenCount"))
    return Usage(sent, cached, None, output, thought, _details(usage))


def _details(usage: Mapping[str, Any]) -> dict[Detail, int]:
    """Read what of the counts is sound, pictures and videos; a modality that a list leaves out has none."""
    found: dict[Detail, int] = {}
    for listed, side in _DETAILS:
        for each in objects(usage.get(listed)):
            modality, count = text(each.get("modality")).lower(), number(each.get("tokenCount"))
            if modality in MODALITIES and count:
                name = cast("Detail", f"{side}_{modality}")
                found[name] = found.get(name, 0) + count
    if objects(usage.get("cacheTokensDetails")):
        for modality in MODALITIES:
            if f"input_{modality}" in found:
                found.setdefault(cast("Detail", f"cached_{modality}"), 0)
    return found
