"""What a model is asked over HTTP, in our own shape: every field is checked before anything is written.

Whatever shape a client speaks, it becomes an ``Asked``; the worker is given nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from connectors.llm.nesting import TooDeep, read_json
from edge.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

MESSAGES_MAX: Final = 1_000
PARTS_MAX: Final = 1_000
TOOLS_MAX: Final = 128
CALLS_MAX: Final = 128
DEADLINE_MS_MAX: Final = 86_400_000
"""The longest that any kind of stream may take."""

Text = Annotated[str, Field(max_length=1_048_576)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[ -~]+$")]
Label = Annotated[str, Field(max_length=128, pattern=r"^[ -~]*$")]
"""As a name, and may be absent: printable ASCII, for it stands in keys, metrics and logs."""
Called = Annotated[str, Field(min_length=1, max_length=256)]
"""Id of a call and name of a tool, as a model gave them and our events carry them (256 bytes)."""
Speaker = Annotated[str, Field(max_length=64)]
"""Name of one of several who speak in a role, as OpenAI bounds it."""
JsonObject = dict[str, Any]
AfterContent = Literal["resume", "restart", "continue", "surface"]
Model = TypeVar("Model", bound=BaseModel)


class Shape(BaseModel):
    """A JSON object whose members are all named; others are errors, as a misspelt one would be lost."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class TextPart(Shape):
    """A piece of text of a message."""

    type: Literal["text"]
    text: Text


class MediaPart(Shape):
    """A picture or a sound of a message: its bytes, or where they are."""

    type: Literal["media"]
    mime: Name
    data: str = Field(default="", description="Base64.")
    url: str = Field(default="", max_length=4_096)
    detail: Literal["", "auto", "low", "high", "original"] = Field(
        default="", description="Of a picture: how closely it is looked at, where a provider has a choice."
    )

    @model_validator(mode="after")
    def _has_one(self) -> MediaPart:
        if bool(self.data) == bool(self.url):
            raise ValueError("has one of data and url")
        return self


def _part_tag(value: object) -> str:
    return f"<{value.get('type')}>" if isinstance(value, dict) else ""


def _content_tag(value: object) -> str:
    return "<text>" if isinstance(value, str) else "<parts>"


Part = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[MediaPart, Tag("<media>")],
    Discriminator(
        _part_tag, custom_error_type="part", custom_error_message="must be an object of type text or media"
    ),
]


Content = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[list[Part], Field(max_length=PARTS_MAX), Tag("<parts>")],
    Discriminator(_content_tag),
]


class ToolCall(Shape):
    """A call that the model made earlier in the conversation."""

    id: Called
    name: Called
    arguments: Text = Field(description="JSON text of an object, as the model wrote it.")

    @field_validator("arguments")
    @classmethod
    def _is_an_object(cls, arguments: str) -> str:
        try:
            is_object = isinstance(read_json(arguments or "{}"), dict)
        except TooDeep:
            raise
        except ValueError:
            is_object = False
        if not is_object:
            raise ValueError("must be JSON text of an object")
        return arguments


class Message(Shape):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Content = ""
    tool_calls: list[ToolCall] = Field(default=[], max_length=CALLS_MAX)
    tool_call_id: str = Field(default="", max_length=256, description="Of role tool: which call it answers.")
    is_error: bool = Field(default=False, description="Of role tool: the call failed, and this says how.")
    name: Speaker = Field(default="", description="Who of several in this role says it.")

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if "content" not in self.model_fields_set and not self.tool_calls:
            raise ValueError("has neither content nor tool_calls")
        return self

    def shown(self) -> dict[str, Any]:
        """As the worker reads it."""
        fields = self.model_dump(exclude_defaults=True)
        return fields if self.tool_calls else {"content": "", **fields}


class Tool(Shape):
    """What the model may call."""

    name: Name
    description: Text = ""
    parameters: JsonObject = Field(default={}, description="A JSON schema.")


class Params(Shape):
    """How it is asked; what is absent is the provider's default."""

    max_output_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: list[Annotated[str, Field(min_length=1, max_length=1_024)]] = Field(default=[], max_length=16)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    reasoning: Literal["", "low", "medium", "high"] = ""
    tool_choice: Label = Field(default="", description="auto, none, required, or a tool's name.")


class Asked(Shape):
    """One question: a conversation, or a kept prompt with its variables, or the one and then the other."""

    stream_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:-]{1,128}$",
        description="Name of the stream that the answer becomes; made if absent.",
    )
    kind: str = Field(default="llm", pattern=r"^[a-z][a-z0-9_-]{0,63}$")
    title: Annotated[str, Field(max_length=256)] = ""
    messages: list[Message] = Field(default=[], max_length=MESSAGES_MAX)
    prompt: Label = Field(default="", description="Name of a prompt that is kept.")
    prompt_label: Name = Field(default="production", description="Label or version of it.")
    variables: dict[Name, Text] = Field(default={}, max_length=100)
    route: Name = "default"
    model: Label = Field(default="", description="Model that the route may use.")
    tools: list[Tool] = Field(default=[], max_length=TOOLS_MAX)
    schema_: JsonObject | None = Field(
        default=None, alias="schema", description="JSON schema that the answer must follow."
    )
    schema_name: Label = ""
    params: Params = Params()
    deadline_ms: int = Field(
        default=0, ge=0, le=DEADLINE_MS_MAX, description="For all attempts; 0 = route's."
    )
    after_content: AfterContent | None = Field(
        default=None, description="What is done about a failure after content; absent = as the route says."
    )
    side_effects: bool = Field(
        default=False, description="Tools do what cannot be taken back: nothing is restarted after a call."
    )
    on_invalid: Literal["report", "fail"] | None = Field(
        default=None,
        description="An answer that breaks its schema: it is said, or it is a failure; absent = the route's.",
    )
    no_reset: bool = Field(
        default=False,
        description="What was shown cannot be taken back: what cannot be gone on with ends, by no reset.",
    )
    request_id: Label = ""
    task_id: Label = ""

    @model_validator(mode="after")
    def _asks_something(self) -> Asked:
        if not self.messages and not self.prompt:
            raise ValueError("has neither messages nor a prompt: there is nothing to ask")
        return self


def read(shape: type[Model], body: bytes) -> Model:
    """Read a body as a shape. Its content is not shown in errors: it is what people wrote.

    Raises:
        RequestError: 400 for what is no JSON object, else (too deep, too) 422 with ``field``.
    """
    try:
        value = read_json(body)
    except TooDeep as deep:
        raise refused("", f"is {deep}") from None
    except orjson.JSONDecodeError as error:
        raise RequestError(
            400,
            "Not JSON",
            f"line {error.lineno}, column {error.colno}: {error.msg}",
            remedy="Correct the text and send the request again.",
            extra={"line": error.lineno, "column": error.colno},
        ) from None
    if not isinstance(value, dict):
        raise RequestError(400, "Not a request", "a request to a model is a JSON object")
    return shaped(shape, value)


def shaped(shape: type[Model], value: object) -> Model:
    """Check a JSON value; raises as ``read``."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Some messages show a part of what came: no more of it than tells which.
        field, problem = _path(first["loc"]), first["msg"].removeprefix("Value error, ")[:200]
        raise refused(field, f"{problem[:1].lower()}{problem[1:]}") from None


def refused(field: str, problem: str) -> RequestError:
    """Say which field of a request cannot be used; an empty one is the request itself."""
    field = field or "request"
    return RequestError(
        422,
        "Request refused",
        f"{field}: {problem}",
        remedy="Nothing was written and nobody was asked. Correct the field.",
        extra={"field": field},
    )


def _path(loc: Iterable[int | str]) -> str:
    """``messages.0.content`` of pydantic's own path, in which branches of unions have names, too."""
    steps = [str(step)[:80] for step in loc if not (isinstance(step, str) and step.startswith("<"))]
    return ".".join(steps)
