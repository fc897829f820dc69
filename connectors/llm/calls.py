"""What a provider is asked, in our words; a provider's file makes its own body of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Shape = Literal["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"]
OUTPUT_TOKENS_ASSUMED: Final = 4_096
"""Of an answer that neither request nor route bounds, without what it is told to think before."""


@dataclass(frozen=True, slots=True)
class Target:
    """One provider as it is configured."""

    name: str
    shape: Shape
    base_url: str
    """Up to, and without, the path that the shape adds: ``https://api.openai.com/v1``."""
    api_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    models: Sequence[str] = ()
    """What the route of no record asks it for: the first by default, the others if a client names them (``*``
    stands for any characters); none = any that a client names."""
    priced_as: str = ""
    """Its name in ``genai-prices``; empty = found by ``base_url``."""


@dataclass(frozen=True, slots=True)
class Params:
    """How it is asked; None = the provider's default."""

    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    reasoning: Literal["", "low", "medium", "high"] = ""
    tool_choice: str = ""
    """auto, none, required, or a tool's name."""


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """A JSON schema."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it is made.

    ``messages`` are {"role": system | user | assistant | tool, "content": text or a list of parts,
    "tool_calls": [{"id", "name", "arguments"}], "tool_call_id", "is_error", "name"}; parts are
    {"type": "text", "text"} or {"type": "media", "mime", "data" (base64) or "url", "detail"}.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    params: Params = field(default_factory=Params)
    tools: Sequence[Tool] = ()
    schema: Mapping[str, Any] | None = None
    """JSON schema that the answer must follow."""
    schema_name: str = ""
    background: bool = False
    """Whether the provider is to keep the answer, and go on with it though nobody reads: see ``Keeping``."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request as it goes out."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    method: Literal["POST", "GET"] = "POST"
