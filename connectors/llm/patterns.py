"""Regular expressions that others wrote (a route's rules, a caller's schema), matched in linear time.

Python's ``re`` takes exponential time for some of them, and cannot be stopped: one such expression would
stand a worker still. These are matched by the Rust engine inside of pydantic-core, which has neither
look-around nor back-references, and no such expressions. It only says whether something matches, so that a
match is found by asking: see ``find``.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable

CHARACTERS_MAX: Final = 512
COPIES_MAX: Final = 1_200
"""``(.{0,45}){0,45}`` is 2,025 copies of one dot, and a look at 300 characters takes it 23 ms, measured; a
UUID's ``{8}-(…{4}-){3}{12}`` multiplies to 1,152."""
BYTES_MAX: Final = 2_097_152
"""Of one compiled expression, as it is reckoned here; to compile so many takes 10 ms, in which nothing else
of the process runs."""
_COUNTED: Final = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")
_TOKEN: Final = re.compile(
    r"\\[pPxuUb]\{[^}]*\}|\\.|\[\^?\]?|\(\?[A-Za-z]*x|\{\s*\d*\s*(?:,\s*\d*\s*)?\}|.", re.DOTALL
)
_CLASS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:?[^\]]*\]|[^\]])*\]", re.DOTALL)
_UNBOUNDED: Final = re.compile(r"[*+]|\{\s*\d+\s*,\s*\}")
_BYTES: Final = dict.fromkeys("wWpP", 32_000) | dict.fromkeys("dDsS", 3_000)
"""Of one copy of a class of all Unicode, measured: ``\\w`` is 770 ranges."""
_ATOM_BYTES: Final = 200
_ATOMS_A_STEP: Final = 64
"""``(.{0,30}){0,30}`` takes 25 to 33 µs a character, measured."""


_STRIDE: Final = 512
"""Places that are passed over in one look where nothing matches."""
LOOKS_MAX: Final = 500_000
"""At 0.3 to 0.8 µs each 0.2 to 0.4 s, in which nothing else of the process runs. The first, whether there is
a match at all, is not counted."""


class TooManyLooks(Exception):
    """A text takes too long to be looked through."""


class Looks:
    """How many looks there may still be: a bound over several expressions and texts."""

    __slots__ = ("_left",)

    def __init__(self, most: int = LOOKS_MAX) -> None:
        self._left = most

    def spend(self, looks: int) -> None:
        """Take so many. Raises TooManyLooks."""
        self._left -= looks
        if self._left < 0:
            raise TooManyLooks


class BadPattern(ValueError):
    """A regular expression cannot be used; the message says why, and what to write instead."""


class Pattern:
    """One regular expression, in the syntax of Rust's ``regex``."""

    __slots__ = ("_anywhere", "_around", "_atoms", "_expression", "_longest", "size_bytes")

    def __init__(self, expression: str) -> None:
        """Compile what ``matches`` needs; six times as much, for ``find``, when that is first asked.

        Raises BadPattern.
        """
        if not 1 <= len(expression) <= CHARACTERS_MAX:
            raise BadPattern(f"has {len(expression)} characters; write 1 to {CHARACTERS_MAX}")
        copies = math.prod(int(most or least or 1) or 1 for least, most in _COUNTED.findall(expression))
        if copies > COPIES_MAX:
            raise BadPattern(
                f"its counted repetitions multiply to {copies}, at most {COPIES_MAX}: "
                "write + or *, or make two of it"
            )
        self.size_bytes = _sum_of(expression, lambda piece: _BYTES.get(piece[1:2], _ATOM_BYTES))
        if self.size_bytes > BYTES_MAX:
            raise BadPattern(
                f"takes some {self.size_bytes // 1_024} KiB compiled, at most {BYTES_MAX // 1_024}: write "
                "fewer classes of all Unicode, as [A-Za-z0-9_] for \\w, or + and * for counted repetitions"
            )
        self._atoms = _sum_of(expression, lambda _: 1)
        self._longest = math.inf if _UNBOUNDED.search(_CLASS.sub("_", expression)) else self._atoms
        self._expression = expression
        # On its own first: what is not closed must not be closed by the brackets that come around it.
        self._anywhere = _matcher(expression)
        self._around: _Around | None = None

    def matches(self, text: str) -> bool:
        """Whether it matches anywhere in a text."""
        return self._anywhere(text)

    def work(self, characters: int) -> int:
        """How much it is at the most to look through so many characters, in steps of some 2 µs."""
        return characters * self._atoms // _ATOMS_A_STEP

    def find(
        self, text: str, start: int, stop: int, width: int, looks: Looks | None = None
    ) -> tuple[int, int] | None:
        """Find the first match that begins in [start, stop): the longest of at most ``width`` characters.

        What it finds at a place depends on ``width + 1`` characters from there on, and on the one before,
        alone. It takes one look, one for each ``_STRIDE`` places up to those with a match, one for each of
        these, and for a match as many more as it can have characters, at most ``width``.

        Raises:
            TooManyLooks: ``looks`` are used up.
        """
        if start >= stop or not self._anywhere(text[max(start - 1, 0) :]):
            return None
        self._around = self._around or _Around(self._expression)
        looks = looks or Looks()
        for at in range(start, stop, _STRIDE):
            upto = min(at + _STRIDE, stop)
            looks.spend(1)
            if self._anywhere(text[max(at - 1, 0) : upto + width + 1]):
                found = self._first(text, at, upto, width, looks)
                if found is not None:
                    return found
        return None

    def _first(self, text: str, start: int, stop: int, width: int, looks: Looks) -> tuple[int, int] | None:
        around = self._around
        assert around is not None
        longest = int(min(width, self._longest))
        for begin in range(start, stop):
            before = begin > 0
            looks.spend(1)
            if not around.at[before](text[begin - before : begin + width + 1]):
                continue
            looks.spend(longest)
            for end in range(min(begin + longest, len(text)), begin, -1):
                after = end < len(text)
                if around.between[before, after](text[begin - before : end + after]):
                    return begin, end
        return None


class _Around:
    """What it takes to find where an expression matches: it is asked about a place, and one text after it."""

    __slots__ = ("at", "between")

    def __init__(self, expression: str) -> None:
        inner = f"(?:{expression})"
        # A character on each side is part of what is asked, so that \b and ^ see what stands around a match.
        self.at = _matcher(rf"\A{inner}"), _matcher(rf"\A(?s:.){inner}")
        self.between = {
            (False, False): _matcher(rf"\A{inner}\z"),
            (False, True): _matcher(rf"\A{inner}(?s:.)\z"),
            (True, False): _matcher(rf"\A(?s:.){inner}\z"),
            (True, True): _matcher(rf"\A(?s:.){inner}(?s:.)\z"),
        }


@lru_cache(maxsize=256)
def pattern(expression: str) -> Pattern:
    """Give the compiled expression of a rule; the latest are kept. Raises BadPattern."""
    return Pattern(expression)


def scalar(text: str) -> str:
    """Put a ? for each half of a surrogate pair: it is no text, and hides from rules what stands by it."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def _sum_of(expression: str, weight: Callable[[str], int]) -> int:
    """Sum weights over an expression's atoms, each as often as counted repetitions around it say.

    Of one that is not well formed it is any number: the compiler refuses it. Raises BadPattern.
    """
    sums, atom, classes = [0], 0, 0
    for piece in _TOKEN.findall(expression):
        if classes:  # a class is one atom, whatever is written in it
            classes += (piece[0] == "[") - (piece == "]")
            more = weight(piece if piece[0] == "\\" else "")
            atom, sums[-1] = atom + more, sums[-1] + more
        elif piece[0] == "(":
            if piece != "(":  # what is a comment would not be told from what counts
                raise BadPattern("sets the flag x: write it without")
            sums.append(0)
        elif piece == ")":
            atom = sums.pop() if len(sums) > 1 else 0
            sums[-1] += atom
        elif counted := _COUNTED.fullmatch(piece):
            copies = int(counted[2] or counted[1] or 1) or 1
            sums[-1] += atom * (copies - 1)
            atom *= copies
        elif piece not in "?*+":  # what they repeat is compiled once, and may be counted behind them
            classes = int(piece[0] == "[")
            atom = weight(piece if piece[0] == "\\" else "")
            sums[-1] += atom
    return sum(sums)


def _matcher(expression: str) -> Callable[[str], bool]:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=expression, strict=True)).isinstance_python
    except SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[-1].removeprefix("SchemaError: ").removeprefix("error: ")
        raise BadPattern(f"{said} (the syntax is that of Rust's regex)") from None
