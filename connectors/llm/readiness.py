"""Whether what a follower reads is known whole, and is of now: what `/readyz` says, and requests wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.kafka.tailer import TailState


class Readiness:
    """Base of the followers; belongs to the loop. ``what`` is said while it is read for the first time."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._ready = asyncio.Event()
        self.problem = "Kafka has not answered yet"

    @property
    def unready(self) -> str:
        """Why what it follows is not known whole, or not of now; empty when it is."""
        return self.problem or ("" if self._ready.is_set() else self._what)

    async def ready(self) -> None:
        """Wait until all that stood there was read."""
        await self._ready.wait()

    def tail_state(self, state: TailState) -> None:
        """See TailListener."""
        self.problem = state.problem
