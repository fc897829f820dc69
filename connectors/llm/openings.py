"""Where a JSON text that is still coming is open: which of its values may yet change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydantic_core import from_json

DEPTH_MAX: Final = 64
_OUTSIDE: Final = re.compile(r'["{}\[\],:]')
_INSIDE: Final = re.compile(r'["\\]')


@dataclass(slots=True)
class _Level:
    is_object: bool
    at: str | int | None
    """Key or index of the value that comes; None = its key has not come yet."""
    done: bool = False
    """Whether that value is whole. A number or a word is not before what follows it."""


class Openings:
    """Reads a JSON text once, in pieces; what is no JSON is left to the parser."""

    def __init__(self) -> None:
        self._levels: list[_Level] = []
        self._in_string = False
        self._escaped = False
        self._key: list[str] | None = None
        """Raw pieces of the key that is coming."""
        self.too_deep = False

    @property
    def path(self) -> tuple[str | int, ...]:
        """Path of the innermost value that is open; so is every one above it."""
        steps = [level.at for level in self._levels if level.at is not None and not level.done]
        return tuple(steps)

    def take(self, text: str) -> None:
        """Read more of it."""
        at = 0
        while at < len(text) and not self.too_deep:
            at = self._inside(text, at) if self._in_string else self._outside(text, at)

    def _inside(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            self._keep(text[at])
            return at + 1
        found = _INSIDE.search(text, at)
        end = found.start() if found else len(text)
        self._keep(text[at:end])
        if found is None:
            return end
        if found[0] == "\\":
            self._escaped = True
            self._keep("\\")
        else:
            self._in_string = False
            self._string_ended()
        return found.end()

    def _outside(self, text: str, at: int) -> int:
        found = _OUTSIDE.search(text, at)
        if found is None:
            return len(text)
        top = self._levels[-1] if self._levels else None
        match found[0]:
            case '"':
                self._in_string = True
                self._key = [] if top is not None and top.is_object and top.at is None else None
            case "{" | "[":
                self._levels.append(_Level(found[0] == "{", None if found[0] == "{" else 0))
                self.too_deep = len(self._levels) > DEPTH_MAX
            case "}" | "]" if top is not None:
                self._levels.pop()
                if self._levels:
                    self._levels[-1].done = True
            case "," if top is not None:
                top.at = None if top.is_object else int(top.at or 0) + 1
                top.done = False
        return found.end()

    def _keep(self, raw: str) -> None:
        if self._key is not None:
            self._key.append(raw)

    def _string_ended(self) -> None:
        if not self._levels:
            return
        top = self._levels[-1]
        if self._key is None:
            top.done = True
            return
        try:
            top.at = from_json(f'"{"".join(self._key)}"')
        except ValueError:
            top.at = None  # the parser says so of the whole
        self._key = None
