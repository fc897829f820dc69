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
_COUNTED: Final = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")


class BadPattern(ValueError):
    """A regular expression cannot be used; the message says why, and what to write instead."""


class Pattern:
    """One regular expression, in the syntax of Rust's ``regex``."""

    __slots__ = ("_anywhere", "_at", "_between")

    def __init__(self, expression: str) -> None:
        """Compile it. Raises BadPattern."""
        if not 1 <= len(expression) <= CHARACTERS_MAX:
            raise BadPattern(f"has {len(expression)} characters; write 1 to {CHARACTERS_MAX}")
        copies = math.prod(int(most or least or 1) or 1 for least, most in _COUNTED.findall(expression))
        if copies > COPIES_MAX:
            raise BadPattern(
                f"its counted repetitions multiply to {copies}, at most {COPIES_MAX}: "
                "write + or *, or make two of it"
            )
        # On its own first: what is not closed must not be closed by the brackets that come around it.
        self._anywhere = _matcher(expression)
        inner = f"(?:{expression})"
        # A character on each side is part of what is asked, so that \b and ^ see what stands around a match.
        self._at = _matcher(rf"\A{inner}"), _matcher(rf"\A(?s:.){inner}")
        self._between = {
            (False, False): _matcher(rf"\A{inner}\z"),
            (False, True): _matcher(rf"\A{inner}(?s:.)\z"),
            (True, False): _matcher(rf"\A(?s:.){inner}\z"),
            (True, True): _matcher(rf"\A(?s:.){inner}(?s:.)\z"),
        }

    def matches(self, text: str) -> bool:
        """Whether it matches anywhere in a text."""
        return self._anywhere(text)

    def find(self, text: str, start: int, stop: int, width: int) -> tuple[int, int] | None:
        """Find the first match that begins in [start, stop): the longest of at most ``width`` characters.

        What it finds at a place depends on ``width + 1`` characters from there on, and on the one before,
        alone. An answer takes one look, and for each match at most ``width`` more of ``width`` characters.
        """
        if start >= stop or not self._anywhere(text[max(start - 1, 0) :]):
            return None
        for begin in range(start, stop):
            before = begin > 0
            if not self._at[before](text[begin - before : begin + width + 1]):
                continue
            for end in range(min(begin + width, len(text)), begin, -1):
                after = end < len(text)
                if self._between[before, after](text[begin - before : end + after]):
                    return begin, end
        return None


@lru_cache(maxsize=256)
def pattern(expression: str) -> Pattern:
    """Give the compiled expression; the latest are kept. Raises BadPattern."""
    return Pattern(expression)


def scalar(text: str) -> str:
    """Put a ? for each half of a surrogate pair: it is no text, and hides from rules what stands by it."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode("utf-8")


def _matcher(expression: str) -> Callable[[str], bool]:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=expression, strict=True)).isinstance_python
    except SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[-1].removeprefix("SchemaError: ").removeprefix("error: ")
        raise BadPattern(f"{said} (the syntax is that of Rust's regex)") from None
