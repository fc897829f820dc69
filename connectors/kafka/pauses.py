"""Which partitions are to stand: paused by an operator, or at an event that cannot be passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from connectors.kafka.errors import ConsumerFailed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Container

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.isolation import Standstill

log = structlog.get_logger(__name__)


class Pauses:
    """Kept by the coordinator, on its loop."""

    def __init__(self) -> None:
        self.wanted: Callable[[SourcePartition], bool] = lambda _source: False
        """Says whether a partition is to be paused; whoever sets it calls ``follow_pauses``."""
        self.standstills: dict[SourcePartition, Standstill] = {}
        """Partitions that stand still at an event, until they are lifted or assigned anew."""
        self.waiting: set[SourcePartition] = set()
        """Partitions whose next chunk waits for what may pass: it is tried again, nothing more is read."""
        self.stopped: dict[SourcePartition, asyncio.Future[None] | None] = {}
        """Assigned and not read; done when the poll thread delivers nothing more, None = it never did."""

    def must_stop(self, source: SourcePartition) -> bool:
        """Say whether a partition is read and must not be."""
        return source not in self.stopped and self._to_stand(source)

    @property
    def shut(self) -> Container[SourcePartition]:
        """Partitions of which nothing is handed out."""
        return self.stopped.keys() - self.waiting if self.waiting else self.stopped

    def overrules(self, source: SourcePartition) -> bool:
        """Say, once, whether a partition that waited is to stand for another reason now."""
        if source not in self.waiting or not (source in self.standstills or self.wanted(source)):
            return False
        self.waiting.discard(source)
        return True

    def may_start(self, source: SourcePartition) -> bool:
        """Say whether a partition stands and need not: all that was delivered of it has arrived."""
        if source not in self.stopped or self._to_stand(source):
            return False
        done = self.stopped[source]
        return done is None or done.done()

    def stop(self, source: SourcePartition, done: asyncio.Future[None] | None = None) -> None:
        """Note that a partition stops."""
        if done is not None:  # a poll thread that has ended delivers nothing either
            done.add_done_callback(lambda ended: None if ended.cancelled() else ended.exception())
        self.stopped[source] = done
        if self.wanted(source):
            log.warning("partition paused by an operator", topic=source.topic, partition=source.partition)

    def go_on(
        self,
        source: SourcePartition,
        offset: int,
        started: asyncio.Future[None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Note that a partition is read again from ``offset``; ``on_error`` hears of one that cannot be."""

        def settled(ended: asyncio.Future[None]) -> None:
            error = None if ended.cancelled() else ended.exception()
            if error is not None and not isinstance(error, ConsumerFailed):  # whose thread told it itself
                on_error(error)

        started.add_done_callback(settled)
        del self.stopped[source]
        log.info("partition goes on", topic=source.topic, partition=source.partition, offset=offset)

    def forget(self, source: SourcePartition) -> None:
        """Note that a partition is another's, who tries for himself what this one could not pass."""
        self.stopped.pop(source, None)
        self.standstills.pop(source, None)
        self.waiting.discard(source)

    def lift(self, which: Callable[[SourcePartition, Standstill], bool]) -> None:
        """Have the partitions that ``which`` names try again; whoever calls this calls ``follow_pauses``."""
        for source, standstill in list(self.standstills.items()):
            if which(source, standstill):
                del self.standstills[source]

    def _to_stand(self, source: SourcePartition) -> bool:
        return source in self.standstills or source in self.waiting or self.wanted(source)
