"""Whose a stream is: of two questions that come for it at one moment, ``ingest`` opens it for one.

1. Each question is bound to the ``open`` that its edge wrote in the same transaction. 2. Which of two opens
is first in one topic says nothing of the questions' order in another: the question that is there first is
begun, and when another comes nothing of its answer is shown any more. 3. ``ingest`` says which open it
refused: that question is nobody's, whoever asked it was told so, and the other one is answered. 4. Had the
wrong answer been shown already, or does ``ingest`` not say, the stream ends: nobody may be given the answer
to another's question.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.llm.emitter import Emitter
    from connectors.llm.valve import Valve

DECIDED_S: Final = 10.0
"""An edge waits as long for what ``ingest`` says of its open."""
ONE_MOMENT_US: Final = 60_000_000
"""An edge refuses to ask for a stream that is known; a transaction of one may take as long."""
_CAUSE: Final = "two questions"


class Claim:
    """One operation's, to its stream; belongs to the loop.

    Args:
        asks: digest of what it asks.
        open_id: event id of the open that was written with it; empty = it names none.
        asked_us: when it was asked.
        give_up: called where nobody may have the stream.
    """

    def __init__(
        self,
        asks: bytes,
        open_id: str,
        asked_us: int,
        emitter: Emitter,
        valve: Valve,
        give_up: Callable[[], None],
    ) -> None:
        self._asks = asks
        self._opens = {open_id} - {""}
        self._asked_us = asked_us
        self._emitter = emitter
        self._valve = valve
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None
        self._decided = asyncio.Event()
        self._decided.set()
        self.lost = False
        """The stream is another question's, and nothing of this one was shown."""

    def meet(self, asks: bytes, open_id: str, asked_us: int) -> bool:
        """Meet another question for the stream; true = it may be the one that the stream was opened for.

        The same question is the same answer, whoever's open it was.
        """
        if self.lost:  # even the same question: this one is answered no more
            return True
        if asks == self._asks:
            self._opens |= {open_id} - {""}
            return False
        if open_id and self._opens:
            self._dispute()
            return True
        if abs(asked_us - self._asked_us) <= ONE_MOMENT_US:  # by whoever binds questions to no open
            self._give_up()
        return False

    def refuse(self, open_id: str) -> None:
        """Take that ``ingest`` refused an open; without one of its own left, the question is nobody's."""
        if open_id not in self._opens or self.lost:
            return
        self._opens.discard(open_id)
        if self._opens:
            return
        if self._emitter.sent_content:
            self._give_up()
            return
        self.lost = True
        self._valve.shut(_CAUSE)  # for good: what it still says is nobody's
        self._emitter.forget_held()
        self._decide()

    async def decided(self) -> None:
        """Return when it is known whose the stream is, or that nobody may have it."""
        await self._decided.wait()

    @property
    def disputed(self) -> bool:
        """Whether it is not."""
        return not self._decided.is_set()

    def settle(self, *, sends: bool) -> None:
        """End the dispute. ``sends``: the stream is this question's, and what was held back is sent."""
        if not self.lost:
            self._valve.open(_CAUSE, sends=sends)
            self._decide()

    def _dispute(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DECIDED_S, self._give_up)
            self._decided.clear()
            self._valve.shut(_CAUSE)

    def _decide(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._decided.set()
