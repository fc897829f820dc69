"""One role's Faust app: Faust's App, agents, worker and web over our coordinator."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args

import faust
import structlog
from faust.types.topics import TopicT

from connectors.kafka.chunk import events_of
from connectors.kafka.consumer import PollThread
from connectors.kafka.coordinator import Coordinator
from connectors.kafka.idle import IdleStep
from connectors.kafka.ports import ATTEMPTS_MAX, FailurePolicy
from connectors.kafka.stream import Stream
from connectors.threads import DaemonExecutor
from pipelines.agents import endless, failed_outside
from pipelines.changelogs import keeps_too_little
from pipelines.errors import AgentEnded
from pipelines.gauges import EngineGauges
from pipelines.partitions import Source
from pipelines.queries import Held, StateReader
from pipelines.sensors import Sensors
from pipelines.services import AssignmentListener, BootStrategy, Restarting, RoleWorker, Tables
from schemas.catalog import EVENT
from schemas.controls import Target
from schemas.errors import SluicegateError
from state.schema import UNDECLARED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prometheus_client.registry import Collector

    from connectors.kafka.chunk import Chunker, SourcePartition
    from connectors.kafka.isolation import Standstill
    from pipelines.controls import Controls
    from pipelines.deployment import Deployment
    from pipelines.engine import Engine
    from pipelines.handbacks import Orders
    from pipelines.queries import Query
    from pipelines.rebuild import Bounds
    from pipelines.slots import Slot
    from schemas.controls import AnyTarget
    from schemas.record import Record
    from schemas.topics import TopicSpec
    from state.checkpoint import UnitResult
    from state.schema import StoreSchema
    from state.store import StateView

log = structlog.get_logger(__name__)

_TICK_S = 0.5
_LAG_S = 5.0
_IDLE_MS_MIN = 100
_DEPLOYED_S, _BOUNDS_S = 2.0, 1.0
_TURNS = {"makes way": "generation makes way", "is live": "generation is live"}
_ONE_READER = "one agent a topic and role; give the other a role of its own, or do both in one"
_UNREAD = "Give what app.source() returned to @app.agent, or take the source out."
_ONE_AGENT = "a role's partitions are its parallelism, start more workers"
# How a stop's time is spent; with Faust's own 3 s it is less than ops/supervisor.py STOP_WITHIN_S. Waits for
# Kafka are given up from the first on, the last unit is left as it is at the second; then the poll thread
# has 3 s to end (connectors/kafka/coordinator.py), and the clients the third.
_LEAVE_S, _ABANDON_S, _CLOSE_S = 8.0, 13.0, 4.0


class RoleApp(faust.App):
    """A Faust app whose streams are fed by the coordinator; one app, group and process a role."""

    BootStrategy = BootStrategy
    in_transaction = False  # transactions are the unit of work's, for every agent

    def __init__(self, role: str, engine: Engine, *, slot: Slot | None = None, **kwargs: Any) -> None:
        self.role = role
        self.engine = engine
        self.slot = slot  # held, and its folder locked, for as long as the app is
        self.sources: dict[str, Source] = {}
        self._readers: dict[str, str] = {}  # topic -> the agent function that iterates over it
        self._shown: list[Collector] = []
        self.coordinator_or_none: Coordinator | None = None
        self.controls: Controls | None = None
        """What operators tell this role; set by the composition root before the start."""
        self.deployment: Deployment | None = None
        """What is deployed of the role; set by the composition root, too."""
        self.orders: Orders | None = None
        """Records of dead letters that are handed back to this role; set by it, too."""
        self.bounds: Bounds | None = None
        """Of a generation that is built beside the one that runs: how far it may read."""
        self.makes_way = False
        """It stopped because the generation after it takes its place."""
        self.runs_again = False
        """It stopped to be started again at once: it is live now."""
        self.sensed = Sensors(self)
        self.reader = StateReader(self.sources, self.held, engine.owners.of)
        self.assigned_once = False
        self.fatal: BaseException | None = None
        super().__init__(
            engine.options.group,
            # Host and port are for Faust's banner alone; librdkafka gets the engine's options.
            broker=f"sluicegate://{engine.options.kafka.bootstrap_servers.split(',')[0]}",
            store="memory://",
            datadir=engine.options.state_dir,
            topic_disable_leader=True,
            topic_allow_declare=False,
            agent_supervisor=Restarting,
            Stream=Stream,
            TableManager=Tables,
            Worker=RoleWorker,
            **kwargs,
        )

    # -- for agents -----------------------------------------------------------------------------------

    def show(self, collector: Collector) -> None:
        """Have ``/metrics`` show what ``collector`` reads, from the start on."""
        self._shown.append(collector)

    def source(
        self,
        spec: TopicSpec,
        *,
        agent: str,
        decode: Callable[[Sequence[Record]], list[Any]] | None = None,
        columns: Chunker | None = None,
        changelog: TopicSpec | None = None,
        open_deadline: Callable[[StateView], int | None] | None = None,
        late_to: TopicSpec | None = None,
        on_assigned: Callable[[str, str, int, int], int] | None = None,
        on_revoked: Callable[[int], None] | None = None,
        store: StoreSchema = UNDECLARED,
        writes: Sequence[TopicSpec] = (),
        sink: str = "",
        on_failure: FailurePolicy = "dead-letter",
        attempts_max: int | None = None,
        query: Query | None = None,
        on_idle: Callable[[Any, int], None] | None = None,
        idle_ms: int = 10_000,
    ) -> Any:
        """Declare an agent's input topic, how it decodes, and the agent's store; returns a Faust topic.

        With ``decode`` the agent iterates over events, or over ``stream.batches()`` of them; with ``columns``
        over ``stream.record_batches()``, Arrow batches. One agent a topic and role. ``store`` says what
        stands in its state: the next deploy is held against it. ``writes`` and ``sink`` are where its effects
        go, for `sluicegate topology` and the check at a start. ``on_idle(scope, silent_us)`` is called while
        nothing comes on a partition, each ``idle_ms``, to move its event time on (``Watermark.idle``) and do
        what falls due. ``pipelines.partitions.Source`` says more, ``connectors.kafka.ports.FailurePolicy``
        what becomes of an event that cannot be handled after ``attempts_max`` attempts.

        Raises:
            ValueError: not exactly one of ``decode`` and ``columns``, no such policy, a changelog that has
                not as many partitions as the input (state stands under the number of its partition) or whose
                cleanup deletes what the store needs, an ``open_deadline`` on a topic that holds no events, as
                a tick is one, or beside an ``on_idle``, ``idle_ms`` below 100, ``attempts_max`` that is not
                1 to 100, a topic that another agent of the role reads, or a name that one has.
        """
        wrong = ""
        if (decode is None) == (columns is None):
            wrong = "give either decode or columns"
        elif changelog is not None and changelog.partitions != spec.partitions:
            wrong = (
                f"{changelog.name} must have as many partitions as {spec.name}, {spec.partitions}, and has "
                f"{changelog.partitions}"
            )
        elif changelog is not None and (
            lost := keeps_too_little(changelog.cleanup, changelog.retention_ms, store)
        ):
            wrong = f"{changelog.name}: {lost}"
        elif open_deadline is not None and spec.subject != EVENT:
            wrong = f"open_deadline has ticks appended, and {spec.name} holds no {EVENT}: give it on_idle"
        elif open_deadline is not None and on_idle is not None:
            wrong = "give either open_deadline or on_idle: time would be moved twice"
        elif idle_ms < _IDLE_MS_MIN:
            wrong = f"idle_ms={idle_ms} must be at least {_IDLE_MS_MIN}: each asks the broker"
        elif on_failure not in get_args(FailurePolicy):
            wrong = f"on_failure={on_failure!r} is none of {get_args(FailurePolicy)}"
        elif attempts_max is not None and attempts_max not in range(1, ATTEMPTS_MAX + 1):
            wrong = f"attempts_max={attempts_max!r} must be 1 to {ATTEMPTS_MAX}; left out, it is the worker's"
        if wrong or (wrong := self._taken(spec, agent)):
            raise ValueError(f"source of {agent}: {wrong}")
        name = spec.named(self.engine.options.kafka.topic_prefix)
        chunker = columns if decode is None else events_of(decode)
        assert chunker is not None
        self.sources[name] = Source(
            spec,
            chunker,
            agent,
            changelog,
            open_deadline,
            late_to,
            on_assigned,
            on_revoked,
            on_failure,
            attempts_max,
            query,
            tuple(writes),
            sink,
            store,
            None if on_idle is None else IdleStep(idle_ms, on_idle),
        )
        return self.topic(name, value_type=bytes)

    def _taken(self, spec: TopicSpec, agent: str) -> str:
        """Say by which source a topic, or the name of an agent, is taken; empty = both are free."""
        for source in self.sources.values():
            if source.spec.name == spec.name:
                return f"{spec.name} is read by {source.agent} already: {_ONE_READER}"
            if source.agent == agent:
                return (
                    f"an agent of that name reads {source.spec.name}, and its state is in a folder of that "
                    f"name; give what reads {spec.name} another"
                )
        return ""

    def agent(
        self,
        channel: Any = None,
        *,
        concurrency: int = 1,
        isolated_partitions: bool = False,
        **kwargs: Any,
    ) -> Callable[[Callable[..., Any]], Any]:
        """Make a Faust agent of a function; ``channel`` is what ``source`` returned.

        Raises:
            ValueError: a second agent for a topic, or several of one agent: they would take events from each
                other, and each of them hold up the other's unit of work.
        """
        define = super().agent(
            channel, concurrency=concurrency, isolated_partitions=isolated_partitions, **kwargs
        )

        def defined(fun: Callable[..., Any]) -> Any:
            name = kwargs.get("name") or fun.__name__
            if concurrency > 1 or isolated_partitions:
                how = f"concurrency={concurrency}" if concurrency > 1 else "isolated_partitions"
                raise ValueError(f"agent {name}: {how} is not supported: {_ONE_AGENT}")
            topic = channel.get_topic_name() if isinstance(channel, TopicT) else str(channel)
            if topic not in self.sources:
                raise ValueError(f"agent {name}: {topic} is no source; give it what app.source() returned")
            if topic in self._readers:
                raise ValueError(f"agents {self._readers[topic]} and {name} both read {topic}: {_ONE_READER}")
            self._readers[topic] = name
            return define(endless(fun))

        return defined

    def unread(self) -> str:
        """Name the sources without an agent; empty = none."""
        names = [source.spec.name for name, source in self.sources.items() if name not in self._readers]
        return f"no agent reads {', '.join(names)}, which it declares a source for" if names else ""

    def partitions(self) -> list[str]:
        """Return the partitions that are restored and being read, as ``topic[partition]``."""
        coordinator = self.coordinator_or_none
        read = coordinator.assignment if coordinator is not None else ()
        return sorted(f"{topic}[{partition}]" for topic, partition in read)

    def paused(self) -> list[str]:
        """Return those of them that an operator paused."""
        if self.coordinator_or_none is None:
            return []
        pauses = self.coordinator_or_none.pauses
        stopped = [source for source in pauses.stopped if pauses.wanted(source)]
        return sorted(f"{topic}[{partition}]" for topic, partition in stopped)

    def restoring(self) -> dict[str, int]:
        """Return the changelog partitions that are being restored, and how many records are left of each."""
        if self.coordinator_or_none is None:
            return {}
        found = self.engine.partitions.restorer.progress.items()
        return {f"{topic}[{number}]": each.remaining for (topic, number), each in found if each.remaining}

    def standstills(self) -> Mapping[SourcePartition, Standstill]:
        """Return the events that those of them stand still at that cannot pass one."""
        return {} if self.coordinator_or_none is None else self.coordinator_or_none.pauses.standstills

    def held(self, where: SourcePartition) -> Held | None:
        """Return what this worker has of a partition, None if that is another's."""
        poller, coordinator = self.engine.poller, self.coordinator_or_none
        if poller is None or coordinator is None or where not in poller.assignment:
            return None
        ready = where in coordinator.assignment
        partitions = self.engine.partitions
        return Held(partitions.backend(where) if ready else None, partitions.restore_of(where))

    def not_ready(self) -> str | None:
        """Say why this role does not read, or None if it does."""
        poller = self.engine.poller
        if poller is None or not self.assigned_once:
            return "the group has not assigned partitions yet"
        if not poller.is_alive():
            return "the poll thread ended"
        waiting = len(poller.assignment) - len(self.partitions())
        return f"{waiting} partitions are being restored" if waiting > 0 else None

    # -- the engine's life ----------------------------------------------------------------------------

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator; there is one from the app's start on."""
        assert self.coordinator_or_none is not None
        return self.coordinator_or_none

    async def on_start(self) -> None:
        """Open stores and producer before any agent runs."""
        await super().on_start()
        self.flow_control.resume()  # never suspended: Faust's queues are not in use
        try:
            await asyncio.to_thread(self.engine.open, self.sources)
            self.engine.metrics.agents = {topic: source.agent for topic, source in self.sources.items()}
            for collector in (EngineGauges(self.role, self.engine), *self._shown):
                self.engine.metrics.watch(collector)
        except Exception as error:
            self.fatal = error  # mode ends the worker with exit code 1, and says nothing
            raise
        self.coordinator_or_none = Coordinator(
            agents={topic: source.agent for topic, source in self.sources.items()},
            policies={topic: source.on_failure for topic, source in self.sources.items()},
            attempts_max={
                topic: source.attempts_max
                for topic, source in self.sources.items()
                if source.attempts_max is not None
            },
            unit=self.engine.unit,
            partitions=self.engine.partitions,
            options=self.engine.options.coordinator,
            on_commit=self.sensed.commit_began,
            on_committed=self._on_committed,
            on_fatal=self._on_fatal,
            in_flight=self.engine.in_flight,
        )
        if self.controls is not None:
            controls = self.controls
            self.coordinator.pauses.wanted = lambda source: controls.is_paused(source.partition)
            self.coordinator.handout.judges = controls.judge_of
            self.engine.guard.judges = controls.skips_of
            await controls.start(self._on_controls)
        if self.orders is not None:
            self.orders.start()
            guard = self.engine.guard_of_handbacks
            self.add_future(self.orders.carry_out(self.coordinator, self.sources, guard))
        self.add_future(self._tick())
        self.add_future(self._pass_time())
        self.add_future(self._follow_deployment())
        if self.bounds is not None:
            self.add_future(self._follow_bounds(self.bounds))
        self.add_future(self._watch_lag())
        self.add_future(self._renew())

    def start_polling(self, topics: frozenset[str]) -> None:
        """Begin to poll: called by Faust's conductor when all agents are up."""
        if unread := self.unread():  # what comes there would fill the hand-over of the others
            self.coordinator.stop_for(AgentEnded(f"role {self.role}: {unread}", remedy=_UNREAD))
            return
        if missing := self.sources.keys() - topics:
            log.warning("no agent reads yet", topics=sorted(missing))
        hot_keys = self.engine.hot_keys
        poller = PollThread(
            self.engine.options.kafka,
            self.engine.options.consumer,
            {topic: hot_keys.watching(source.chunker) for topic, source in self.sources.items()},
            AssignmentListener(self),
            self.engine.guard,
            end_of=(lambda _source: None) if self.bounds is None else self.bounds.end_of,
        )
        self.coordinator.poller = self.engine.poller = poller
        poller.start()

    async def _stop_consumer(self) -> None:
        """Close intake, commit, leave; called by Faust first thing when the app stops."""
        loop = asyncio.get_running_loop()
        if self.coordinator_or_none is not None and self.engine.poller is not None:
            loop.call_later(_LEAVE_S, self.engine.leaving.set)
            await self.coordinator_or_none.stop(within_s=_ABANDON_S)
        for followed in (self.controls, self.orders):
            if followed is not None:
                await followed.stop()
        closing = loop.run_in_executor(DaemonExecutor(1, "close"), self._close)
        _, late = await asyncio.wait([closing], timeout=_CLOSE_S)
        if late:
            log.warning("clients and stores were not closed in time", role=self.role)
        else:
            closing.result()

    def _close(self) -> None:
        coordinator = self.coordinator_or_none
        self.engine.close(abandoned=coordinator is not None and coordinator.abandoned)
        if self.bounds is not None:
            self.bounds.close()
        if self.deployment is not None:
            self.deployment.close()

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        """Tell the coordinator which agent failed before Faust restarts it."""
        coordinator, topic = self.coordinator_or_none, agent.channel.get_topic_name()
        if coordinator is not None and not coordinator.failed(topic, exc):
            await failed_outside(self._readers[topic], exc, coordinator.stop_for)

    def _on_controls(self, taken_back: Sequence[AnyTarget]) -> None:
        """Follow what operators told. A standstill ends by a resume, or when its event is to be set aside."""
        coordinator = self.coordinator
        resumed = {target.partition for target in taken_back if isinstance(target, Target)}

        def over(source: SourcePartition, at: Standstill) -> bool:
            aside = self.controls is not None and self.controls.set_aside(at.record) is not None
            return aside or None in resumed or source.partition in resumed

        coordinator.pauses.lift(over)
        coordinator.follow_pauses()

    def _on_committed(self, result: UnitResult) -> None:
        self.engine.idle.committed(result.positions)
        self.engine.metrics.committed(result)
        self.sensed.committed(result)
        for where in self.coordinator.assignment:
            self.engine.partitions.watch(where)

    def _on_fatal(self, error: BaseException, where: Mapping[str, Any]) -> None:
        """Stop the worker: going on could lose or double events."""
        if self.fatal is None:
            self.fatal = error
            remedy = getattr(error, "remedy", "")
            log.error("worker stops", role=self.role, **where, cause=str(error), remedy=remedy)
            self.add_future(self.crash(error))

    async def _tick(self) -> None:
        while not self.should_stop:
            await self.sleep(_TICK_S)
            self.coordinator.follow_pauses()
            self.sensed.settle()
            self.engine.metrics.ticked(self.engine.ticker.tick(self.coordinator.pauses.stopped))

    async def _pass_time(self) -> None:
        while self.engine.idle.steps and not self.should_stop:
            await self.sleep(_TICK_S)
            await self.engine.idle.look(self.coordinator)

    async def _renew(self) -> None:
        """Have no event wait for a producer that is made anew after a silence."""
        while not self.should_stop:
            await self.sleep(_LAG_S)
            with suppress(SluicegateError):  # the next unit of work asks again, and says so
                await self.loop.run_in_executor(self.coordinator.unit_thread, self.engine.transaction.renew)

    async def _follow_bounds(self, bounds: Bounds) -> None:
        """Ask how far the generation that runs is; on a thread of its own, for it may wait long."""
        thread = DaemonExecutor(1, "bounds")
        while not self.should_stop:
            try:
                await self.loop.run_in_executor(thread, bounds.look)
            except SluicegateError as error:
                log.debug("how far the running generation is is not known", cause=str(error))
            await self.sleep(_BOUNDS_S)

    async def _follow_deployment(self) -> None:
        """Stop when it is another generation's turn, or ours."""
        if self.deployment is None:
            return
        thread = DaemonExecutor(1, "deployment")
        while not self.should_stop:
            try:
                turn = await self.loop.run_in_executor(thread, self.deployment.turn)
            except SluicegateError as error:
                if getattr(error, "fatal", False):
                    self.coordinator.stop_for(error)
                    return
                log.debug("what is deployed is not known", cause=str(error))
            else:
                if turn != "goes on":
                    self.makes_way, self.runs_again = turn == "makes way", turn == "is live"
                    log.warning(_TURNS[turn], role=self.role, generation=self.deployment.generation)
                    os.kill(os.getpid(), signal.SIGTERM)  # the way on which Faust's worker ends in order
                    return
            await self.sleep(_DEPLOYED_S if self.bounds is None else _BOUNDS_S)

    async def _watch_lag(self) -> None:
        """Ask every few seconds how far each partition is behind; Kafka away, the last answer stands."""
        thread = DaemonExecutor(1, "lag")
        while not self.should_stop:
            await self.sleep(_LAG_S)
            progress = {**self.engine.partitions.opening.copy(), **self.coordinator.progress}
            try:
                behind = await self.loop.run_in_executor(thread, self.engine.behind, progress)
            except SluicegateError as error:
                log.debug("lag is not known", cause=str(error))
            else:
                self.engine.metrics.lag(behind)
