"""Who may read the log next, for a past or a stream: few at a time, tenant by tenant, as many as fit wait.

Where there is no more room, one that asks takes the place of the last of the tenant that has the most, if
that leaves it no more than the other: longest queue drop (B. Suter et al., "Buffer management schemes for
supporting TCP in gigabit routers with per-flow queueing", 1999). So a tenant has all the room that others do
not need, and is not refused for what another asked for before.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any, Final

from edge.errors import HistoryUnavailable

WAITING_MAX: Final = 1_024
"""Reads that may wait: about 2 KiB each. At their worst, 500 ms for each of two readers, four minutes."""


class Turns:
    """Places for a bounded number; tenants that wait are let in one after the other, each in its order."""

    def __init__(
        self, places: int, waiting_max: int | None = None, *, what: str = "reads of the past are waited for"
    ) -> None:
        """``what`` the places are for, and how many may wait for them."""
        self._waiting_max = WAITING_MAX if waiting_max is None else waiting_max
        self._what = what
        self._free = places
        self._queues: OrderedDict[bytes, deque[asyncio.Future[bool]]] = OrderedDict()
        """Who waits, by tenant: told True when it is let in, False when it makes way."""
        self.waiting = 0

    def check_room(self, tenant: bytes) -> None:
        """Say at once what ``take`` would say. Raises HistoryUnavailable."""
        self._makes_way_for(tenant)

    async def take(self, tenant: bytes) -> None:
        """Wait for a place, which is to be given back.

        Raises:
            HistoryUnavailable: too many wait already, or it made way for another tenant; come again.
        """
        makes_way = self._makes_way_for(tenant)
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(tenant, deque()).append(turn)
        self.waiting += 1
        if makes_way is not None:
            self._tell(makes_way.pop(), let_in=False)
        try:
            let_in = await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(tenant, turn)
            elif turn.result():  # it was let in just then
                self.give_back()
            raise
        if not let_in:
            raise self._refusal(tenant)

    def give_back(self) -> None:
        """Let the next one in."""
        while self._queues:
            tenant, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[tenant] = queue  # behind the others
            if self._tell(turn, let_in=True):
                return
        self._free += 1

    def _makes_way_for(self, tenant: bytes) -> deque[asyncio.Future[bool]] | None:
        """Give the queue whose last one makes way for one more of a tenant; None if there is room."""
        if self.waiting < self._waiting_max or self._free:
            return None
        longest = max(self._queues.values(), key=len)
        if len(self._queues.get(tenant, ())) + 1 >= len(longest):
            raise self._refusal(tenant)
        return longest

    def _tell(self, turn: asyncio.Future[bool], *, let_in: bool) -> bool:
        """Tell one that was taken out of its queue; give whether it still waited."""
        self.waiting -= 1
        if turn.done():  # it has just gone
            return False
        turn.set_result(let_in)
        return True

    def _leave(self, tenant: bytes, turn: asyncio.Future[bool]) -> None:
        queue = self._queues.get(tenant, deque())
        if turn in queue:
            queue.remove(turn)
            self.waiting -= 1
            if not queue:
                del self._queues[tenant]

    def _refusal(self, tenant: bytes) -> HistoryUnavailable:
        own = len(self._queues.get(tenant, ()))
        return HistoryUnavailable(
            f"{self.waiting} {self._what} already, {own} by this tenant",
            remedy="Wait: clients go on by themselves. If it stays so, look for who resumes so often "
            "(runbooks/reconnect-storm.md), or add edges.",
        )


def tenant_of(key: bytes) -> bytes:
    """Give the tenant of a stream's key."""
    return key.partition(b"/")[0]


def heard(task: asyncio.Task[Any]) -> None:
    """Take note of a failure that all who waited for were gone before: asyncio would print it as a fault."""
    if not task.cancelled():
        task.exception()
