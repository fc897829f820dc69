"""Drives one role, built-in or a user's own, through its real engine: feed, advance, read, restart.

Everything from the poll thread to the state runs as in production; what differs is what the clients of Kafka
reach (memory, or real Kafka), the broker's clock, which is the test's, and where state is kept.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.deadletters import DeadLetter, DeadLetterReader
from connectors.kafka.errors import TopicUndeclared
from connectors.kafka.stage import Stage
from pipelines.app import check_kinds, tools_of
from pipelines.blueprint import ROLES
from pipelines.errors import UnknownRole
from pipelines.extension import Extension
from pipelines.options import WorkerOptions
from pipelines.testing.clock import SECOND_US
from pipelines.testing.records import Feed, Output, RecordMaker
from pipelines.testing.role import RoleUnderTest
from pipelines.testing.services import InMemory, OnStack, Services, Stack
from pipelines.testing.state import StateReader
from schemas.catalog import EVENT
from schemas.envelope import DEFAULT_TENANT, Event
from schemas.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from connectors.kafka.isolation import Standstill
    from schemas.topics import TopicSpec

START_US: Final = 1_700_000_000_000_000
"""Where a test's clock begins, microseconds since the epoch: 2023-11-14 22:13:20 UTC."""


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
        self._chunk_events_max = chunk_events_max
        self._services: Services = (
            InMemory(self.extension, self._stage)
            if stack is None
            else OnStack(stack, self.extension, self._stage)
        )
        options = WorkerOptions(
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
        self._positions: dict[str, dict[int, int]] = {}  # of what was read, by topic and partition
        self._fed: list[Feed] = []  # and not yet in the log
        self.counts: Counter[str] = Counter()
        """Inputs by the outcome that ``scope.count`` was given, of committed units alone."""
        self._role = RoleUnderTest(
            role, options, self.extension, self.tools, self._services, self.counts, lambda: self.now_us
        )
        try:
            self._role.start()
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
        headers: Iterable[tuple[str, bytes | None]] = (),
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
        headers: Iterable[tuple[str, bytes | None]] = (),
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
        second, as in production. One whose agent has an ``on_idle`` has been silent at the end, if that long.
        Event time moves by events, ticks and silence alone.
        """
        end_us = self.now_us + round(seconds * SECOND_US)
        self.run()
        self._role.fall_silent()
        unread = self._role.live.coordinator.pauses.stopped
        while (due_us := self._role.ticker.next_us(unread)) is not None and due_us <= end_us:
            self._stage.now_us = max(self.now_us, due_us)
            self._role.ticker.tick_due(self.now_us, unread)
            self.run()
        self._stage.now_us = end_us
        self._role.fall_silent()

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
        self._role.ticker.tick_at(sources, self.now_us)
        self.run()

    def run(self, within_s: float = 30.0) -> None:
        """Run until all that stands in the role's inputs is handled and committed.

        Raises:
            NotAtRest: that took longer.
            SluicegateError: what made the role stop.
        """
        at_once = self._chunk_events_max  # as the poll thread fetches: units end where they would
        while True:
            feeds, self._fed = self._fed[:at_once], self._fed[at_once:]
            self._services.append(feeds)
            self._role.rest(within_s)
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
        self._role.reader.settle(DEAD_LETTERS)
        with closing(DeadLetterReader(self._services.kafka, self.tools.codec)) as reader:
            letters = list(reader.present())
        return [replace(letter, from_topic=letter.from_topic.removeprefix(prefix)) for letter in letters]

    def late_events(self) -> list[dict[str, Any]]:
        """Return all late events, from what sources name as ``late_to``; topics are without prefix."""
        prefix = self._services.kafka.topic_prefix
        sources = self._role.live.sources.values()
        topics = {source.late_to.name: source.late_to for source in sources if source.late_to is not None}
        late = [output.value for spec in topics.values() for output in self._outputs(spec, {})]
        return [event | {"topic": event["topic"].removeprefix(prefix)} for event in late]

    def state(self, agent: str | None = None, partition: int | None = None) -> StateReader:
        """Return an agent's committed state, of all partitions or one; to be read at once.

        ``agent`` may be left out where the role has one with state. What windows and sessions ask of a
        ``StateView`` they can ask of this: ``minutes.get(driver.state(), start_us, key)``.

        Raises:
            LookupError: there is no such agent, or several, or the partition is not here.
        """
        sources = {source.agent: source for source in self._role.live.sources.values() if source.changelog}
        names = list(sources) if agent is None else [name for name in sources if name == agent]
        if len(names) != 1:
            raise LookupError(f"{agent or 'the agent'}: name one of {', '.join(sorted(sources)) or 'none'}")
        spec = sources[names[0]].spec
        name = spec.named(self._services.kafka.topic_prefix)
        here = {source.partition for source in self._role.live.coordinator.assignment if source.topic == name}
        wanted = sorted(here) if partition is None else [partition]
        if not here.issuperset(wanted):
            raise LookupError(f"{spec.name} has no partition {partition}, or it was taken away")
        unit = self._role.live.engine.unit
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
        live = self._role.live
        return {
            (live.sources[source.topic].spec.name, source.partition): standstill
            for source, standstill in live.standstills().items()
        }

    def pause(self, partition: int | None = None) -> None:
        """Leave partitions of a number alone, None = all, as `sluicegate pause` does; over restarts, too."""
        self._role.call(lambda: self._role.levers.pause(partition))

    def resume(self, partition: int | None = None) -> None:
        """Go on with what was paused, and try again what it stands still at, as `sluicegate resume` does.

        Raises:
            ValueError: a partition is named, and the role is paused as a whole.
        """
        self._role.call(lambda: self._role.levers.resume(partition))
        self.run()

    def skip(
        self, topic: TopicSpec | str, partition: int, offset: int, *, reason: str = "", undo: bool = False
    ) -> None:
        """Have one record be a dead letter, not handled, as `sluicegate skip` does."""
        name = self._spec(topic).name
        self._role.call(lambda: self._role.levers.skip(name, partition, offset, reason, undo=undo))
        self.run()

    def quarantine(self, key: bytes, *, reason: str = "", undo: bool = False) -> None:
        """Have all records of a key be dead letters from now on, as `sluicegate quarantine` does."""
        self._role.call(lambda: self._role.levers.quarantine(key, reason, undo=undo))
        self.run()

    def take_away(self) -> frozenset[tuple[str, int]]:
        """Have another member join the group and take its share; returns what it has, by topic and partition.

        It reads nothing: what is fed to its partitions waits until they are given back.

        Raises:
            NotAtRest: the group did not settle.
        """
        self.run()
        role, prefix = self._role, self._services.kafka.topic_prefix
        if role.rival is None:
            role.rival = self._services.rival(role.live.engine.options.group, list(role.live.sources))
        role.settle()
        return frozenset((topic.removeprefix(prefix), number) for topic, number in role.rival.holds or ())

    def give_back(self, *, lose_state: bool = False) -> None:
        """Have it leave: its partitions come back, with the state left here or, lost, the changelog's.

        Raises:
            NotAtRest: the group did not settle.
        """
        rival, self._role.rival = self._role.rival, None
        if rival is None:
            return
        for source in (rival.holds or ()) if lose_state else ():
            self._role.live.engine.partitions.lose(source)
        rival.leave()
        self._role.settle()
        self.run()

    def restart(self, *, lose_state: bool = False) -> None:
        """Stop the role and start it again, with the state that it left or, lost, from the changelog."""
        self.run()
        folder = self._role.live.engine.options.state_dir
        agents = [source.agent for source in self._role.live.sources.values() if source.changelog]
        self._role.stop()
        for agent in agents if lose_state else ():
            self._services.lose_state(folder / agent)
        self._role.start()

    def close(self) -> None:
        """Stop the role, and leave nothing behind."""
        try:
            self._role.close()
        finally:
            self._services.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- topics ---------------------------------------------------------------------------------------

    def _spec(self, topic: TopicSpec | str) -> TopicSpec:
        if not isinstance(topic, str):
            return topic
        found = {spec.name: spec for spec in self._role.topics()}
        if topic not in found:
            raise TopicUndeclared(topic)
        return found[topic]

    def _input(self) -> TopicSpec:
        specs = [source.spec for source in self._role.live.sources.values()]
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise ValueError(f"role {self.role} has several inputs, say which topic: {names}")
        return specs[0]

    def _outputs(self, spec: TopicSpec, starts: Mapping[int, int]) -> list[Output]:
        return self._maker.outputs(spec, self._role.reader.read(spec, starts))
