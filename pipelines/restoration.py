"""Brings a partition's state up to its changelog, and tells a changelog that has lost its beginning."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from connectors.kafka.birth import is_birth, mark_birth
from schemas.topics import TOMBSTONES_MS
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
        tombstones_ms: how long the changelog keeps tombstones (``delete.retention.ms``). An older store
            may have missed some: what was deleted would stand in it for good.
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
        tombstones_ms: int = TOMBSTONES_MS,
    ) -> None:
        self._kafka = kafka
        self._reader = reader
        self._restorer = restorer
        self._topic = changelog.named(kafka.topic_prefix)
        self._partition = partition
        self._backend = backend
        self._tombstones_ms = tombstones_ms
        self._marked = changelog.cleanup == "compact"  # one that also deletes loses its beginning in time
        self._topic_id = ""
        self._began = False  # the first record was seen
        self._whole = False  # and it was the mark

    def run(self, handled: int | None, cancelled: threading.Event) -> bool:
        """Restore; ``handled`` is the group's offset of the input. Returns whether there is any state.

        1. From a local position that can be trusted, read on; else 2. rebuild from the changelog's first
        record. If the group has handled anything, that must be the mark of its beginning; the local data
        is dropped only then: it may be the last whole copy.

        Raises:
            StateLost: the changelog was deleted, made anew or cut.
            KafkaUnavailable, RestoreStalled: wait.
        """
        self._topic_id = self._reader.topic_id(self._topic)
        low, high = self._reader.ends(self._topic, self._partition)
        position = self._backend.position()
        lie = None if position is None else _lie(position, self._topic_id, low, high, self._tombstones_ms)
        if position is not None and lie is None:
            self._restore(position.offset, high, self._write, cancelled)
            return True
        must_be_whole = self._marked and handled is not None
        if lie is not None:
            log.warning(
                "local state is not used, rebuilding", topic=self._topic, partition=self._partition, cause=lie
            )

        def apply(changes: dict[bytes, bytes | None], next_offset: int) -> None:
            if not self._began:
                self._begin(next(iter(changes)))
                if must_be_whole and not self._whole:
                    raise self._lost(f"begins at offset {low} without the mark of its beginning", handled)
                self._backend.clear()
            self._write(changes, next_offset)

        self._restore(low, high, apply, cancelled)
        if not self._began and not cancelled.is_set():
            if must_be_whole:
                raise self._lost(f"is empty ({low} to {high})", handled)
            self._backend.clear()
        return self._backend.position() is not None

    def begin(self) -> None:
        """Mark the beginning of the changelog, unless it is there: nothing was handled yet.

        Raises:
            KafkaUnavailable: it was not written.
        """
        if self._marked and not self._whole:
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

    def _write(self, changes: dict[bytes, bytes | None], next_offset: int) -> None:
        state = {key: value for key, value in changes.items() if not is_birth(key)}
        if state:  # the mark alone is no state
            self._backend.write(state, Position(self._topic_id, next_offset, time.time_ns() // 1_000))

    def _lost(self, what: str, handled: int | None) -> StateLost:
        return StateLost(
            f"changelog {self._topic}[{self._partition}] {what}, but its group has handled the input up to "
            f"offset {handled}: state is gone",
        )


def _lie(position: Position, topic_id: str, low: int, high: int, tombstones_ms: int) -> str | None:
    """Say why a local position cannot be trusted, or None."""
    if position.topic_id != topic_id:
        return f"the changelog was made anew (was {position.topic_id}, is {topic_id})"
    if not low <= position.offset <= high:
        return f"position {position.offset} is outside of the changelog ({low} to {high})"
    if time.time_ns() // 1_000 - position.written_us > tombstones_ms * 1_000:
        return f"position is older than the changelog keeps tombstones ({tombstones_ms} ms)"
    return None
