"""Drives one role, built-in or a user's own, through its real engine: feed, advance, read, restart.

Everything from the poll thread to the state runs as in production; what differs is what the clients of Kafka
reach (memory, or real Kafka), the broker's clock, which is the test's, and where state is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.deadletters import DeadLetter, DeadLetterReader
from connectors.kafka.errors import TopicUndeclared
from connectors.kafka.stage import Stage
from pipelines.app import assemble, check_kinds, tools_of
from pipelines.blueprint import ROLES
from pipelines.errors import UnknownRole
from pipelines.extension import Extension
from pipelines.metrics import WorkerMetrics
from pipelines.options import WorkerOptions
from pipelines.testing.clock import SECOND_US, SteppedTicker
from pipelines.testing.errors import NotAtRest
from pipelines.testing.reading import TopicReader
from pipelines.testing.records import Feed, Output, RecordMaker
from pipelines.testing.services import InMemory, OnStack, Services, Stack
from pipelines.testing.state import StateReader
from schemas.catalog import EVENT
from schemas.envelope import DEFAULT_TENANT, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from connectors.kafka.isolation import Standstill
    from pipelines.role import RoleApp
    from schemas.topics import TopicSpec
    from state.checkpoint import UnitResult

START_US: Final = 1_700_000_000_000_000
"""Where a test's clock begins, microseconds since the epoch: 2023-11-14 22:13:20 UTC."""
log = structlog.get_logger(__name__)

_READY_S: Final = 60.0
_STOP_S: Final = 20.0
_PAUSE_S: Final = 0.002


class AgentDriver:
    """One role under test; to be closed, or used as a context manager. For the thread that made it.

    Args:
        role: name of an agent of ``extension``, or of a role of ours.
        extension: the user's agents, as ``pipelines.extension.load`` finds them in a folder.
        folder: where the role may keep files (a test's own temporary folder).
        stack: real parts to run on; None = memory.
        start_us: where the clock begins.
        chunk_events_max: as the setting of that name: the longest batch that an agent is handed.
        at_least_once: as if the setting of that name named the role: a refused commit leaves its outputs.

    Raises:
        UnknownRole: there is no such role.
        SluicegateError: what kept the role from starting.
    """

    def __init__(
        self,
        role: str,
        extension: Extension | None = None,
        *,
        folder: Path,
        stack: Stack | None = None,
        start_us: int = START_US,
        chunk_events_max: int = 2_000,
        at_least_once: bool = False,
    ) -> None:
        self.role = role
        self.extension = extension or Extension()
        roles = {**ROLES, **self.extension.roles}
        if role not in roles:
            raise UnknownRole(role, roles)
        check_kinds(self.extension.all_kinds())
        self._stage = Stage(start_us)
        self._services: Services = (
            InMemory(self.extension, self._stage)
            if stack is None
            else OnStack(stack, self.extension, self._stage)
        )
        self._options = WorkerOptions(
            kafka=self._services.kafka,
            registry_url="" if stack is None else stack.registry_url,
            postgres_dsn=None,
            state_dir=folder,
            # In memory a unit ends when all that was fed is handled, however slow the machine is.
            commit_interval_ms=100 if stack else 3_600_000,
            chunk_events_max=chunk_events_max,
            at_least_once=(role,) if at_least_once else (),
            identity="test",
        )
        self.tools = tools_of(self.extension, self._services.schemas)
        """Codecs and kinds, as agents are given them."""
        self._maker = RecordMaker(self.tools, self._services.register)
        self._reader = TopicReader(self._services.kafka)
        self._positions: dict[str, dict[int, int]] = {}  # of what was read, by topic and partition
        self._fed: list[Feed] = []  # and not yet in the log
        self.counts: Counter[str] = Counter()
        """Inputs by the outcome that ``scope.count`` was given, of committed units alone."""
        self._ticker: SteppedTicker
        self._loop = asyncio.new_event_loop()
        self._app: RoleApp | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    # -- what goes in ---------------------------------------------------------------------------------

    def event(
        self,
        type: str,  # noqa: A002 - the name of the field
        fields: Mapping[str, object] | None = None,
        *,
        stream: str = "one",
        tenant: str = DEFAULT_TENANT,
        **envelope: Any,
    ) -> Event:
        """Return the next event of a stream, not fed yet: seq counts up, the time is the clock's.

        ``fields`` are the payload's, ``envelope`` names any other field of ``Event``.

        Raises:
            InvalidEvent: a field of the payload breaks the contract.
            UnknownType: there is no schema for the type.
        """
        return self._maker.event(
            type, fields or {}, tenant=tenant, stream=stream, now_us=self.now_us, **envelope
        )

    def feed(
        self,
        *values: Any,
        topic: TopicSpec | str | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
        at_us: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Append records to an input and run until the agent has handled them.

        A value is an ``Event``, a row (dict) of the topic's subject, bytes as they are, or None, a tombstone.
        ``topic`` may be left out where the role has one input. Without ``key`` an event has its stream's, any
        other value none; without ``partition`` the key decides. ``at_us`` is the broker's append time, the
        clock's if it is not said; ``schema`` the Avro text that a row is written with, as by an older
        producer.

        Raises:
            NotAtRest: the agent did not come to an end.
            SluicegateError: what made the role stop.
            ValueError: neither key nor partition says where a record goes.
        """
        self.append(
            *values, topic=topic, key=key, partition=partition, headers=headers, at_us=at_us, schema=schema
        )
        self.run()

    def append(
        self,
        *values: Any,
        topic: TopicSpec | str | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
        at_us: int | None = None,
        schema: str | None = None,
    ) -> None:
        """Append as ``feed``; the agent sees it at the next ``run``, ``feed`` or ``advance``."""
        spec = self._input() if topic is None else self._spec(topic)
        appended_us = self.now_us if at_us is None else at_us
        for value in values:
            its_key = value.key if key is None and isinstance(value, Event) else key
            if its_key is None and partition is None:
                raise ValueError(f"a record for {spec.name}: give its key, or its partition")
            data = self._maker.encode(spec, value, schema)
            self._fed.append(Feed(spec, data, its_key, partition, tuple(headers), appended_us))

    # -- time -----------------------------------------------------------------------------------------

    @property
    def now_us(self) -> int:
        """The broker's clock, microseconds since the epoch: it stamps what is appended."""
        return self._stage.now_us

    def advance(self, seconds: float) -> None:
        """Move the broker's clock on; what falls due on the way is done at its time.

        A partition whose agent waits for time (``open_deadline``) gets a tick when it is due, at most one a
        second, as in production. Event time moves by events and ticks alone.
        """
        end_us = self.now_us + round(seconds * SECOND_US)
        self.run()
        while (due_us := self._ticker.next_us()) is not None and due_us <= end_us:
            self._stage.now_us = max(self.now_us, due_us)
            self._ticker.tick_due(self.now_us)
            self.run()
        self._stage.now_us = end_us

    def tick(self, topic: TopicSpec | str | None = None) -> None:
        """Bring the event time of an input of events up to the clock, by a tick on each of its partitions.

        For an agent that waits for no time itself: its partitions stand still until the next event otherwise.

        Raises:
            ValueError: the topic holds no events.
        """
        spec = self._input() if topic is None else self._spec(topic)
        if spec.subject != EVENT:
            raise ValueError(f"{spec.name} holds no {EVENT}, and a tick is one")
        name = spec.named(self._services.kafka.topic_prefix)
        self.run()
        sources = [SourcePartition(name, partition) for partition in range(spec.partitions)]
        self._ticker.tick_at(sources, self.now_us)
        self.run()

    def run(self, within_s: float = 30.0) -> None:
        """Run until all that stands in the role's inputs is handled and committed.

        Raises:
            NotAtRest: that took longer.
            SluicegateError: what made the role stop.
        """
        at_once = self._options.chunk_events_max  # as the poll thread fetches: units end where they would
        while True:
            feeds, self._fed = self._fed[:at_once], self._fed[at_once:]
            self._services.append(feeds)
            self._loop.run_until_complete(self._rest(within_s))
            if not self._fed:
                return

    # -- what comes out -------------------------------------------------------------------------------

    def read(self, topic: TopicSpec | str) -> list[Output]:
        """Return what was committed to a topic since it was read last, by partition and offset."""
        spec = self._spec(topic)
        positions = self._positions.setdefault(spec.name, {})
        found = self._outputs(spec, positions)
        positions.update({output.partition: output.offset + 1 for output in found})
        return found

    def values(self, topic: TopicSpec | str) -> list[Any]:
        """Return the values alone of what ``read`` would give."""
        return [output.value for output in self.read(topic)]

    def table(self, topic: TopicSpec | str) -> dict[bytes | None, Any]:
        """Return the latest value of each key of a topic, from its beginning; a tombstone takes its key out.

        For results that supersede (``scope.update``): how many of them there are depends on where units of
        work end.
        """
        latest = {output.key: output.value for output in self._outputs(self._spec(topic), {})}
        return {key: value for key, value in latest.items() if value is not None}

    def dead_letters(self) -> list[DeadLetter]:
        """Return all dead letters, by partition and offset of the letter; topics are without prefix."""
        prefix = self._services.kafka.topic_prefix
        with closing(DeadLetterReader(self._services.kafka, self.tools.codec)) as reader:
            letters = list(reader.present())
        return [replace(letter, from_topic=letter.from_topic.removeprefix(prefix)) for letter in letters]

    def late_events(self) -> list[dict[str, Any]]:
        """Return all late events, from what sources name as ``late_to``; topics are without prefix."""
        prefix = self._services.kafka.topic_prefix
        sources = self._live.sources.values()
        topics = {source.late_to.name: source.late_to for source in sources if source.late_to is not None}
        late = [output.value for spec in topics.values() for output in self._outputs(spec, {})]
        return [event | {"topic": event["topic"].removeprefix(prefix)} for event in late]

    def state(self, agent: str | None = None, partition: int | None = None) -> StateReader:
        """Return an agent's committed state, of all partitions or one; to be read at once.

        ``agent`` may be left out where the role has one with state. What windows and sessions ask of a
        ``StateView`` they can ask of this: ``minutes.get(driver.state(), start_us, key)``.

        Raises:
            LookupError: there is no such agent, or several.
        """
        sources = {source.agent: source for source in self._live.sources.values() if source.changelog}
        names = list(sources) if agent is None else [name for name in sources if name == agent]
        if len(names) != 1:
            raise LookupError(f"{agent or 'the agent'}: name one of {', '.join(sorted(sources)) or 'none'}")
        spec = sources[names[0]].spec
        wanted = range(spec.partitions) if partition is None else (partition,)
        unit = self._live.engine.unit
        return StateReader({number: unit.scope(names[0], number).backend for number in wanted})

    # -- what goes wrong ------------------------------------------------------------------------------

    def abort_next_unit(self) -> None:
        """Have the broker refuse the next commit: its unit must leave nothing behind, and is done again.

        An agent that keeps anything outside of its scope, in a variable say, shows it here. Of a role that
        is at least once the outputs stand, and come again.
        """
        self._stage.refusals += 1

    @property
    def standstills(self) -> dict[tuple[str, int], Standstill]:
        """Where an agent stands still that may not pass an event (``on_failure``), by topic and partition."""
        live = self._live
        return {
            (live.sources[source.topic].spec.name, source.partition): standstill
            for source, standstill in live.standstills().items()
        }

    def resume(self) -> None:
        """Have it try again what it stands still at, as `sluicegate resume` does."""
        self._live.coordinator.pauses.lift(lambda _source, _standstill: True)
        self.run()

    def restart(self, *, lose_state: bool = False) -> None:
        """Stop the role and start it again, with the state that it left or, lost, from the changelog."""
        self.run()
        folder = self._live.engine.options.state_dir
        agents = [source.agent for source in self._live.sources.values() if source.changelog]
        self._stop()
        for agent in agents if lose_state else ():
            self._services.lose_state(folder / agent)
        self._start()

    def close(self) -> None:
        """Stop the role, and leave nothing behind."""
        try:
            self._stop()
        finally:
            self._loop.close()
            self._reader.close()
            self._services.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the role -------------------------------------------------------------------------------------

    @property
    def _live(self) -> RoleApp:
        assert self._app is not None, "the role runs from the start to the close"
        return self._app

    def _start(self) -> None:
        self._loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        app = self._app = assemble(
            self.role,
            self._options,
            self.extension,
            self.tools,
            web={"web_enabled": False},
            open_store=self._services.open_store,
        )
        self._services.create(self._topics())
        app.engine.metrics = _Counting(self.role, self.counts)
        self._ticker = app.engine.ticker = SteppedTicker(self._services.kafka, self.tools.codec.encode_event)
        app.finalize()
        try:
            await app.start()
            await self._until(lambda: app.not_ready() is None, "the role is not ready", _READY_S)
        except BaseException as error:
            if app.fatal is not None and app.fatal is not error:
                raise app.fatal from error
            raise

    def _stop(self) -> None:
        app, self._app = self._app, None
        if app is None:
            return
        try:
            self._loop.run_until_complete(asyncio.wait_for(app.stop(), _STOP_S))
        except TimeoutError:  # seen under load, after a role that crashed: a task of Faust's does not end
            log.warning("the role did not stop in time, it is let go of", role=app.role)
        if app.slot is not None:
            app.slot.close()

    async def _rest(self, within_s: float) -> None:
        await self._until(self._is_at_rest, "the agent has not handled all of its input", within_s)

    def _is_at_rest(self) -> bool:
        """Judge by what is committed: then it is handled, and its outputs and state stand."""
        app = self._live
        app.coordinator.follow_pauses()
        standstills = app.standstills()
        for source, (position, _) in app.coordinator.progress.items():
            if source in standstills:
                if position < standstills[source].record.offset:
                    return False
            elif not self._reader.is_handled(app.sources[source.topic].spec, source.partition, position):
                return False
        return True

    async def _until(self, done: Callable[[], bool], what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while True:
            if self._live.fatal is not None:
                raise self._live.fatal
            if done():
                return
            if time.monotonic() > deadline:
                raise NotAtRest(what, within_s)
            await asyncio.sleep(_PAUSE_S)

    # -- topics ---------------------------------------------------------------------------------------

    def _topics(self) -> list[TopicSpec]:
        """All that there are: ours, the extension's, and what agents read and keep."""
        sources = self._live.sources.values()
        own = [spec for source in sources for spec in (source.spec, source.changelog) if spec is not None]
        return list({spec.name: spec for spec in (*self.extension.all_topics(), *own)}.values())

    def _spec(self, topic: TopicSpec | str) -> TopicSpec:
        if not isinstance(topic, str):
            return topic
        found = {spec.name: spec for spec in self._topics()}
        if topic not in found:
            raise TopicUndeclared(topic)
        return found[topic]

    def _input(self) -> TopicSpec:
        specs = [source.spec for source in self._live.sources.values()]
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise ValueError(f"role {self.role} has several inputs, say which topic: {names}")
        return specs[0]

    def _outputs(self, spec: TopicSpec, starts: Mapping[int, int]) -> list[Output]:
        return [
            Output(
                topic=spec.name,
                partition=int(message.partition() or 0),
                offset=int(message.offset() or 0),
                key=message.key(),
                value=self._maker.decode(spec, message.value()),
                raw=message.value(),
                timestamp_us=message.timestamp()[1] * 1_000,
                headers=tuple(message.headers() or ()),
            )
            for message in self._reader.read(spec, starts)
        ]


class _Counting(WorkerMetrics):
    """Metrics that also add up what became of the inputs, over restarts."""

    def __init__(self, role: str, counts: Counter[str]) -> None:
        super().__init__(role)
        self._counts = counts

    def committed(self, result: UnitResult) -> None:
        """See ``WorkerMetrics``."""
        super().committed(result)
        self._counts.update(result.counts)
