"""Calls of tools at a gate: they are held back until the answer is over, and judged value by value.

Nobody runs a call before the answer that asks for it is whole: a client misses nothing but the sight of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import orjson

from connectors.llm.nesting import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.llm.deltas import Piece

CALLS_MAX: Final = 128
"""Held at once; as many as a message may bring back."""
CHARACTERS_MAX: Final = 524_288
"""Of all that are held: about the longest answers that models give, see ``extent.py``."""
ALIVE_S: Final = 5.0
"""So long nothing is shown; then a sign, that nobody takes the stream for dead."""
PIECE_CHARACTERS_MAX: Final = 65_536
"""Of one that is let go: four bytes each at the most, and an event carries 900 KiB."""
_VALUE: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9][0-9.eE+-]*')
"""A text or a number of valid JSON."""


class HeldCalls:
    """Those of one attempt that wait."""

    def __init__(self) -> None:
        self._calls: dict[tuple[int, str], tuple[Piece, list[str]]] = {}
        """A piece of each that names it, and its arguments so far."""
        self._characters = 0
        self._alive_s = 0.0

    @property
    def too_much(self) -> bool:
        """Whether more came than is held."""
        return len(self._calls) > CALLS_MAX or self._characters > CHARACTERS_MAX

    def take(self, piece: Piece, now_s: float) -> Sequence[Piece]:
        """Hold a piece of a call; give the call without its arguments if it is time for a sign of life."""
        if not self._calls:
            self._alive_s = now_s
        key = piece.index, piece.call_id
        named, arguments = self._calls.get(key) or (piece, [])
        if piece.text:
            arguments.append(piece.text)
        named = named if named.tool else piece
        self._calls[key] = named, arguments
        self._characters += len(piece.text) + len(piece.tool)
        if now_s < self._alive_s + ALIVE_S:
            return ()
        self._alive_s = now_s
        return (replace(named, text=""),)

    def release(self) -> Sequence[Piece]:
        """Give them whole, in the order in which they began."""
        calls = [replace(named, text="".join(arguments)) for named, arguments in self._calls.values()]
        self.drop()
        return calls

    def drop(self) -> int:
        """Let go of them: they are not whole, or nothing is shown any more. Gives how many characters."""
        characters = sum(len(text) for _, arguments in self._calls.values() for text in arguments)
        self._calls.clear()
        self._characters = 0
        return characters


def by_value(arguments: str, judged: Callable[[str], str]) -> str:
    """Give arguments with each text and number in them, names of members too, as ``judged`` has it.

    A text is judged as what it says, whichever way JSON escapes it; a number that is changed becomes a text.
    All else stays as it was written. What is no JSON is judged as it stands. Raises what ``judged`` raises.
    """
    try:
        read_json(arguments)
    except ValueError:
        return judged(arguments)

    def value(found: re.Match[str]) -> str:
        written = found[0]
        said = orjson.loads(written) if written[0] == '"' else written
        shown = judged(said)
        return written if shown == said else orjson.dumps(shown).decode()

    return _VALUE.sub(value, arguments)


def in_pieces(call: Piece) -> Sequence[Piece]:
    """Cut a call that is too long for one event."""
    starts = range(0, max(len(call.text), 1), PIECE_CHARACTERS_MAX)
    return [replace(call, text=call.text[start : start + PIECE_CHARACTERS_MAX]) for start in starts]
