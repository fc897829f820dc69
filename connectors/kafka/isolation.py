"""What becomes of a chunk whose agent raised: it waits, it is halved, or its last event is put aside.

1. An error that may pass (``transient``) is waited for, however often, with growing pauses.
2. Any other is halved until the event that fails is alone; its neighbours are handled.
3. That one is tried again, with pauses, and after so many attempts becomes a dead letter, or its partition
   stands still at it: as the agent's policy says.
"""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from traceback import StackSummary, walk_tb
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from schemas.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.chunk import Chunk
    from connectors.kafka.lease import Scope
    from connectors.kafka.ports import Backoff, FailurePolicy
    from schemas.record import Record

log = structlog.get_logger(__name__)

_ROOT = Path(__file__).resolve().parent.parent.parent
_NOT_THE_AGENTS: Final = tuple(
    f"{folder}{os.sep}"
    for folder in (
        *(_ROOT / name for name in ("connectors", "pipelines", "schemas", "state")),
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    )
)
_DETAIL_CHARACTERS_MAX = 2_000
_NOTE_CHARACTERS_MAX = 500  # at most four bytes each: half of what a broker takes (offset.metadata.max.bytes)


class Again(NamedTuple):
    """What is to be handed out again, in this order, and after how long; no chunks = it is done with."""

    chunks: tuple[Chunk, ...]
    pause_s: float = 0.0


class LetGo(Exception):
    """What an agent is taken to have raised that ended its loop with an event in hand, and began anew."""

    def __init__(self) -> None:
        super().__init__("its agent ended its loop (a break, a task that was cancelled) before it was done")


@dataclass(frozen=True, slots=True)
class Standstill:
    """The event at which a partition stands still, and why."""

    record: Record
    cause: str
    detail: str
    attempts: int

    @property
    def note(self) -> str:
        """Why, in a line that fits beside a committed offset, and may be read by who may read of a group."""
        return redacted(f"{self.cause}: {self.detail}")[:_NOTE_CHARACTERS_MAX]


class Isolation:
    """Finds the event that fails; what was tried before is kept in the chunk (``attempts``)."""

    def __init__(
        self, attempts_max: Mapping[str, int], policies: Mapping[str, FailurePolicy], backoff: Backoff
    ) -> None:
        self._attempts_max = attempts_max  # by topic, as the policies are
        self._policies = policies
        self._backoff = backoff

    def isolate(self, scope: Scope, chunk: Chunk, error: BaseException) -> Again | Standstill:
        """Decide about a chunk whose agent raised ``error``, and whose step was undone in ``scope``."""
        if getattr(error, "transient", False):
            chunk.attempts += 1
            log.warning(
                "agent waits for what may pass",
                **chunk.source._asdict(),
                attempts=chunk.attempts,
                cause=str(error),
            )
            return Again((chunk,), self._backoff.seconds(chunk.attempts))
        if len(chunk) > 1:
            return Again(chunk.split(len(chunk) // 2))
        if chunk.attempts + 1 < self._attempts_max[chunk.source.topic]:
            chunk.attempts += 1
            return Again((chunk,), self._backoff.seconds(chunk.attempts))
        detail = str(error)[:_DETAIL_CHARACTERS_MAX]
        failed = Standstill(chunk.first, type(error).__name__, detail, chunk.attempts + 1)
        return self._give_up(scope, chunk, failed, where_of(chunk, error))

    def _give_up(
        self, scope: Scope, chunk: Chunk, failed: Standstill, where: Mapping[str, Any]
    ) -> Again | Standstill:
        policy = self._policies[chunk.source.topic]
        if policy == "stop-partition" and chunk.handback < 0:  # those were put aside before
            log.error("partition stands still at an event", **where, cause=failed.note)
            return failed
        scope.dead_letter(failed.record, failed.cause, failed.detail, failed.attempts, where["raised_at"])
        scope.count("dead_letter")
        log.error("event became a dead letter", **where, cause=failed.cause)
        return Again(())


def where_of(chunk: Chunk, error: BaseException) -> dict[str, Any]:
    """Return for a log line which event was in hand, of several the first, and where its agent raised."""
    return {**chunk.source._asdict(), "offset": chunk.first.offset, "raised_at": place_of(error)}


def place_of(error: BaseException) -> str:
    """Return where an error left the agent's own code, as ``file:line in function``.

    Where it raised it, or called what did; if none of the agent's code was under way, where it was raised.
    No word of the error itself: an event's own may be in it, which is for the dead letter, and for no log.
    """
    frames = StackSummary.extract(walk_tb(error.__traceback__), lookup_lines=False)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_AGENTS)]
    if not frames:
        return ""
    last = (own or frames)[-1]
    return f"{last.filename}:{last.lineno} in {last.name}"
