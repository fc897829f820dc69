"""OpenAI's chat completions: what their clients ask.

A field that would change the answer and cannot be handed on is refused, unless it says what is so anyway;
what changes nothing here is passed over.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from edge.llm.asked import (
    CALLS_MAX,
    MESSAGES_MAX,
    PARTS_MAX,
    TOOLS_MAX,
    Asked,
    Called,
    JsonObject,
    Label,
    Name,
    Shape,
    Speaker,
    Text,
    read,
    refused,
    shaped,
)
from edge.llm.question import Extras, Question

_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_REASONING: Final = {"none": "", "minimal": "low", "xhigh": "high", "max": "high"}
_AS_IF_ABSENT: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "functions": ([],),
    "function_call": (),
    "moderation": (),
    "verbosity": ("medium",),
}
"""Fields that cannot be handed on, with the values that ask for nothing."""


class _Loose(Shape):
    """A part of a conversation: clients send back what they were given, with members of no meaning here."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)


class _Text(_Loose):
    type: Literal["text"]
    text: Text


class _Refusal(_Loose):
    type: Literal["refusal"]
    refusal: Text


class _Url(_Loose):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class _Image(_Loose):
    type: Literal["image_url"]
    image_url: _Url


class _Sound(_Loose):
    data: str
    format: Literal["wav", "mp3"]


class _Audio(_Loose):
    type: Literal["input_audio"]
    input_audio: _Sound


def _tag(value: object) -> str:
    return f"<{value.get('type')}>" if isinstance(value, dict) else ""


def _content(value: object) -> str:
    return "<none>" if value is None else "<text>" if isinstance(value, str) else "<parts>"


_Part = Annotated[
    Annotated[_Text, Tag("<text>")]
    | Annotated[_Refusal, Tag("<refusal>")]
    | Annotated[_Image, Tag("<image_url>")]
    | Annotated[_Audio, Tag("<input_audio>")],
    Discriminator(
        _tag,
        custom_error_type="part",
        custom_error_message="must be an object of type text, refusal, image_url or input_audio",
    ),
]


class _Function(_Loose):
    name: Called
    arguments: Text


class _Call(_Loose):
    id: Called
    type: Literal["function"] = "function"
    function: _Function


class _Message(_Loose):
    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: Annotated[
        Annotated[None, Tag("<none>")]
        | Annotated[Text, Tag("<text>")]
        | Annotated[list[_Part], Field(max_length=PARTS_MAX), Tag("<parts>")],
        Discriminator(_content),
    ] = None
    tool_calls: list[_Call] | None = Field(default=None, max_length=CALLS_MAX)
    tool_call_id: str = Field(default="", max_length=256)
    name: Speaker | None = None


class _Declared(_Loose):
    name: Name
    description: Text | None = None
    parameters: JsonObject | None = None


class _Tool(Shape):
    type: Literal["function"]
    function: _Declared


class _Choice(_Loose):
    type: Literal["function"]
    function: _Chosen


class _Chosen(_Loose):
    name: Name


class _Schema(_Loose):
    name: Label = ""
    schema_: JsonObject = Field(default={}, alias="schema")


class _Format(_Loose):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _Schema | None = None


class _StreamOptions(_Loose):
    include_usage: bool | None = None


class ChatRequest(Shape):
    """The body of ``POST /v1/chat/completions``."""

    model: Name
    messages: list[_Message] = Field(max_length=MESSAGES_MAX)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    tools: list[_Tool] | None = Field(default=None, max_length=TOOLS_MAX)
    tool_choice: Literal["none", "auto", "required"] | _Choice | None = None
    response_format: _Format | None = None
    sluicegate: Extras = Extras()
    # Of no meaning here.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    # They would change the answer; see _AS_IF_ABSENT.
    n: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    functions: Any = None
    function_call: Any = None
    moderation: Any = None
    verbosity: Any = None


def question_of(body: bytes) -> Question:
    """Read a body. Raises RequestError, with the ``field`` in their names."""
    request = read(ChatRequest, body)
    for name, harmless in _AS_IF_ABSENT.items():
        value = getattr(request, name)
        if value is not None and value not in harmless:
            raise refused(name, "is not handed on to providers here")
    extras = request.sluicegate
    fields: dict[str, Any] = {
        **extras.asked(),
        "model": request.model,
        "messages": [_message(message) for message in request.messages],
        "tools": [_tool(tool) for tool in request.tools or ()],
        "params": _params(request),
    }
    if (wanted := request.response_format) is not None and wanted.type != "text":
        schema = wanted.json_schema
        fields["schema"] = schema.schema_ if schema is not None else {"type": "object"}
        fields["schema_name"] = schema.name if schema is not None else ""
    options = request.stream_options
    return Question(
        shaped(Asked, fields),
        request.model,
        streamed=bool(request.stream),
        include_usage=options is not None and bool(options.include_usage),
        extras=extras,
    )


def _params(request: ChatRequest) -> dict[str, Any]:
    choice, stop, effort = request.tool_choice, request.stop, request.reasoning_effort
    most = request.max_completion_tokens
    return {
        "max_output_tokens": most if most is not None else request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": [stop] if isinstance(stop, str) else stop or [],
        "seed": request.seed,
        "reasoning": _REASONING.get(effort, effort) if effort is not None else "",
        "tool_choice": choice.function.name if isinstance(choice, _Choice) else choice or "",
    }


def _message(message: _Message) -> dict[str, Any]:
    content = message.content
    return {
        "role": "system" if message.role == "developer" else message.role,
        "content": [_part(part) for part in content] if isinstance(content, list) else content or "",
        "tool_calls": [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in message.tool_calls or ()
        ],
        "tool_call_id": message.tool_call_id,
        # Of a tool's answer it is the function's, which its call names, too.
        "name": "" if message.role == "tool" else message.name or "",
    }


def _part(part: _Text | _Refusal | _Image | _Audio) -> dict[str, Any]:
    if isinstance(part, _Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, _Refusal):
        return {"type": "text", "text": part.refusal}
    if isinstance(part, _Audio):
        sound = part.input_audio
        mime = "audio/mpeg" if sound.format == "mp3" else "audio/wav"
        return {"type": "media", "mime": mime, "data": sound.data}
    url, detail = part.image_url.url, part.image_url.detail or ""
    if found := _DATA_URL.match(url):
        return {"type": "media", "mime": found[1], "data": url[found.end() :], "detail": detail}
    return {"type": "media", "mime": "image/*", "url": url, "detail": detail}


def _tool(tool: _Tool) -> dict[str, Any]:
    declared = tool.function
    return {
        "name": declared.name,
        "description": declared.description or "",
        "parameters": declared.parameters or {},
    }
