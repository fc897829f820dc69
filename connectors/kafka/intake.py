"""Whether chunks are handed out: a rebalance stops that for a while; the end, or an error, for good."""

from __future__ import annotations

import asyncio


class Intake:
    """Open until somebody stops it, and again when all who did let it go on; belongs to the loop."""

    def __init__(self) -> None:
        self._reasons = 0
        self._stopped = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether there is a reason to hand out nothing."""
        return self._reasons > 0

    def stop(self) -> None:
        """Give one more reason."""
        self._reasons += 1
        self._stopped.set()

    def go_on(self) -> None:
        """Take one's reason back."""
        self._reasons -= 1
        if not self._reasons:
            self._stopped.clear()

    async def until_stopped(self) -> None:
        """Wait until there is a reason."""
        await self._stopped.wait()
