"""Holds an answer back while something must be known before anybody sees more of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.llm.attempt import Room
    from connectors.llm.emitter import Emitter


class Valve:
    """One operation's; satisfies ``attempt.Room``, as the producer behind it does.

    While it is shut nothing is sent, and the provider is read no more: what is held is what was in hand.
    """

    def __init__(self, emitter: Emitter, room: Room) -> None:
        self._emitter = emitter
        self._room = room
        self._causes: set[str] = set()
        self._opened = asyncio.Event()
        self._opened.set()

    @property
    def full(self) -> bool:
        """See Room."""
        return bool(self._causes) or self._room.full

    async def emptied(self) -> None:
        """See Room."""
        while self.full:
            await self._opened.wait()
            if self._room.full:
                await self._room.emptied()

    def shut(self, cause: str) -> None:
        """Hold back what comes, until this cause and all others are gone."""
        self._causes.add(cause)
        self._opened.clear()
        self._emitter.hold()

    def open(self, cause: str, *, sends: bool = True) -> None:
        """Take a cause away. ``sends``: whether what was held is sent, or is nobody's."""
        if cause not in self._causes:
            return
        self._causes.discard(cause)
        if not sends:
            self._emitter.forget_held()
        if not self._causes:
            self._emitter.release()
            self._opened.set()
