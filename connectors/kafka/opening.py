"""Opens the partitions that were assigned, each by itself, while those that are open are read."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import structlog

from connectors.threads import DaemonExecutor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.ports import Partitions, Unit

log = structlog.get_logger(__name__)

_OPEN_AGAIN_S = 1.0


class Openings:
    """Those under way; on the coordinator's loop.

    Args:
        unit_thread: that of the unit of work, on which it settles.
        opened: takes over a partition with the offset at which it begins, unless it was cancelled.
        on_error: told of a partition that cannot be opened.
    """

    def __init__(
        self,
        unit: Unit,
        partitions: Partitions,
        unit_thread: DaemonExecutor,
        opened: Callable[[SourcePartition, int, threading.Event], Awaitable[None]],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._unit = unit
        self._partitions = partitions
        self._unit_thread = unit_thread
        self._opened = opened
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._under_way: dict[SourcePartition, tuple[asyncio.Task[None], threading.Event]] = {}
        self._was_ready = False  # a role that never read tells what is away and ends; one that did waits

    def begin(self, source: SourcePartition) -> None:
        """Open a partition that was assigned."""
        cancelled = threading.Event()
        task = self._loop.create_task(self._open(source, cancelled))
        self._under_way[source] = (task, cancelled)

    def cancel(self, sources: Iterable[SourcePartition] | None = None) -> list[asyncio.Task[None]]:
        """Have openings end, all or those of some partitions; returns them, as each takes its time."""
        which = self._under_way.keys() if sources is None else sources
        found = [self._under_way[source] for source in which if source in self._under_way]
        for _task, cancelled in found:
            cancelled.set()
        return [task for task, _ in found]

    async def _open(self, source: SourcePartition, cancelled: threading.Event) -> None:
        try:
            start = await self._open_patiently(source, cancelled)
            if not cancelled.is_set():
                await self._opened(source, start, cancelled)
                self._was_ready = True
        except Exception as error:  # noqa: BLE001  whatever it is, this partition cannot be read
            if not cancelled.is_set():
                self._on_error(error)
        finally:
            self._under_way.pop(source, None)

    async def _open_patiently(self, source: SourcePartition, cancelled: threading.Event) -> int:
        """Return where ``source`` begins; a role that has read before waits for what may pass."""
        while True:
            try:
                # First what this worker left open itself: a restore waits for the end of each transaction.
                await self._loop.run_in_executor(self._unit_thread, self._unit.settle)
                # A thread each: who waits for a large changelog, or for a transaction, holds up no other.
                thread = DaemonExecutor(1, "open")
                return await self._loop.run_in_executor(thread, self._partitions.open, source, cancelled)
            except Exception as error:
                if not (self._was_ready and getattr(error, "transient", False)):
                    raise
                log.warning("partition waits for what may pass", **source._asdict(), cause=str(error))
                await asyncio.sleep(_OPEN_AGAIN_S)
                if cancelled.is_set():
                    raise
