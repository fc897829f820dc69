"""What a provider's stream says, in our words: the same for every wire shape."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Channel = Literal["text", "reasoning", "tool", "refusal"]
Finish = Literal["", "stop", "length", "tool_calls", "content_filter", "refusal", "pause", "other"]
"""Empty: the provider did not say, which is never taken for a whole answer."""

WHOLE: Final = frozenset({"stop", "tool_calls", "length", "pause"})
"""Finishes by which an answer ends ``completed``. ``other`` is a word that is not known, as vLLM's ``abort``
is: none of them is taken for a whole answer. Refusals end ``upstream_error``."""


REFERENCE_CHARACTERS_MAX: Final = 8_192
"""Of the address of a picture or a sound."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Content: a piece of text, reasoning, a refusal, or of a tool call's arguments (JSON text)."""

    channel: Channel
    text: str
    index: int = 0
    """Which of several answers (or blocks) it belongs to."""
    call_id: str = ""
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Media:
    """Content: a piece of sound or picture, or where it is kept; one of ``data`` and ``reference`` is set.

    ``index`` is which picture or sound it is of: pieces of one index join in their order.
    """

    mime: str
    index: int
    data: bytes = b""
    reference: str = ""


Detail = Literal[
    "input_audio", "input_image", "input_video",
    "cached_audio", "cached_image", "cached_video",
    "output_audio", "output_image", "output_video",
    "cache_write_1h",
]  # fmt: skip
"""Tokens that may have a price of their own: sound, pictures and videos among those sent, among those of them
that were read from a cache, and among those received; of those written to a cache what it keeps an hour."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them so far; None = it did not say. A later one replaces what it says.

    Input includes what was read from and written to a cache, whatever the provider's own sums do.
    """

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    details: Mapping[Detail, int] = field(default_factory=dict)
    """What of these counts is of another sort than text; what is not named was not told apart."""

    def updated(self, later: Usage) -> Usage:
        """Give what is known after a later one."""
        said = {name: count for name in _FIGURES if (count := getattr(later, name)) is not None}
        return replace(self, **said, details={**self.details, **later.details})


_FIGURES: Final = tuple(name for name in Usage.__dataclass_fields__ if name != "details")


@dataclass(frozen=True, slots=True)
class Named:
    """Names that the provider gave: its own id of the call, the model that answers. Empty = not said."""

    request_id: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The provider says why it is done; ``raw`` is its own word."""

    finish: Finish
    raw: str
    stop_sequence: str = ""
    """The text of the question's at which it stopped; empty = at none, or the provider does not say."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider says in its stream that it failed."""

    error_class: ErrorClass
    raw: str
    retry_after_ms: int = 0
    masked: str = ""
    """``raw`` without the provider's words, which may quote anything; empty = there are none in it."""


@dataclass(frozen=True, slots=True)
class Over:
    """The shape's own end mark: nothing may follow."""


@dataclass(frozen=True, slots=True)
class Alive:
    """No content: a ping, a comment, an event that nobody knows. It shows that the provider lives."""

    raw: str = ""


Delta = Piece | Media | Usage | Named | Finished | Failed | Over | Alive

ErrorClass = Literal[
    "connect",  # no connection, or it broke before a status came
    "timeout_connect",  # no connection in time; a status that does not come is no first content
    "timeout_first_content",
    "timeout_between_contents",
    "timeout_total",
    "rate_limited",  # 429 that passes
    "spend_limited",  # 429 or 402 that does not pass by waiting
    "overloaded",  # 529, 503
    "server",  # other 5xx, or an error in band that says so
    "unauthorized",  # 401, 403
    "bad_request",  # other 4xx
    "not_found",  # the model is not there
    "context_overflow",
    "content_refused",  # by the provider's own moderation, or the model refused
    "truncated",  # the stream ended before it said that it was done
    "malformed",  # bytes that are not of the shape
    "oversized",  # an answer, or an event of it, that is longer or deeper than any may be
    "gate",  # our own gate ended it
    "invalid_answer",  # it breaks its schema, and is not to be taken then
    "cancelled",
    "crashed",  # the worker died
]
