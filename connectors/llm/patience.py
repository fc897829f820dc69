"""How long an operation may still take: for its turn, for an answer, and for the next sign of one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from connectors.llm.plan import in_time_ms

if TYPE_CHECKING:
    from connectors.llm.broker_clock import BrokerClock
    from connectors.llm.plan import Choice, Plan
    from schemas.kinds import ConnectionPolicy

_EARLY_MS: Final = 65_000
"""An event counts as of a minute after its append at the most, and the watermark is 2 s behind it."""


class Patience:
    """One operation's.

    Args:
        clock: the brokers': whoever asked may have another one, and so may we.
        asked_us: when the broker took the request.
        connection: what its kind of stream may last.
        queue_ms_max: the worker's bound of waiting for a call.
    """

    def __init__(
        self, clock: BrokerClock, asked_us: int, connection: ConnectionPolicy, queue_ms_max: int
    ) -> None:
        self._clock = clock
        self.asked_us = asked_us
        self._idle_ms = in_time_ms(connection.idle_timeout_ms)
        self.queue_ms_max = min(queue_ms_max, self._idle_ms)
        self._heard_us = asked_us
        self._total_ms = connection.total_timeout_ms

    def heard(self) -> None:
        """Note that something was written to the stream, however long nothing came since."""
        self._heard_us = self._clock.now_us()

    def age_ms(self) -> int:
        """Milliseconds since it was asked for."""
        return self._clock.age_ms(self.asked_us)

    @property
    def outlived(self) -> bool:
        """Whether a stream that was open when it was asked for has timed out by now, whoever says so."""
        return self.age_ms() > self._total_ms + _EARLY_MS

    def left_ms(self, plan: Plan) -> int:
        """Milliseconds until the plan's deadline; negative = it has passed."""
        return plan.deadline_ms - self.age_ms()

    def in_time(self, choice: Choice) -> Choice:
        """Have the first content be there before the stream has been silent for too long."""
        left_ms = max(self._idle_ms - self._clock.age_ms(self._heard_us), 0)
        timers = choice.timers
        first_content_ms = min(timers.first_content_ms, left_ms)
        return replace(choice, timers=replace(timers, first_content_ms=first_content_ms))
