"""What is wanted of an answer, read off a model's name: ``words?tokens=150&rate=50&fault=cut``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from connectors.llm.loopback.errors import LoopbackRefused

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL_CHARACTERS_MAX: Final = 512

REFUSALS: Final = {
    "rate_limited": "429 that passes; with retry_after=SECONDS it says when",
    "spend_limited": "429 that does not pass by waiting",
    "server": "500",
    "bad_gateway": "502 in HTML, as a proxy in between says it",
    "overloaded": "529 of Anthropic's shape, 503 of the others",
    "unauthorized": "401",
    "not_found": "404, there is no such model",
    "bad_request": "400",
    "context_overflow": "400, the prompt is too long",
    "moderated": "400, the prompt is refused by the provider's moderation",
}
"""Faults that are an answer of another status."""
BREAKS: Final = {
    "cut": "the connection is reset",
    "closed": "the connection is closed, the body not ended",
    "ended": "the body ends as if it were whole",
    "cut_utf8": "the body ends inside a character",
    "stall": "nothing more is sent; with stall_ms=N it goes on after that long",
    "pings": "pings or comments are sent for ever, one each ping_ms",
    "error_frame": "the shape's error in band; what it sends after it is left out",
    "abort": "the answer is given up, with the shape's own word for it and its end mark",
}
"""Faults that end an answer after so many contents; with ``after=0`` before the first."""
BLEMISHES: Final = {
    "malformed": "half of a frame as a whole one, after so many contents",
    "unknown": "an event that nobody knows, after so many contents",
    "bad_utf8": "a content with a broken character in it, after so many contents",
    "huge": "a frame of huge_bytes, after so many contents",
    "duplicate_start": "the start comes again, after so many contents",
    "comments": "a comment (a ping where the shape has none) before each event",
    "split": "each frame in two pieces, the first cut inside a character if it has one",
    "missing_usage": "no usage anywhere",
    "missing_finish": "no finish reason",
    "missing_done": "no end mark",
    "html": "status 200, and a page instead of a stream",
    "refusal": "the model refuses",
    "no_answer": "no status ever comes",
    "drop": "the connection is reset before a status",
}
"""Faults that an answer has on its way."""
FAULTS: Final = REFUSALS | BREAKS | BLEMISHES


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer as it is wanted; all can be given in the query of a model's name."""

    answer: str
    """``echo``, ``words``, ``tool``, ``json``, or a recording's name."""
    tokens: int = 40
    """Of ``words``."""
    reasoning: int = 0
    """Tokens of reasoning before the answer."""
    chunk: int = 1
    """Tokens a content event."""
    rate: float = 0.0
    """Tokens a second; 0 = as fast as they can be written."""
    first_ms: int = 0
    """From the request to the first content; of made-up answers."""
    seed: int = 1
    stamp: bool = False
    """Each token of ``words`` ends with ``@`` and when it was written: 16 digits, microseconds since 1970."""
    speed: float | None = None
    """Of recordings: 2 = twice as fast, 0 = as fast as it can be written; None = as the provider is set."""
    fault: frozenset[str] = frozenset()
    """Names of ``FAULTS``, with commas between them."""
    after: int = 3
    """Contents before the fault."""
    times: int = 0
    """The fault is had by so many calls of this very name, later ones are good; 0 = by all."""
    retry_after: str = ""
    """The header's value: seconds or a date."""
    stall_ms: int = 0
    """How long a stall takes; 0 = for ever."""
    ping_ms: int = 100
    huge_bytes: int = 16 * 1_048_576
    tag: str = ""
    """Means nothing: makes a name that no other test counts on."""

    @property
    def good(self) -> Wanted:
        """The same without faults."""
        return replace(self, fault=frozenset())


def parse_wanted(model: str, more: str = "") -> Wanted:
    """Read a model's name, and the query of a request's own, which goes before the name's.

    Raises:
        LoopbackRefused: names what is not known or out of bounds.
    """
    if len(model) > MODEL_CHARACTERS_MAX or len(more) > MODEL_CHARACTERS_MAX:
        raise LoopbackRefused(f"a model's name has at most {MODEL_CHARACTERS_MAX} characters")
    answer, _, query = model.partition("?")
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True) + parse_qsl(more, keep_blank_values=True):
        reader = _READERS.get(name)
        if reader is None:
            raise LoopbackRefused(f"{name!r} is nothing that can be wanted", f"Known: {', '.join(_READERS)}.")
        try:
            values[name] = reader(text)
        except ValueError as error:
            raise LoopbackRefused(f"{name}={text}: {error}") from None
    return Wanted(answer, **values)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(f"must be from {least} to {most}")
        return value

    return read


def _number(most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not 0 <= value <= most:  # refuses nan, too
            raise ValueError(f"must be from 0 to {most:g}")
        return value

    return read


def _faults(text: str) -> frozenset[str]:
    names = frozenset(filter(None, text.split(",")))
    if unknown := sorted(names - FAULTS.keys()):
        raise ValueError(f"there is no fault {', '.join(unknown)}; known: {', '.join(FAULTS)}")
    if len(names & (REFUSALS | BREAKS).keys()) > 1:
        raise ValueError("an answer fails in one way only")
    return names


def _header_value(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be printable ASCII")
    return text


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "tokens": _whole(0, 100_000),
    "reasoning": _whole(0, 100_000),
    "chunk": _whole(1, 1_000),
    "rate": _number(1e6),
    "first_ms": _whole(0, 600_000),
    "seed": _whole(0, 2**31),
    "stamp": lambda text: bool(_whole(0, 1)(text)),
    "speed": _number(1e6),
    "fault": _faults,
    "after": _whole(0, 100_000),
    "times": _whole(0, 1_000_000),
    "retry_after": _header_value,
    "stall_ms": _whole(0, 600_000),
    "ping_ms": _whole(1, 60_000),
    "huge_bytes": _whole(1, 64 * 1_048_576),
    "tag": str,
}
