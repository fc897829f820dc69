"""Operators' levers in a test's hands: what holds is kept over restarts, as the control topic keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.controls import Controls
from schemas.controls import PAUSE, QUARANTINE, SKIP, KeyTarget, RecordTarget, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions
    from pipelines.controls import OnChange
    from schemas.controls import AnyTarget
    from schemas.wire import WireCodec


class Levers(Controls):
    """``Controls`` that are told by a test; called on the loop."""

    def __init__(self, kafka: KafkaOptions, role: str, codec: WireCodec) -> None:
        super().__init__(kafka, role, codec)
        self._role = role

    async def start(self, on_change: OnChange) -> None:
        """See ``Controls``; nothing is read."""
        self._on_change = on_change

    async def stop(self) -> None:
        """See ``Controls``."""

    def pause(self, partition: int | None) -> None:
        """Pause partitions of a number, None = all."""
        self._move([Target(self._role, partition)], PAUSE)

    def resume(self, partition: int | None) -> None:
        """Resume partitions of a number, None = all that was paused, one by one too.

        Raises:
            ValueError: one is named, and the role is paused as a whole.
        """
        if partition is not None and None in self._paused:
            raise ValueError(f"{self._role} is paused as a whole: resume() it, then pause what must wait")
        numbers = {None, *self._paused} if partition is None else {partition}
        self._move([Target(self._role, number) for number in numbers], PAUSE, undo=True)

    def skip(self, topic: str, partition: int, offset: int, reason: str, *, undo: bool) -> None:
        """Skip one record of a topic, named without prefix."""
        self._move([RecordTarget(self._role, topic, partition, offset)], SKIP, reason, undo=undo)

    def quarantine(self, key: bytes, reason: str, *, undo: bool) -> None:
        """Set all records of a key aside."""
        self._move([KeyTarget(self._role, key)], QUARANTINE, reason, undo=undo)

    def _move(
        self, targets: Sequence[AnyTarget], action: str, reason: str = "", *, undo: bool = False
    ) -> None:
        control = {"action": action, "by": "the test", "reason": reason}
        self.tail_batch([(target, None if undo else control) for target in targets], {})
