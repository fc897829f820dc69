"""Records that no agent is given: each becomes a dead letter, where its event would have been handled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from schemas.record import Record

if TYPE_CHECKING:
    from connectors.kafka.lease import Scope


class SetAside(Exception):
    """Stands in a chunk in place of what a record decodes to; it is never raised.

    ``attempts`` is how often the event was in an agent's hands before.
    """

    def __init__(self, cause: str, detail: str, attempts: int = 0) -> None:
        super().__init__(detail)
        self.cause = cause
        self.attempts = attempts


class ProcessDied(SetAside):
    """The process ended, again and again, with the record in an agent's hands: a failure of its agent."""

    def __init__(self, crashes: int) -> None:
        detail = f"the process ended {crashes} times with this event in its agent's hands: see its log, dmesg"
        super().__init__(type(self).__name__, detail, crashes)


Judge = Callable[[Record], SetAside | None]
"""Says why a record must not be handed out, or None if it may."""


def put_aside(scope: Scope, record: Record, error: Exception) -> None:
    """Make a dead letter of a record that does not decode, or that is set aside."""
    if isinstance(error, SetAside):
        scope.dead_letter(record, error.cause, str(error), attempts=error.attempts)
    else:
        scope.dead_letter(record, type(error).__name__, str(error))
    scope.count("dead_letter")
