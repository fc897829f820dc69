"""Time on a partition that nothing comes on: a step of its agent that no record brings, in the unit of work.

1. Nothing of a partition was handled for a while. By whose clock does not matter: it is the monotonic one.
2. The broker is asked whether anything stands in the log behind what was handled. If so, it is on its way,
   and time stands still. Else the partition was silent for all that while.
3. The agent's step is told for how long, and moves its event time on by it. What closes by that commits with
   it, and the next silence begins; or nothing took place, and this one goes on.
4. Beside the offset stands how much silence was counted there. A generation that is built reads it, to count
   as much at the same offset: what closed by silence before the switch does not close again after it.

Ticks (``ticker.py``) are better where they can be: they stand in the log, so a rebuild sees time move where
it moved. They are events, and cannot be appended to a topic of anything else.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from connectors.kafka.positions import silence_note
from connectors.threads import DaemonExecutor
from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.coordinator import Coordinator
    from connectors.kafka.lease import Scope
    from connectors.kafka.positions import PositionReader
    from connectors.kafka.tails import Tails

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IdleStep:
    """What is done on a silent partition, and after how long."""

    after_ms: int
    step: Callable[[Any, int], None]
    """Given the partition's scope, and how many microseconds of silence no step before has counted."""


@dataclass(slots=True)
class _Silence:
    position: int
    since: float
    """When it began, or what of it was counted ends."""
    look_at: float
    passed_us: int | None
    """How much of it committed steps have counted; None = an earlier worker's are not asked for yet."""
    counted: float | None = None
    """Until when a step of the open unit counted it; it is part of the past once that commits."""
    counted_us: int = 0
    """``passed_us`` once that commits."""


class IdleTime:
    """Lets time pass on the silent partitions of one role; on the loop. To be closed.

    ``steps`` are by topic; without any nothing is asked.
    """

    follows = False
    """Another counts the silences: a step is taken as soon as it has, and commits though it left nothing."""

    def __init__(self, reader: PositionReader, tails: Tails) -> None:
        self.steps: Mapping[str, IdleStep] = {}
        self.on_failed: Callable[[SourcePartition], None] = lambda _source: None
        """Told of each step that failed and is tried again."""
        self.note: Callable[[SourcePartition, int, str], object] = lambda _source, _position, _note: None
        """Has a note be committed beside the position, in the unit that is open."""
        self._reader = reader
        self._silences: dict[SourcePartition, _Silence] = {}
        self._thread: DaemonExecutor | None = None  # made for the first question: few roles have any
        self._tails = tails

    def now_s(self) -> float:
        """Return the clock by which silence is measured."""
        return time.monotonic()

    async def look(self, coordinator: Coordinator) -> None:
        """Take the steps that are due; to be called every now and then, one call at a time.

        All of them are in one unit: the first that is alone would have it commit, and each time before the
        others' turn.
        """
        if not self.steps:
            return
        now_s = self.now_s()  # before the question: what is appended after the answer is not its matter
        due = self._due(coordinator.progress, coordinator.pauses.stopped, now_s)
        if not due:
            return
        self._thread = self._thread or DaemonExecutor(1, "idle")
        asked = [(source, silence.position, silence.passed_us) for source, silence in due.items()]
        silent = await asyncio.get_running_loop().run_in_executor(self._thread, self._silent, asked)
        for source, passed_us in silent.items():
            silence = due[source]
            if self._silences.get(source) is silence:
                if silence.passed_us is None:
                    silence.passed_us = passed_us
                self._count(coordinator, source, now_s)

    def committed(self, positions: Mapping[Any, int]) -> None:
        """Hear where a committed unit left partitions: what its steps counted is past."""
        for source, position in positions.items():
            silence = self._silences.get(source)
            if silence is not None and silence.position == position and silence.counted is not None:
                silence.since, silence.counted = silence.counted, None
                silence.passed_us = silence.counted_us

    def forget(self, source: SourcePartition) -> None:
        """The partition is another's now, who counts for himself."""
        self._silences.pop(source, None)

    def close(self) -> None:
        """Let the connections go."""
        if self._thread is not None:
            self._thread.shutdown()

    def _due(
        self,
        progress: Mapping[SourcePartition, tuple[int, int]],
        paused: Container[SourcePartition],
        now_s: float,
    ) -> dict[SourcePartition, _Silence]:
        """Return the partitions to ask about; those that moved begin anew, those that went are forgotten."""
        before, self._silences = self._silences, {}
        due = {}
        for source, (position, _) in progress.items():
            step = self.steps.get(source.topic)
            if step is None:
                continue
            next_s = now_s + step.after_ms / 1_000
            silence = before.get(source)
            if silence is None or silence.position != position:
                first_s = now_s if self.follows else next_s
                silence = _Silence(position, now_s, first_s, None if silence is None else 0)
            elif now_s >= silence.look_at and source not in paused and self._left_us(source, silence, now_s):
                silence.look_at = next_s
                due[source] = silence
            self._silences[source] = silence
        return due

    def _left_us(self, _source: SourcePartition, silence: _Silence, now_s: float) -> int:
        """Return how much silence no committed step has counted."""
        return round((now_s - silence.since) * 1_000_000)

    def _count(self, coordinator: Coordinator, source: SourcePartition, now_s: float) -> None:
        silence, step = self._silences[source], self.steps[source.topic].step
        silent_us = self._left_us(source, silence, now_s)
        if not silent_us:
            return  # a step of it has committed while the broker was asked

        def take(scope: Scope) -> Any:
            step(scope, silent_us)
            return self.follows

        try:
            done = coordinator.pass_time(source, silence.position, take)
        except Exception as error:
            if getattr(error, "fatal", False):
                coordinator.stop_for(error)
            else:
                self.on_failed(source)
                log.exception("agent failed at a silent partition, it is tried again", **source._asdict())
        else:
            if done:
                silence.counted, silence.counted_us = now_s, (silence.passed_us or 0) + silent_us
                self.note(source, silence.position, silence_note(silence.counted_us))
            if done is None or self.follows:
                silence.look_at = now_s  # a unit commits: soon

    def _silent(self, asked: Sequence[tuple[SourcePartition, int, int | None]]) -> dict[SourcePartition, int]:
        """Return those of which nothing stands at their position or behind it, with ``passed_us``; blocks."""
        silent = {}
        for source, position, passed_us in asked:
            try:
                if self._is_at_end(source, position):
                    silent[source] = self._passed_us(source, position) if passed_us is None else passed_us
            except SluicegateError as error:
                is_away = getattr(error, "transient", False)
                told = log.debug if is_away else log.warning
                told("whether a partition is silent is not known", **source._asdict(), cause=str(error))
                if is_away:
                    break  # for the others, too, and each would wait for its answer
        return silent

    def _passed_us(self, source: SourcePartition, position: int) -> int:
        """Return how much silence an earlier worker has counted at a position."""
        committed = self._reader.committed(*source)
        return committed.silent_us if committed is not None and committed.offset == position else 0

    def _is_at_end(self, source: SourcePartition, position: int) -> bool:
        _, end = self._reader.ends(*source)
        if self._tails.knows_empty(source, position, end):
            return True
        if self._reader.stable_end(*source) < end:
            return False  # a transaction is open: what it holds is older than what comes after it
        return self._tails.is_empty(source, position, end)


class FollowedIdle(IdleTime):
    """Of a generation that is built: it counts the silence that the one that runs has counted, and no other.

    ``counted`` says at which offset of a partition that one stands, and how much it has counted there.
    """

    follows = True

    def __init__(
        self,
        reader: PositionReader,
        tails: Tails,
        counted: Callable[[SourcePartition], tuple[int, int]],
    ) -> None:
        super().__init__(reader, tails)
        self._counted = counted

    def _left_us(self, source: SourcePartition, silence: _Silence, _now_s: float) -> int:
        position, silent_us = self._counted(source)
        return max(silent_us - (silence.passed_us or 0), 0) if silence.position == position else 0

    def _is_at_end(self, _source: SourcePartition, _position: int) -> bool:
        return True  # the one that runs has asked


def take_step(scope: Scope, step: Callable[[Any], object]) -> bool:
    """Take a step, which is undone if it raises; tell whether it left anything to commit, or says so."""
    scope.savepoint()
    try:
        is_to_commit = bool(step(scope))
    except BaseException:
        scope.undo()
        raise
    scope.keep()
    return is_to_commit or scope.effect_records > 0
