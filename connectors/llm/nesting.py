"""JSON of strangers, no deeper than it can be written again.

``orjson`` reads 1,024 levels and writes 254, where it raises TypeError: what lies between is told when it is
read, and not wherever it is written next.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

NESTING_MAX: Final = 128
"""Levels: no shape and no schema in use has 32; what stands around a value (ours) adds fewer than 100."""


def read_json(data: str) -> Any:
    """Read a value. Raises ValueError: it is no JSON, or deeper than NESTING_MAX."""
    value = orjson.loads(data)
    # a value has no more levels than brackets, and to count those is one call of C each
    if data.count("{") + data.count("[") > NESTING_MAX and _is_deep(value):
        raise ValueError(f"nested deeper than {NESTING_MAX} levels")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(NESTING_MAX):
        inner: list[Any] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return False
    return True
