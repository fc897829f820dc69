"""A pause after each commit, in which what trickles in gathers (docs/adr/0014-commits-that-rest.md)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

REST_S: Final = 0.004
"""At the most; else as long as the commit took."""
GATHER_S: Final = 0.02
"""So long at the most nothing is fetched while a commit is under way: none of it could be handled."""
FETCH_S: Final = 0.001
"""So long before the pause is over it is fetched again."""
FLOOD_RECORDS: Final = 500
"""Who has so many to handle is not kept waiting."""


class Rest:
    """Belongs to a loop; ``then`` is called when a pause that kept somebody waiting is over."""

    def __init__(self, longest_s: float, then: Callable[[], None]) -> None:
        self._longest_s = min(longest_s, REST_S)
        self._then = then
        self._until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, took_s: float) -> float:
        """Rest after a commit that took so long; returns for how long."""
        rest_s = min(took_s, self._longest_s)
        self._until_s = time.monotonic() + rest_s
        return rest_s

    def holds(self, records: int) -> bool:
        """Whether it is too early to go on with so many records."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0 or records >= FLOOD_RECORDS:
            return False
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left_s, self._over)
        return True

    def _over(self) -> None:
        self._timer = None
        self._then()
