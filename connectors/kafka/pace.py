"""When a unit of work begins and ends, so that more gathers (docs/adr/0014-commits-that-rest.md)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.kafka.ports import Unit

REST_S: Final = 0.004
"""At the most after a commit; else as long as it took."""
GATHER_S: Final = 0.02
"""So long at the most nothing is fetched while a commit is under way: none of it could be handled."""
FETCH_S: Final = 0.001
"""So long before the pause is over it is fetched again."""
FLOOD_RECORDS: Final = 500
"""Who has so many to handle is not kept waiting."""
FLOOD_S: Final = 0.05
"""So long a unit that has handled a flood waits for more of it."""


class Pace:
    """Belongs to a loop; ``then`` is called when a wait is over.

    After a commit there is a pause, in which what trickles in gathers. And in a flood a unit lasts for its
    interval, also where an agent is quicker than what comes: a poll thread makes objects of records more
    slowly than a batch agent adds them up. Were all committed as soon as it is handled, units would be
    chunks, and most of the time would go into commits.
    """

    def __init__(self, interval_s: float, then: Callable[[], None]) -> None:
        self._interval_s = interval_s
        self._then = then
        self._rests_until_s = 0.0
        self._resting: asyncio.TimerHandle | None = None
        self.ends_s = 0.0
        """When the unit is over, by the monotonic clock."""
        self._waiting: asyncio.TimerHandle | None = None
        self._in_vain = False

    def begin(self) -> None:
        """A unit begins."""
        self.ends_s = time.monotonic() + self._interval_s

    @property
    def is_over(self) -> bool:
        """Whether the unit's time is."""
        return time.monotonic() >= self.ends_s

    def came(self) -> None:
        """More is handed out."""
        self._in_vain = False
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def waits(self, unit: Unit, backlog: int, *, flooded: bool) -> bool:
        """Whether a unit that has nothing in hand waits for more; ``flooded``: that is to come soon.

        ``backlog``: records that came and cannot be handed out now, for which it does not wait.
        """
        if not flooded or backlog or self._in_vain or unit.records < FLOOD_RECORDS or unit.full:
            return False
        left_s = self.ends_s - time.monotonic()
        if self._waiting is None and left_s > 0:
            self._waiting = asyncio.get_running_loop().call_later(min(FLOOD_S, left_s), self._waited)
        return left_s > 0

    def rest(self, took_s: float) -> float:
        """Rest after a commit that took so long; returns for how long."""
        rest_s = min(took_s, self._interval_s, REST_S)
        self._rests_until_s = time.monotonic() + rest_s
        return rest_s

    def rests(self, records: int) -> bool:
        """Whether it is too early to begin with so many records."""
        left_s = self._rests_until_s - time.monotonic()
        if left_s <= 0 or records >= FLOOD_RECORDS:
            return False
        if self._resting is None:
            self._resting = asyncio.get_running_loop().call_later(left_s, self._rested)
        return True

    def _waited(self) -> None:
        self._waiting, self._in_vain = None, True
        self._then()

    def _rested(self) -> None:
        self._resting = None
        self._then()
