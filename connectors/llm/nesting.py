"""JSON of strangers, no deeper than it can be written again.

``orjson`` reads 1,024 levels and writes 254, where it raises TypeError: what lies between is told when it is
read, and not wherever it is written next.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

NESTING_MAX: Final = 128
"""Levels: no shape and no schema in use has 32; what stands around a value (ours) adds fewer than 100."""


class TooDeep(ValueError):
    """JSON of more than NESTING_MAX levels."""

    def __init__(self) -> None:
        super().__init__(f"nested deeper than {NESTING_MAX} levels")


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
