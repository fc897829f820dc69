"""Which of the names that there are somebody may have meant by one that there is not."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def meant(name: str, known: Iterable[str], shown: str = "{!r}") -> str:
    """Return the end of a message that names the closest one, as ``; did you mean 'job'?``; empty if none is.

    ``shown`` is how a name is shown.
    """
    close = _closest(name[:200], tuple(known))
    return f"; did you mean {shown.format(close)}?" if close else ""


@lru_cache(maxsize=256)  # a producer that is wrong is wrong in every event
def _closest(name: str, known: tuple[str, ...]) -> str:
    return next(iter(get_close_matches(name, known, 1)), "")
