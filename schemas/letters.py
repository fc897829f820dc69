"""What a dead letter says of itself when its record did not fit: one wording, for writer and reader."""

from __future__ import annotations

import re
from typing import Final

_CUT: Final = re.compile(r"cut, key of \d+ bytes, value of \d+ bytes, ")


def cut_note(key_bytes: int, value_bytes: int, headers: str = "") -> str:
    """Return how the detail of a letter begins whose record, of these sizes, is not whole in it.

    ``headers`` says which were left out; empty = it had none.
    """
    sizes = f"key of {key_bytes} bytes, value of {value_bytes} bytes, "
    return f"cut, {sizes}{headers + ', ' if headers else ''}read it at its coordinates: "


def is_cut(detail: str) -> bool:
    """Say whether a letter's detail tells that its key, value and headers are not whole."""
    return _CUT.match(detail) is not None
