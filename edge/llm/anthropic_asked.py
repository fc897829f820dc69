"""Anthropic's messages: what their clients ask."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import ConfigDict, Discriminator, Field, Tag

from edge.llm.asked import (
    MESSAGES_MAX,
    PARTS_MAX,
    TOOLS_MAX,
    Asked,
    Called,
    JsonObject,
    Name,
    Shape,
    Text,
    read,
    refused,
    shaped,
)
from edge.llm.question import Extras, Question

_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_BUDGET_LOW, _BUDGET_MEDIUM = 2_048, 16_384
"""Tokens of thinking up to which an effort is low, or medium: ours has three steps, theirs is a number."""


class _Loose(Shape):
    """A part of a conversation: clients send back what they were given, with members of no meaning here."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)


class _Text(_Loose):
    type: Literal["text"]
    text: Text


class _Base64(_Loose):
    type: Literal["base64"]
    media_type: Name
    data: str


class _Url(_Loose):
    type: Literal["url"]
    url: str


def _tag(value: object) -> str:
    return f"<{value.get('type')}>" if isinstance(value, dict) else ""


def _content(value: object) -> str:
    return "<text>" if isinstance(value, str) else "<blocks>"


def _one_of(*names: str) -> Discriminator:
    told = f"must be an object of type {', '.join(names)}"
    return Discriminator(_tag, custom_error_type="block", custom_error_message=told)


class _Image(_Loose):
    type: Literal["image"]
    source: Annotated[
        Annotated[_Base64, Tag("<base64>")] | Annotated[_Url, Tag("<url>")], _one_of("base64", "url")
    ]


class _ToolUse(_Loose):
    type: Literal["tool_use"]
    id: Called
    name: Called
    input: JsonObject


class _Thought(_Loose):
    """What a model thought is not said to another: its signature holds for one provider alone."""

    type: Literal["thinking", "redacted_thinking"]


_Shown = Annotated[
    Annotated[_Text, Tag("<text>")] | Annotated[_Image, Tag("<image>")], _one_of("text", "image")
]
_Texts = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[_Text], Field(max_length=PARTS_MAX), Tag("<blocks>")],
    Discriminator(_content),
]


class _ToolResult(_Loose):
    type: Literal["tool_result"]
    tool_use_id: Called
    is_error: bool | None = None
    content: Annotated[
        Annotated[Text, Tag("<text>")]
        | Annotated[list[_Shown], Field(max_length=PARTS_MAX), Tag("<blocks>")],
        Discriminator(_content),
    ] = ""


_Block = Annotated[
    Annotated[_Text, Tag("<text>")]
    | Annotated[_Image, Tag("<image>")]
    | Annotated[_ToolUse, Tag("<tool_use>")]
    | Annotated[_ToolResult, Tag("<tool_result>")]
    | Annotated[_Thought, Tag("<thinking>")]
    | Annotated[_Thought, Tag("<redacted_thinking>")],
    _one_of("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"),
]


class _Message(_Loose):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[Text, Tag("<text>")]
        | Annotated[list[_Block], Field(max_length=PARTS_MAX), Tag("<blocks>")],
        Discriminator(_content),
    ]


class _Tool(_Loose):
    type: Literal["custom"] | None = None
    name: Name
    description: Text = ""
    input_schema: JsonObject


class _ToolChoice(_Loose):
    type: Literal["auto", "any", "none", "tool"]
    name: Name | None = None


class _Thinking(_Loose):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int = 0


class _Format(_Loose):
    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class _Output(_Loose):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class MessagesRequest(Shape):
    """The body of ``POST /v1/messages``."""

    model: Name
    messages: list[_Message] = Field(max_length=MESSAGES_MAX)
    max_tokens: int
    system: _Texts | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None
    thinking: _Thinking | None = None
    output_config: _Output | None = None
    tools: list[_Tool] | None = Field(default=None, max_length=TOOLS_MAX)
    tool_choice: _ToolChoice | None = None
    sluicegate: Extras = Extras()
    # Of no meaning here.
    metadata: Any = None
    service_tier: Any = None
    cache_control: Any = None
    inference_geo: Any = None
    # They would change the answer.
    top_k: Any = None
    container: Any = None
    mcp_servers: Any = None


def question_of(body: bytes) -> Question:
    """Read a body. Raises RequestError, with the ``field`` in their names."""
    request = read(MessagesRequest, body)
    for name in ("top_k", "container", "mcp_servers"):
        if getattr(request, name):
            raise refused(name, "is not handed on to providers here")
    extras, output = request.sluicegate, request.output_config
    fields: dict[str, Any] = {
        **extras.asked(),
        "model": request.model,
        "messages": _messages(request),
        "tools": [
            {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
            for tool in request.tools or ()
        ],
        "params": _params(request),
    }
    if output is not None and output.format is not None:
        fields["schema"] = output.format.schema_
    return Question(
        shaped(Asked, fields),
        request.model,
        streamed=bool(request.stream),
        include_usage=True,
        extras=extras,
    )


def _params(request: MessagesRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if choice is not None and choice.type == "tool" and choice.name is None:
        raise refused("tool_choice.name", "says which tool, where the type is tool")
    return {
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": request.stop_sequences or [],
        "reasoning": _reasoning(request),
        "tool_choice": "" if choice is None else _CHOICES.get(choice.type) or choice.name or "",
    }


def _reasoning(request: MessagesRequest) -> str:
    output, thinking = request.output_config, request.thinking
    if thinking is None or thinking.type == "disabled":
        return ""
    if output is not None and output.effort is not None:
        return _EFFORTS[output.effort]
    if thinking.type != "enabled":
        return "medium"
    return (
        "low"
        if thinking.budget_tokens <= _BUDGET_LOW
        else "medium"
        if thinking.budget_tokens <= _BUDGET_MEDIUM
        else "high"
    )


def _messages(request: MessagesRequest) -> list[dict[str, Any]]:
    system = request.system
    said = [{"role": "system", "content": _plain(system)}] if system else []
    for message in request.messages:
        said += _turns(message)
    return said


def _turns(message: _Message) -> list[dict[str, Any]]:
    """Make turns of one of theirs: what tools gave stands in a user's there, and is a turn here."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results = [
        {
            "role": "tool",
            "tool_call_id": block.tool_use_id,
            "content": _parts(block.content),
            "is_error": bool(block.is_error),
        }
        for block in message.content
        if isinstance(block, _ToolResult)
    ]
    calls = [
        {"id": block.id, "name": block.name, "arguments": orjson.dumps(block.input).decode()}
        for block in message.content
        if isinstance(block, _ToolUse)
    ]
    shown = _parts([block for block in message.content if isinstance(block, _Text | _Image)])
    if not shown and not calls:
        return results
    return [*results, {"role": message.role, "content": shown, **({"tool_calls": calls} if calls else {})}]


def _parts(content: str | list[_Text | _Image]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if all(isinstance(block, _Text) for block in content) and len(content) <= 1:
        return _plain(content)
    return [_part(block) for block in content]


def _plain(content: str | list[Any]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _part(block: _Text | _Image) -> dict[str, Any]:
    if isinstance(block, _Text):
        return {"type": "text", "text": block.text}
    source = block.source
    if isinstance(source, _Url):
        return {"type": "media", "mime": "image/*", "url": source.url}
    return {"type": "media", "mime": source.media_type, "data": source.data}
