"""What is answered, before it has a wire shape: pieces of text, reasoning, a tool call, and what was counted.

The same request gives the same script, to the byte: all that looks random comes from the seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from connectors.llm.loopback.errors import LoopbackRefused
from connectors.llm.loopback.instances import instance_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.loopback.wanted import Wanted

ScriptFinish = Literal["stop", "length", "tool_calls", "refusal"]
ANSWERS: Final = ("echo", "words", "tool", "json")
CREATED_S: Final = 1_700_000_000  # any one: the same answer has the same bytes on every day
_TOKEN: Final = re.compile(r"\s*\S{1,12}|\s+")
_WORDS: Final = (
    "stream", "river", "gate", "water", "flows", "through", "narrow", "wide", "quiet", "bright",
    "every", "token", "arrives", "in", "its", "order", "and", "none", "is", "lost", "while", "the",
    "café", "naïve", "résumé", "façade", "→", "each", "piece", "keeps", "水", "its", "place",
    "until", "the", "end", "comes",
)  # fmt: skip
STAMP: Final = "@0000000000000000"
"""Stands for the time at which it is written, and has its length."""
REFUSAL: Final = "I can’t help with that."  # noqa: RUF001  # as models write it


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says, whatever its shape."""

    model: str
    texts: Sequence[str] = ()
    """Of all messages; the last is what an echo gives back."""
    tools: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Names with the schemas of their arguments."""
    tool_choice: str = ""
    schema: Mapping[str, Any] | None = None
    """What the answer must follow."""
    tokens_max: int | None = None
    stream: bool = True
    usage: bool = True
    """Whether usage was asked for, where the shape gives it only then."""


@dataclass(frozen=True, slots=True)
class Script:
    """One answer."""

    model: str
    key: str
    """32 hexadecimal characters that ids are made of."""
    text: Sequence[str] = ()
    reasoning: Sequence[str] = ()
    refusal: Sequence[str] = ()
    tool: str = ""
    arguments: Sequence[str] = ()
    finish: ScriptFinish = "stop"
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    usage: bool = True


def script_of(asked: Asked, wanted: Wanted) -> Script:
    """Make up an answer. Raises LoopbackRefused for a name that is none of ``ANSWERS``."""
    rng = random.Random(wanted.seed)  # noqa: S311  # a seed is the point
    text: Sequence[str] = ()
    tool, arguments = "", ""
    if wanted.answer == "echo":
        text = pieces_of(asked.texts[-1] if asked.texts else "")
    elif wanted.answer == "words":
        text = words(wanted.tokens, rng)
        if wanted.stamp:
            text = [token + STAMP for token in text]
    elif wanted.answer == "json":
        text = pieces_of(orjson.dumps(instance_of(asked.schema or {"type": "object"}, rng)).decode())
    elif wanted.answer == "tool":
        tool, arguments = _tool_call(asked, rng)
    else:
        raise LoopbackRefused(
            f"there is no model {wanted.answer!r}",
            f"Known: {', '.join(ANSWERS)}, and the names of recordings.",
            status=404,
        )
    reasoning = words(wanted.reasoning, rng)
    pieces = pieces_of(arguments)
    refusal = pieces_of(REFUSAL) if "refusal" in wanted.fault else []
    if refusal:
        text, tool, pieces = [], "", []
    finish: ScriptFinish = "refusal" if refusal else "tool_calls" if tool else "stop"
    if asked.tokens_max is not None and len(text) > asked.tokens_max:
        text, finish = text[: asked.tokens_max], "length"
    counted = sum(len(_TOKEN.findall(each)) for each in asked.texts)
    return Script(
        model=asked.model,
        key=_key(asked, wanted),
        text=_merged(text, wanted.chunk),
        reasoning=_merged(reasoning, wanted.chunk),
        refusal=_merged(refusal, wanted.chunk),
        tool=tool,
        arguments=_merged(pieces, wanted.chunk),
        finish=finish,
        input_tokens=counted,
        cached_tokens=counted // 4,
        output_tokens=len(text) + len(reasoning) + len(refusal) + len(pieces),
        usage=asked.usage,
    )


def words(count: int, rng: random.Random) -> list[str]:
    """Give so many words as a model would give tokens: each but the first with the space before it."""
    return [("" if index == 0 else " ") + rng.choice(_WORDS) for index in range(count)]


def pieces_of(text: str) -> list[str]:
    """Cut a text into pieces of the size of tokens; joined they are the text."""
    return _TOKEN.findall(text)


def _merged(pieces: Sequence[str], chunk: int) -> Sequence[str]:
    if chunk == 1:
        return pieces
    return ["".join(pieces[start : start + chunk]) for start in range(0, len(pieces), chunk)]


def _tool_call(asked: Asked, rng: random.Random) -> tuple[str, str]:
    tools = dict(asked.tools)
    name = asked.tool_choice if asked.tool_choice in tools else next(iter(tools), "")
    if not name:
        raise LoopbackRefused("the model `tool` calls a tool, and the request has none", "Give it a tool.")
    return name, orjson.dumps(instance_of(tools[name], rng)).decode()


def _key(asked: Asked, wanted: Wanted) -> str:
    said = repr((asked.model, asked.texts, asked.tools, wanted.seed, wanted.tokens))
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
