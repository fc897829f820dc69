"""Streams for which the index in memory has no room: looked for in the topic, and seldom twice."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from edge.turns import Turns, heard, tenant_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.index import IndexEntry

WAITING_MAX: Final = 64
"""Streams that may wait to be looked for; each takes up to some seconds, so the last waits for minutes."""
ABSENT_MAX: Final = 10_000
"""Streams that are remembered as not there: about 200 bytes each."""
ABSENT_S: Final = 5.0
"""For how long. One that is opened meanwhile comes by the tail, and is in memory before this is asked."""


class LookUps:
    """One look-up a stream however many ask for it, on a thread of its own: no resume waits for them.

    Tenants take turns (``edge/turns.py``): one whose clients ask for many streams keeps no other waiting.
    """

    def __init__(self, read: Callable[[bytes, int], IndexEntry | None]) -> None:
        """Take what reads the topic for a key and the number of partitions; it may block."""
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look-up")
        self._turns = Turns(1, WAITING_MAX, what="streams are looked for in the index")
        self._looking: dict[bytes, asyncio.Task[IndexEntry | None]] = {}
        self._absent: OrderedDict[bytes, float] = OrderedDict()

    async def find(self, key: bytes, partitions: int) -> IndexEntry | None:
        """Find a stream's latest entry; None if there is none.

        Raises:
            HistoryUnavailable: it could not be looked for to the end.
        """
        if time.monotonic() < self._absent.get(key, 0.0):
            return None
        task = self._looking.get(key)
        if task is None:
            self._turns.check_room(tenant_of(key))
            task = asyncio.get_running_loop().create_task(self._look(key, partitions))
            task.add_done_callback(heard)
            self._looking[key] = task
        # One client that leaves must not end the look-up for the others.
        return await asyncio.shield(task)

    def close(self) -> None:
        """Take no more; the one under way comes to its own end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self, key: bytes, partitions: int) -> IndexEntry | None:
        loop = asyncio.get_running_loop()
        try:
            await self._turns.take(tenant_of(key))
            try:
                found = await loop.run_in_executor(self._thread, self._read, key, partitions)
            finally:
                self._turns.give_back()
        finally:
            self._looking.pop(key, None)
        if found is None:
            self._absent[key] = time.monotonic() + ABSENT_S
            self._absent.move_to_end(key)
            if len(self._absent) > ABSENT_MAX:
                self._absent.popitem(last=False)
        return found
