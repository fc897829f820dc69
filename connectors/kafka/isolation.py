"""What becomes of a chunk whose agent raised: it waits, it is halved, or its last event is put aside.

1. An error that may pass (``transient``) is waited for, however often, with growing pauses.
2. Any other is halved until the event that fails is alone; its neighbours are handled.
3. That one is tried again, with pauses, and after so many attempts becomes a dead letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import structlog

if TYPE_CHECKING:
    from connectors.kafka.chunk import Chunk
    from connectors.kafka.lease import Scope

log = structlog.get_logger(__name__)

_BACKOFF_S_FIRST, _BACKOFF_S_MAX = 0.1, 10.0
_DETAIL_CHARACTERS_MAX = 2_000


class Again(NamedTuple):
    """What is to be handed out again, in this order, and after how long; no chunks = it is done with."""

    chunks: tuple[Chunk, ...]
    pause_s: float = 0.0


class Isolation:
    """Finds the event that fails; what was tried before is kept in the chunk (``attempts``)."""

    def __init__(self, attempts_max: int) -> None:
        self._attempts_max = attempts_max

    def isolate(self, scope: Scope, chunk: Chunk, error: BaseException) -> Again:
        """Decide about a chunk whose agent raised ``error``, and whose step was undone in ``scope``."""
        if getattr(error, "transient", False):
            chunk.attempts += 1
            log.warning(
                "agent waits for what may pass",
                source=chunk.source,
                attempts=chunk.attempts,
                cause=str(error),
            )
            return Again((chunk,), backoff_s(chunk.attempts))
        if len(chunk) > 1:
            return Again(chunk.split(len(chunk) // 2))
        if chunk.attempts + 1 < self._attempts_max:
            chunk.attempts += 1
            return Again((chunk,), backoff_s(chunk.attempts))
        record, cause = chunk.first, type(error).__name__
        scope.dead_letter(record, cause, str(error)[:_DETAIL_CHARACTERS_MAX], attempts=chunk.attempts + 1)
        scope.count("dead_letter")
        log.error("event became a dead letter", source=chunk.source, offset=record.offset, cause=cause)
        return Again(())


def backoff_s(attempts: int) -> float:
    """Return how long to wait after so many failures in a row, seconds: it doubles up to a bound."""
    return min(_BACKOFF_S_FIRST * 2.0 ** min(attempts - 1, 10), _BACKOFF_S_MAX)
