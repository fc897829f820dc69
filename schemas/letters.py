"""What a dead letter says of itself when its record did not fit: one wording, for writer and reader."""

from __future__ import annotations

import re
from typing import Final

_CUT: Final = re.compile(r"cut, key of \d+ bytes, value of \d+ bytes, ")


def cut_note(key_bytes: int, value_bytes: int) -> str:
    """Return how the detail of a letter begins whose key and value, of these sizes, were cut."""
    return f"cut, key of {key_bytes} bytes, value of {value_bytes} bytes, read it at its coordinates: "


def is_cut(detail: str) -> bool:
    """Say whether a letter's detail tells that its key and value are not whole."""
    return _CUT.match(detail) is not None
