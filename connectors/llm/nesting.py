"""JSON of strangers, no deeper than it can be written again, and no more of it than a loop has time for.

``orjson`` reads 1,024 levels and writes 254, where it raises TypeError: what lies between is told when it is
read, and not wherever it is written next.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

NESTING_MAX: Final = 128
"""Levels: no shape and no schema in use has 32; what stands around a value (ours) adds fewer than 100."""

VALUES_MAX: Final = 65_536
"""Of one event: some 0.2 s of a loop that all answers share, whoever reads, judges or redacts them. Shapes
have dozens in a piece, and some thousands where an answer's end repeats its question with all its tools."""
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{\[,]', re.DOTALL)
"""A string, or what stands before a value. One without an end takes the rest: none is looked for twice."""


class TooDeep(ValueError):
    """JSON of more than NESTING_MAX levels."""

    def __init__(self) -> None:
        super().__init__(f"nested deeper than {NESTING_MAX} levels")


class TooMany(ValueError):
    """JSON of more than VALUES_MAX values."""

    def __init__(self) -> None:
        super().__init__(f"more than {VALUES_MAX} values")


def read_event(data: str) -> Any:
    """Read a provider's event, of which a large picture is one value.

    Raises:
        TooMany: it has more than VALUES_MAX; nothing of it was read.
        TooDeep, orjson.JSONDecodeError: as ``read_json``. All are ValueErrors.
    """
    if _has_many(data):
        raise TooMany
    return read_json(data)


def read_json(data: str | bytes) -> Any:
    """Read a value.

    Raises:
        TooDeep: it has more than NESTING_MAX levels.
        orjson.JSONDecodeError: it is no JSON. Both are ValueErrors.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("depth limit"):  # orjson's own, of 1,024 levels
            raise TooDeep from None
        raise
    # a value has no more levels than brackets, and to count those is one call of C each
    brackets = (
        data.count("{") + data.count("[") if isinstance(data, str) else data.count(b"{") + data.count(b"[")
    )
    if brackets > NESTING_MAX and _is_deep(value):
        raise TooDeep
    return value


def _is_deep(value: Any) -> bool:
    """Whether an object or a list has more than NESTING_MAX levels."""
    level = [value]
    for _ in range(NESTING_MAX):
        inner: list[Any] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _has_many(data: str) -> bool:
    """Whether there are more values than VALUES_MAX, of which each has a comma or a bracket before it."""
    if data.count(",") + data.count("[") + data.count("{") <= VALUES_MAX:
        return False  # nearly always; else texts may be full of them
    values = strings = 0
    for token in _TOKEN.finditer(data):
        if data[token.start()] == '"':
            strings += 1
        else:
            values += 1
        if values > VALUES_MAX or strings > 2 * VALUES_MAX + 1:  # each value has one, and a name
            return True
    return False
