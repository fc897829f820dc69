"""Faust's own services, as they stand in a role's app: without what needs a client or a table of Faust's."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import faust
from faust.app.base import BootStrategy as FaustBootStrategy
from mode import Service
from mode.supervisors import OneForOneSupervisor

from connectors.kafka.errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from connectors.kafka.chunk import SourcePartition
    from pipelines.role import RoleApp

_READY_POLL_S = 0.05
_WAKE_AGAIN_S = 0.005
_CANCELLED_S = 1.0


class BootStrategy(FaustBootStrategy):
    """Faust's services without its leader assignor and reply consumer: they need a client of their own."""

    def kafka_consumer(self) -> Iterable[Any]:
        """Return the consumer alone."""
        return [self.app.consumer]


class Tables(Service):
    """Stands where Faust keeps its tables: ready when our restore is, and refuses Faust's own."""

    def __init__(self, app: RoleApp, **kwargs: Any) -> None:
        self.app = app
        super().__init__(**kwargs)

    def add(self, table: Any) -> Any:
        """Refuse: Faust's tables are not transactional."""
        raise NotSupported(
            f"faust table {table.name}", "use a store: app.source(…, changelog=…) and scope.state"
        )

    async def wait_until_tables_registered(self) -> None:
        """There is nothing to wait for."""

    async def wait_until_recovery_completed(self) -> bool:
        """Wait for the first partitions; returns True if the app stopped meanwhile."""
        while not self.should_stop and not self.app.should_stop:
            if self.app.assigned_once:
                return False
            await asyncio.sleep(_READY_POLL_S)
        return True

    def on_partitions_revoked(self, revoked: Any) -> None:
        """The coordinator lets go of the partitions' state."""

    def on_rebalance_start(self) -> None:
        """The coordinator answers rebalances."""

    def values(self) -> list[Any]:
        """No tables."""
        return []


class Restarting(OneForOneSupervisor):
    """Restarts a failed agent as often as it fails: the coordinator isolates the event and paces retries."""

    def __init__(self, *services: Any, **kwargs: Any) -> None:
        kwargs |= {"max_restarts": 1e9, "over": 1.0}
        super().__init__(*services, **kwargs)

    def wakeup(self) -> None:
        """Wake up until nothing is crashed: mode forgets a call that comes while it restarts another."""
        super().wakeup()
        if not self.should_stop and any(service.crashed for service in self._services):
            self.loop.call_later(_WAKE_AGAIN_S, self.wakeup)


class RoleWorker(faust.Worker):
    """Faust's worker, at the end of which nobody sleeps for a second."""

    async def _sentinel_task(self) -> None:
        """Let the tasks that were cancelled end, for a second at most; then the loop is closed."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=_CANCELLED_S)


class AssignmentListener:
    """The coordinator as the poll thread sees it, noting the first assignment for Faust's start-up."""

    def __init__(self, app: RoleApp) -> None:
        self._app = app
        coordinator = app.coordinator
        self.deliver = coordinator.deliver
        self.failed_for_good = coordinator.failed_for_good

    def assigned(self, sources: Sequence[SourcePartition]) -> None:
        """See ``connectors.kafka.consumer.Listener``."""
        self._app.assigned_once = True
        self._on_loop(self._app.sensed.assigned)
        self._app.coordinator.assigned(sources)

    def revoked(self, sources: Sequence[SourcePartition], *, lost: bool) -> Future[None]:
        """See ``connectors.kafka.consumer.Listener``."""
        self._on_loop(self._app.sensed.rebalance_began)
        return self._app.coordinator.revoked(sources, lost=lost)

    def _on_loop(self, told: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._app.loop.call_soon_threadsafe(told)
