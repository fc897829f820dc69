"""Places that are held while something goes on: so many in all, and so many of one who asks."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge.errors import RequestError


class Shares:
    """See the module's docstring."""

    def __init__(self, most: int, own_max: int, refusal: Callable[[int, int], RequestError]) -> None:
        """``refusal`` makes the error for one too many, of how many are held, in all and by who asks."""
        self._most, self._own_max, self._refusal = most, own_max, refusal
        self._held: Counter[str] = Counter()

    @contextmanager
    def one_of(self, whose: str) -> Iterator[None]:
        """Hold a place. Raises RequestError: there is none."""
        held, own = self._held.total(), self._held[whose]
        if held >= self._most or own >= self._own_max:
            raise self._refusal(held, own)
        self._held[whose] += 1
        try:
            yield
        finally:
            self._held -= Counter((whose,))  # and forget who has none
