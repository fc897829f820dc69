"""Which agents wait for a chunk of their topic, and which have one in hand: at most one each."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.kafka.lease import Lease


class Leases:
    """Used on the event loop alone; false while no agent has a chunk in hand."""

    def __init__(self) -> None:
        self._takers: dict[str, asyncio.Future[Lease]] = {}  # by topic, as the next
        self._held: dict[str, Lease] = {}
        self._voided: set[str] = set()
        self._none_held = asyncio.Event()

    def __bool__(self) -> bool:
        return bool(self._held)

    def __iter__(self) -> Iterator[Lease]:
        """Give those in hand."""
        return iter(self._held.values())

    @property
    def topics(self) -> list[str]:
        """Topics of which a chunk is in hand."""
        return list(self._held)

    def waited_for(self) -> list[str]:
        """Return the topics of which somebody waits for a chunk, the one that has waited longest first.

        Who was given to, or is cancelled, and is not yet awake does not wait.
        """
        return [topic for topic, taker in self._takers.items() if not taker.done()]

    def wait_for(self, topic: str) -> asyncio.Future[Lease]:
        """Begin to wait; ``wait_no_more`` ends it, whatever came of it."""
        self._voided.discard(topic)
        self._takers[topic] = asyncio.get_running_loop().create_future()
        return self._takers[topic]

    def wait_no_more(self, topic: str, taker: asyncio.Future[Lease]) -> None:
        """End a wait; another that began since goes on."""
        if self._takers.get(topic) is taker:
            del self._takers[topic]

    def give(self, topic: str, lease: Lease) -> None:
        """Put a chunk into the hand of who waits for it."""
        self._held[topic] = lease
        self._takers[topic].set_result(lease)

    def of(self, topic: str) -> Lease | None:
        """Return what is in hand of a topic, if anything is."""
        return self._held.get(topic)

    def take(self, topic: str) -> Lease | None:
        """Take back what is in hand of a topic, if anything is."""
        lease = self._held.pop(topic, None)
        if not self._held:
            self._none_held.set()
        return lease

    def void(self) -> list[Lease]:
        """Take back all, void: what their agents still do counts for nothing."""
        voided = list(self._held.values())
        for lease in voided:
            lease.void = True
        self._voided |= self._held.keys()
        self._held.clear()
        return voided

    def was_voided(self, topic: str) -> bool:
        """Whether what the topic's agent had in hand is void, and it has not asked for more since."""
        return topic in self._voided

    async def wait_until_none(self, within_s: float) -> None:
        """Wait until none is in hand, for so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._held:
                    self._none_held.clear()
                    await self._none_held.wait()
