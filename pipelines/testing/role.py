"""The role under test as it lives: started on a loop of its own, run until it is at rest, and stopped."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.chunk import SourcePartition
from pipelines.app import assemble
from pipelines.metrics import WorkerMetrics
from pipelines.testing.clock import SteppedIdle, SteppedTicker
from pipelines.testing.errors import NotAtRest
from pipelines.testing.levers import Levers
from pipelines.testing.reading import TopicReader

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from connectors.kafka.rival import Rival
    from pipelines.extension import Extension
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.testing.services import Services
    from pipelines.tools import Tools
    from schemas.topics import TopicSpec
    from state.checkpoint import UnitResult

log = structlog.get_logger(__name__)

_READY_S: Final = 60.0
_STOP_S: Final = 20.0
_PAUSE_S: Final = 0.002


class RoleUnderTest:
    """One role's app, from start to start anew; for the thread that made it.

    Args:
        counts: is added to what units of work count, over restarts.
        now_us: the test's clock, microseconds since the epoch.
    """

    def __init__(
        self,
        role: str,
        options: WorkerOptions,
        extension: Extension,
        tools: Tools,
        services: Services,
        counts: Counter[str],
        now_us: Callable[[], int],
    ) -> None:
        self._role = role
        self._options = options
        self._extension = extension
        self._tools = tools
        self._services = services
        self._counts = counts
        self._now_us = now_us
        self.reader = TopicReader(services.kafka)
        self.ticker: SteppedTicker
        self._idle: SteppedIdle
        self.levers = Levers(services.kafka, role, tools.codec)
        self.rival: Rival | None = None
        """Another member of the role's group."""
        self._loop = asyncio.new_event_loop()
        self._app: RoleApp | None = None

    @property
    def live(self) -> RoleApp:
        """The app as it runs now."""
        assert self._app is not None, "the role runs from the start to the close"
        return self._app

    def start(self) -> None:
        """Start, and wait until all of the input is read.

        Raises:
            NotAtRest: that took too long.
            SluicegateError: what kept it from starting.
        """
        self._loop.run_until_complete(self._start())

    async def _start(self) -> None:
        services = self._services
        app = self._app = assemble(
            self._role,
            self._options,
            self._extension,
            self._tools,
            web={"web_enabled": False},
            open_store=services.open_store,
        )
        services.create(self.topics())
        app.controls = self.levers
        app.engine.metrics = _Counting(self._role, self._counts)
        self.ticker = app.engine.ticker = SteppedTicker(services.kafka, self._tools.codec.encode_event)
        engine = app.engine
        self._idle = engine.idle = SteppedIdle(engine.reader, engine.tails, self._now_us)
        app.finalize()
        try:
            await app.start()
            await self._until(lambda: app.not_ready() is None, "the role is not ready", _READY_S)
            await self._fall_silent()
        except BaseException as error:
            if app.fatal is not None and app.fatal is not error:
                raise app.fatal from error
            raise

    def stop(self) -> None:
        """Stop what runs."""
        app, self._app = self._app, None
        if app is None:
            return
        try:
            self._loop.run_until_complete(asyncio.wait_for(app.stop(), _STOP_S))
        except TimeoutError:  # seen under load, after a role that crashed: a task of Faust's does not end
            log.warning("the role did not stop in time, it is let go of", role=app.role)
        if app.slot is not None:
            app.slot.close()

    def close(self) -> None:
        """Stop for good."""
        try:
            self.stop()
        finally:
            if self.rival is not None:
                self.rival.leave()
            self._loop.close()
            self.reader.close()

    def topics(self) -> list[TopicSpec]:
        """Return all that there are: ours, the extension's, and what agents read and keep."""
        sources = self.live.sources.values()
        own = [spec for source in sources for spec in (source.spec, source.changelog) if spec is not None]
        return list({spec.name: spec for spec in (*self._extension.all_topics(), *own)}.values())

    def call(self, act: Callable[[], None]) -> None:
        """Have something done on the loop."""

        async def done() -> None:
            act()

        self._loop.run_until_complete(done())

    # -- waiting --------------------------------------------------------------------------------------

    def rest(self, within_s: float) -> None:
        """Run until all input is handled; raises what made the role stop, or NotAtRest."""
        what = "the agent has not handled all of its input"
        self._loop.run_until_complete(self._until(self._is_at_rest, what, within_s))

    def fall_silent(self) -> None:
        """Let time pass that nothing came for, until what is due by it is committed; raises as ``rest``."""
        self._loop.run_until_complete(self._fall_silent())

    async def _fall_silent(self, within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while await self._idle.look_now(self.live.coordinator):
            if self.live.fatal is not None:
                raise self.live.fatal
            if time.monotonic() > deadline:
                raise NotAtRest("the agent has not done what falls due on idle partitions", within_s)
            await asyncio.sleep(_PAUSE_S)

    def _is_at_rest(self) -> bool:
        """Judge by what is committed: then it is handled, and its outputs and state stand."""
        app = self.live
        app.coordinator.follow_pauses()
        standstills = app.standstills()
        for source, (position, _) in app.coordinator.progress.items():
            if source in standstills:
                if position < standstills[source].record.offset:
                    return False
            elif not self.levers.is_paused(source.partition) and not self._is_handled(source, position):
                return False
        return True

    def _is_handled(self, source: SourcePartition, position: int) -> bool:
        if source in self.live.coordinator.pauses.stopped:
            return False  # resumed: it goes on as soon as it has come to its stop
        return self.reader.is_handled(self.live.sources[source.topic].spec, source.partition, position)

    def settle(self) -> None:
        """Run until this worker reads all that the other member has not; raises as ``rest``."""
        app = self.live
        every = frozenset(
            SourcePartition(topic, number)
            for topic, source in app.sources.items()
            for number in range(source.spec.partitions)
        )

        def settled() -> bool:
            theirs = frozenset() if self.rival is None else self.rival.holds
            poller = app.engine.poller
            if theirs is None or poller is None or poller.assignment != every - theirs:
                return False
            return app.not_ready() is None

        self._loop.run_until_complete(self._until(settled, "the group has not settled", _READY_S))

    async def _until(self, done: Callable[[], bool], what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            if self.live.fatal is not None:
                raise self.live.fatal
            if done():
                return
            if time.monotonic() > deadline:
                raise NotAtRest(what, within_s)
            await asyncio.sleep(_PAUSE_S)


class _Counting(WorkerMetrics):
    """Metrics that also add up what became of the inputs, over restarts."""

    def __init__(self, role: str, counts: Counter[str]) -> None:
        super().__init__(role)
        self._counts = counts

    def committed(self, result: UnitResult) -> None:
        """See ``WorkerMetrics``."""
        super().committed(result)
        self._counts.update(result.counts)
