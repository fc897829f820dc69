"""Ollama's own chat.

https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from connectors.llm.deltas import Failed, Named, Piece, Usage
from connectors.llm.errors import CallRefused
from connectors.llm.providers.failures import failed_answer
from connectors.llm.providers.messages import (
    Media,
    given,
    messages_of,
    output_tokens_max,
    request_to,
    tool_names,
)
from connectors.llm.providers.normalising import Reader, as_json, mapping, name_of, number, objects, text
from connectors.llm.providers.openai_chat import bearer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.calls import Call, HttpCall, Shape, Target, Tool
    from connectors.llm.deltas import Delta, Finish
    from connectors.llm.provider import Framing
    from connectors.llm.providers.messages import Message

_FINISHES: Final[Mapping[str, Finish]] = {"stop": "stop", "length": "length"}
"""Any other is no whole answer: ``unload`` is of a model that was taken out of memory."""


class Ollama:
    """The shape; its parts are described by ``connectors.llm.provider.Provider``."""

    shape: Shape = "ollama"
    framing: Framing = "ndjson"

    def request(self, call: Call, target: Target) -> HttpCall:
        """Make the request; usage comes unasked for. Raises CallRefused."""
        params, messages = call.params, messages_of(call)
        if params.tool_choice not in ("", "auto", "none"):
            problem = f"ollama cannot be told to call {params.tool_choice!r:.80}."
            raise CallRefused("params.tool_choice", problem, "Leave it out, or ask another provider.")
        names = tool_names(messages)
        body = {
            "model": call.model,
            "messages": [_written(each, names) for each in messages],
            "stream": True,
            **given(
                think=params.reasoning,
                format=call.schema,
                tools=[_tool(each) for each in call.tools] if params.tool_choice != "none" else [],
                options=given(
                    num_predict=params.max_output_tokens,
                    temperature=params.temperature,
                    top_p=params.top_p,
                    stop=list(params.stop),
                    seed=params.seed,
                ),
            ),
        }
        headers = {"accept": "application/x-ndjson", **bearer(target)}
        return request_to(target, "/api/chat", headers, body)

    def output_tokens_max(self, call: Call) -> int:
        """Give the longest answer."""
        return output_tokens_max(call)

    def named(self, headers: Mapping[str, str]) -> Named:
        """Read the names in the headers: only what stands before it gives one."""
        return Named(headers.get("x-request-id", ""))

    def failed(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        """Say what another status than 200 means."""
        return failed_answer(status, headers, body)

    def normaliser(self) -> _Lines:
        """Give one for one answer."""
        return _Lines()


def _tool(tool: Tool) -> Mapping[str, Any]:
    function = {"name": tool.name, **given(description=tool.description), "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _written(message: Message, names: Mapping[str, str]) -> Mapping[str, Any]:
    images = [_image(part) for part in message.parts if isinstance(part, Media)]
    if message.role != "user":
        message.only_text("ollama")
    calls = [{"function": {"name": use.name, "arguments": use.object}} for use in message.tool_uses]
    said = "".join(part for part in message.parts if isinstance(part, str))
    answered = given(tool_call_id=message.call_id, tool_name=names.get(message.call_id))
    return {"role": message.role, "content": said, **given(images=images, tool_calls=calls), **answered}


def _image(part: Media) -> str:
    if part.kind != "image" or part.url:
        raise part.refused("ollama", "Send an image as data.")
    return part.data


class _Lines(Reader):
    """Reads a line each; the last has ``done``."""

    def __init__(self) -> None:
        super().__init__()
        self._call_count = 0

    def _event(self, _event: str, value: Mapping[str, Any], out: list[Delta]) -> None:
        self._name(out, "", value.get("model"))
        message = mapping(value.get("message"))
        self._piece(out, "reasoning", message.get("thinking"), 0)
        self._piece(out, "text", message.get("content"), 0)
        for call in objects(message.get("tool_calls")):
            function = mapping(call.get("function"))
            call_id = name_of(call.get("id")) or f"call_{self._call_count}"
            self._call_count += 1
            arguments = as_json(mapping(function.get("arguments")))
            out.append(Piece("tool", arguments, 0, call_id, name_of(function.get("name"))))
        counts = (number(value.get("prompt_eval_count")), number(value.get("eval_count")))
        if counts != (None, None):
            out.append(Usage(input_tokens=counts[0], output_tokens=counts[1]))
        if error := value.get("error"):
            self._error(out, error, as_json(value))
        elif value.get("done") is True:
            self._done(text(value.get("done_reason")), out)

    def _done(self, reason: str, out: list[Delta]) -> None:
        finish = _FINISHES.get(reason or "stop", "other")  # versions before 0.2 give no reason
        self._finish(out, "tool_calls" if self._call_count and finish == "stop" else finish, reason or "done")
        self._over(out)
