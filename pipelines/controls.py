"""What operators told this role: read from the control topic beside its inputs, and followed.

The topic is compacted and is read whole before the role reads anything, so a pause outlives any restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from connectors.kafka.aside import SetAside
from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.tailer import RARELY_MS, Followed, Tailer
from schemas.controls import PAUSE, QUARANTINE, SKIP, AnyTarget, KeyTarget, RecordTarget, Target, target_of
from schemas.errors import WireError
from schemas.topics import CONTROLS

if TYPE_CHECKING:
    from connectors.kafka.aside import Judge
    from connectors.kafka.chunk import Chunk
    from connectors.kafka.inflight import Span
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.tailer import Place, TailState
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_CAUGHT_UP_S: Final = 30.0
_JOIN_S: Final = 2.0
_NOTHING: Final[Mapping[int, SetAside]] = {}
Told = list[tuple[AnyTarget, dict[str, Any] | None]]
OnChange = Callable[[Sequence[AnyTarget]], None]
"""Called with the targets of what was taken back."""


class Controls:
    """Implements ``connectors.kafka.tailer.TailListener``; all but ``decode`` runs on the loop."""

    def __init__(self, kafka: KafkaOptions, role: str, codec: WireCodec) -> None:
        self._kafka = kafka
        self._role = role
        self._codec = codec
        self._prefix = kafka.topic_prefix
        self._topic = CONTROLS.named(kafka.topic_prefix)
        self._paused: set[int | None] = set()
        self._skips: dict[tuple[str, int], dict[int, SetAside]] = {}
        self._quarantined: dict[bytes, SetAside] = {}
        self._caught_up = asyncio.Event()
        self._on_change: OnChange = lambda _taken_back: None
        self._tailer: Tailer[Told] | None = None

    async def start(self, on_change: OnChange) -> None:
        """Read what holds now, and call ``on_change`` whenever that changes.

        Raises:
            KafkaUnavailable: the topic is there and cannot be read to its end.
        """
        self._on_change = on_change
        there = await asyncio.to_thread(self._is_there)
        followed, loop = [Followed(self._topic, -1)], asyncio.get_running_loop()
        self._tailer = Tailer(self._kafka, followed, self.decode, self, loop, asks_ms=RARELY_MS)
        self._tailer.start()
        if not there:
            log.warning(
                "no control topic, so no pauses: `sluicegate topics create` makes it", topic=self._topic
            )
            return
        try:
            await asyncio.wait_for(self._caught_up.wait(), _CAUGHT_UP_S)
        except TimeoutError:
            raise KafkaUnavailable(self._kafka.bootstrap_servers, f"no end of {self._topic}") from None

    async def stop(self) -> None:
        """Follow no more."""
        if self._tailer is not None:
            self._tailer.stop()
            await asyncio.to_thread(self._tailer.join, _JOIN_S)

    def is_paused(self, partition: int) -> bool:
        """Say whether the partitions of that number are to be left alone."""
        return None in self._paused or partition in self._paused

    def set_aside(self, record: Record) -> SetAside | None:
        """Say why a record must not be handed out, or None if it may."""
        skips = self._skips.get((record.topic, record.partition), _NOTHING)
        return skips.get(record.offset) or self._quarantined.get(record.key or b"")

    def judge_of(self, records: Chunk) -> Judge | None:
        """Return what judges some records; None = none can be set aside, as of nearly all.

        One that is handed back is not skipped any more, but its key may be in quarantine.
        """
        if records.handback >= 0:
            return lambda record: self._quarantined.get(record.key or b"")
        return self.set_aside if self._quarantined else self.skips_of(records)

    def skips_of(self, records: Span) -> Judge | None:
        """Return what says which of some records are skipped, None = none is; on any thread."""
        skips = self._skips.get(records.source)  # never changed, but replaced
        if skips is None:
            return None
        first, end = records.first.offset, records.next_offset
        if not any(first <= offset < end for offset in skips):
            return None
        return lambda record: skips.get(record.offset)

    def decode(self, records: Sequence[Record]) -> Told:
        """Return what was told to this role; None = it was taken back. Raises RegistryUnavailable."""
        told: Told = []
        for record in records:
            target = target_of(record.key)
            if target is None or target.role != self._role:
                continue
            try:
                control = self._codec.decode(record.value, CONTROLS.subject) if record.value else None
            except WireError as error:
                log.warning("control that cannot be read", offset=record.offset, cause=str(error))
                continue
            told.append((target, control))
        return told

    def tail_batch(self, batch: Told, _positions: Mapping[Place, int]) -> None:
        """See ``TailListener``."""
        for target, control in batch:
            self._note(target, control)
        if batch:
            self._on_change([target for target, control in batch if control is None])

    def _note(self, target: AnyTarget, control: dict[str, Any] | None) -> None:
        action = None if control is None else control["action"]
        if isinstance(target, Target):
            (self._paused.add if action == PAUSE else self._paused.discard)(target.partition)
        elif isinstance(target, KeyTarget):
            self._quarantined.pop(target.key, None)
            if control is not None and action == QUARANTINE:
                self._quarantined[target.key] = _set_aside("quarantined", control)
        else:
            self._note_skip(target, control if action == SKIP else None)

    def _note_skip(self, target: RecordTarget, control: dict[str, Any] | None) -> None:
        where = (self._prefix + target.topic, target.partition)
        skips = {**self._skips.get(where, {})}
        skips.pop(target.offset, None)
        if control is not None:
            skips[target.offset] = _set_aside("skipped", control)
        self._skips[where] = skips

    def tail_caught_up(self, _place: Place) -> None:
        """See ``TailListener``."""
        self._caught_up.set()

    def tail_state(self, state: TailState) -> None:
        """See ``TailListener``."""

    def _is_there(self) -> bool:
        reader = CommittedReader(self._kafka, self._topic)
        try:
            return bool(reader.partitions())
        finally:
            reader.close()


def _set_aside(what: str, control: Mapping[str, Any]) -> SetAside:
    return SetAside(what, f"{what} by {control['by'] or 'an operator'}: {control['reason']}")
