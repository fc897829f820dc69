"""Brings a partition's state up to its changelog, and tells a changelog that has lost its beginning."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from connectors.kafka.birth import is_birth, mark_birth
from pipelines.changelogs import Retention
from pipelines.generations import is_target
from state.errors import StateLost
from state.store import Position

if TYPE_CHECKING:
    import threading

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.positions import PositionReader
    from connectors.kafka.restore import Apply, Restorer
    from schemas.topics import TopicSpec
    from state.store import Backend

log = structlog.get_logger(__name__)


class Restoration:
    """One partition of one store, on its way from what is on the disk to the changelog's end.

    Args:
        retention: how long the changelog keeps what; None = as it is declared.
        marked: False = one that deletes was begun by a version that wrote no mark, or that is not known.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        reader: PositionReader,
        restorer: Restorer,
        changelog: TopicSpec,
        partition: int,
        backend: Backend,
        *,
        retention: Retention | None = None,
        marked: bool = True,
    ) -> None:
        self._kafka = kafka
        self._reader = reader
        self._restorer = restorer
        self._topic = changelog.named(kafka.topic_prefix)
        self._partition = partition
        self._backend = backend
        self._retention = retention or Retention.declared(changelog)
        self._marked = marked or "delete" not in changelog.cleanup
        self._was_migrated = is_target(changelog)
        self._topic_id = ""
        self._began = False  # the first record was seen
        self._whole = False  # and it was the mark

    def run(self, handled: int | None, cancelled: threading.Event) -> bool:
        """Restore; ``handled`` is the group's offset of the input. Returns whether there is any state.

        1. From a local position that can be trusted, read on; else 2. rebuild from the changelog's first
        record. If the group has handled anything, that must be the mark of its beginning, unless there was
        none, or retention may have taken it; the local data is dropped only then: it may be the last whole
        copy.

        Raises:
            StateLost: the changelog was deleted, made anew or cut.
            KafkaUnavailable, RestoreStalled: wait.
        """
        self._topic_id = self._reader.topic_id(self._topic)
        low, high = self._reader.ends(self._topic, self._partition)
        position = self._backend.position()
        lie = None if position is None else self._lie(position, low, high)
        if position is not None and lie is None:
            self._restore(position.offset, high, self._write, cancelled)
            self._stand_at(high, cancelled)
            return True
        must_be_whole = handled is not None and not self._may_lack_mark(position, low, high)

        def apply(changes: dict[bytes, bytes | None], next_offset: int) -> None:
            if not self._began:
                self._begin(next(iter(changes)))
                if must_be_whole and not self._whole:
                    what = f"begins at offset {low} without the mark of its beginning"
                    raise self._lost(what, handled, lie)
                self._drop(lie)
            self._write(changes, next_offset)

        self._restore(low, high, apply, cancelled)
        if not self._began and not cancelled.is_set():
            if must_be_whole:
                raise self._lost(f"is empty ({low} to {high})", handled, lie)
            self._drop(lie)
        return self._stand_at(high, cancelled)

    def begin(self) -> None:
        """Mark the beginning of the changelog, unless it is there: nothing was handled yet.

        Raises:
            KafkaUnavailable: it was not written.
        """
        if not self._whole:
            mark_birth(self._kafka, self._topic, self._partition)

    def _begin(self, key: bytes) -> None:
        self._began, self._whole = True, is_birth(key)

    def _restore(self, start: int, high: int, apply: Apply, cancelled: threading.Event) -> None:
        self._restorer.restore(
            self._topic,
            self._partition,
            start=start,
            high=high,
            apply=apply,
            cancelled=cancelled,
        )

    def _stand_at(self, high: int, cancelled: threading.Event) -> bool:
        """Note that the changelog was read up to ``high``; returns whether there is any state.

        Nothing but markers of transactions stands between the last change and ``high``. A position before
        them would look, once retention has taken all, like one whose records were cut.
        """
        position = self._backend.position()
        if position is not None and position.offset < high and not cancelled.is_set():
            self._backend.write({}, Position(self._topic_id, high, _now_us()))
        return position is not None

    def _write(self, changes: dict[bytes, bytes | None], next_offset: int) -> None:
        state = {key: value for key, value in changes.items() if not is_birth(key)}
        if state:  # the mark alone is no state
            self._backend.write(state, Position(self._topic_id, next_offset, _now_us()))

    def _drop(self, lie: str | None) -> None:
        position = self._backend.position()
        if lie is not None and position is not None:
            is_of_before = self._was_migrated and position.topic_id != self._topic_id
            (log.info if is_of_before else log.warning)(
                "local state is not used, rebuilding", topic=self._topic, partition=self._partition, cause=lie
            )
        self._backend.clear()

    def _lie(self, position: Position, low: int, high: int) -> str | None:
        """Say why a local position cannot be trusted, or None."""
        if position.topic_id != self._topic_id:
            how = "is another one since a migration" if self._was_migrated else "was made anew"
            return f"the changelog {how} (was {position.topic_id}, is {self._topic_id})"
        if not low <= position.offset <= high:
            return f"position {position.offset} is outside of the changelog ({low} to {high})"
        tombstones_ms = self._retention.tombstones_ms
        # What stands at the last offset is still there, in the segment that no cleaner touches: the marker of
        # the disk's own last unit, as a rule.
        if position.offset < high - 1 and _age_ms(position) > tombstones_ms:
            return f"position is older than the changelog keeps tombstones ({tombstones_ms} ms)"
        return None

    def _may_lack_mark(self, position: Position | None, low: int, high: int) -> bool:
        """Say whether the log may be without its mark though nobody deleted, made anew or cut it.

        Where none was written, that it was made anew is told by the record of the role (``Deployment``).
        Where one was, retention may have taken it, with the log's beginning. It takes none of a log that
        begins at 0, as one that was made anew does, and nothing that came behind a position that is younger
        than it. Without a position it cannot be told from a cut.
        """
        if not self._marked and (
            position is None or position.topic_id != self._topic_id or low <= position.offset <= high
        ):
            return True
        keeps_ms = self._retention.records_ms
        if keeps_ms < 0 or low == 0:
            return False
        if position is None:
            return True
        if position.topic_id != self._topic_id or position.offset > high:
            return False
        return position.offset >= low or _age_ms(position) > keeps_ms

    def _lost(self, what: str, handled: int | None, lie: str | None) -> StateLost:
        kept = "" if lie is None else f". What the disk has of it is left as it is: {lie}"
        return StateLost(
            f"changelog {self._topic}[{self._partition}] {what}, but its group has handled the input up to "
            f"offset {handled}: state is gone{kept}",
        )


def _now_us() -> int:
    return time.time_ns() // 1_000


def _age_ms(position: Position) -> int:
    return (_now_us() - position.written_us) // 1_000
