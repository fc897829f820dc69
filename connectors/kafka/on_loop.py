"""What the poll thread tells, brought to the event loop of who listens."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.chunk import Chunk, SourcePartition

log = structlog.get_logger(__name__)


class LoopListener(ABC):
    """A ``connectors.kafka.consumer.Listener``; belongs to the loop on which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """See ``Listener``."""
        self._on_loop(self._receive, chunks)

    def assigned(self, sources: Sequence[SourcePartition]) -> None:
        """See ``Listener``."""
        self._on_loop(self._open, sources)

    def revoked(self, sources: Sequence[SourcePartition], *, lost: bool) -> Future[None]:
        """See ``Listener``."""
        if self._loop.is_closed():
            done: Future[None] = Future()
            done.set_result(None)
            return done
        return asyncio.run_coroutine_threadsafe(self._revoke(sources, lost=lost), self._loop)

    def failed_for_good(self, error: BaseException) -> None:
        """The poll thread ended."""
        self._on_loop(self.stop_for, error)

    def _on_loop(self, fn: Callable[[Any], None], given: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(fn, given)
        except RuntimeError:  # the loop is closed: the process ends, nothing is done any more
            log.debug("the poll thread outlived the loop")

    @abstractmethod
    def _receive(self, chunks: Sequence[Chunk]) -> None:
        """Take chunks; on the loop."""

    @abstractmethod
    def _open(self, sources: Sequence[SourcePartition]) -> None:
        """Begin to open partitions that were assigned; on the loop."""

    @abstractmethod
    async def _revoke(self, sources: Sequence[SourcePartition], *, lost: bool) -> None:
        """Finish and let go of partitions; on the loop, while the poll thread waits."""

    @abstractmethod
    def stop_for(self, error: BaseException) -> None:
        """Have the worker stop; on the loop."""
