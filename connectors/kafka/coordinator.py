"""The loop side of a role: hands chunks to agents, ends units of work, and answers rebalances.

One unit of work is open at a time. Intake stops when it is due, the agents finish what they hold, the
unit commits on its own thread, and intake goes on. A lone event is committed at once. Events that trickle
in meanwhile, and for some milliseconds more, are handled together: a broker is not asked for the next
transaction without a pause. Under load a unit grows until ``commit_interval_ms``, also where an agent is
quicker than what comes: an agent of events gives the rest of its chunk back then, a batch is not cut.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

import structlog

from connectors.kafka.backlog import Backlog
from connectors.kafka.errors import NotSupported, TransactionAborted
from connectors.kafka.handbacks import HandBacks
from connectors.kafka.handout import HandOut
from connectors.kafka.idle import take_step
from connectors.kafka.inflight import InFlight
from connectors.kafka.intake import Intake
from connectors.kafka.isolation import Isolation, LetGo, Standstill, where_of
from connectors.kafka.lease import Lease
from connectors.kafka.leases import Leases
from connectors.kafka.on_loop import LoopListener
from connectors.kafka.opening import Openings
from connectors.kafka.pace import FETCH_S, GATHER_S, Pace
from connectors.kafka.pauses import Pauses
from connectors.threads import DaemonExecutor

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from connectors.kafka.chunk import Chunk, SourcePartition
    from connectors.kafka.consumer import PollThread
    from connectors.kafka.lease import Scope
    from connectors.kafka.ports import CoordinatorOptions, FailurePolicy, Partitions, Unit

log = structlog.get_logger(__name__)

_WAIT_S = 0.5  # a partition that waits for so long, or the longest, lets go of the hand-over: others need it
_TURN_S = 0.05  # an agent of events that awaits nothing has the loop for so long, and the event in hand
_LEAVE_S = 3.0  # for the poll thread to end, once the last unit has
_REFUSALS_MAX = 5  # in a row: what a unit is refused for that was not an abort is there the next time, too


class Coordinator(LoopListener):
    """A ``connectors.kafka.consumer.Listener``. All but the listener's methods run on the loop.

    ``agents``, ``policies`` and ``attempts_max`` are by topic; the last has those alone that differ from the
    options'.
    """

    def __init__(
        self,
        *,
        agents: Mapping[str, str],
        policies: Mapping[str, FailurePolicy],
        unit: Unit,
        partitions: Partitions,
        options: CoordinatorOptions,
        on_committed: Callable[[Any], None],
        on_fatal: Callable[[BaseException, Mapping[str, Any]], None],
        in_flight: InFlight | None = None,
        attempts_max: Mapping[str, int] | None = None,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._agents, self._policies = agents, policies
        self._unit, self._partitions, self._options = unit, partitions, options
        self._on_commit, self._on_committed, self._on_fatal = on_commit, on_committed, on_fatal
        self._pace = Pace(options.commit_interval_ms / 1_000, self._pump)
        self.unit_thread = DaemonExecutor(1, "unit-of-work")
        self._leases = Leases()
        self._backlog = Backlog(self._void_chunk)
        self._in_flight = in_flight or InFlight()
        attempts = dict.fromkeys(agents, options.attempts_max) | dict(attempts_max or {})
        self.handout = HandOut(self._backlog, self._in_flight, attempts)
        self._isolation = Isolation(attempts, policies, options.backoff)
        self.pauses = Pauses()
        self._committed: dict[SourcePartition, int] = {}
        self.handbacks = HandBacks(unit, self._backlog, self._committed, self._pump)
        # Append time of the last record handled; until there is one, when the partition was opened.
        self._handled_us: dict[SourcePartition, int] = {}
        self._openings = Openings(unit, partitions, self.unit_thread, self._opened, self.stop_for)
        self._intake = Intake()
        self._commit_task: asyncio.Task[None] | None = None
        self._ending = asyncio.Lock()  # held by whoever ends the unit for good: a rebalance or the stop
        self._turn_ends, self._epoch, self._aborts, self._stopped = 0.0, 0, 0, False
        self.abandoned = False  # the last unit was left as it is, to whoever reads its partitions next
        self.poller: PollThread

    # -- for streams ----------------------------------------------------------------------------------

    async def take(self, topic: str) -> Lease:
        """Wait for the next chunk of ``topic``.

        One that the agent still holds was not done, as its iterator was closed or cancelled: it failed.

        Raises:
            NotSupported: somebody else waits for the topic's chunks; of two, one would wait without an end.
        """
        if topic in self._leases.waited_for():
            agent = self._agents[topic]
            error = NotSupported(
                f"a second iteration over {topic}, which {agent} reads", "one agent a topic and role"
            )
            self.stop_for(error)
            raise error
        self.failed(topic, LetGo())
        taker = self._leases.wait_for(topic)
        self._pump()
        try:
            return await taker
        finally:
            self._leases.wait_no_more(topic, taker)

    async def goes_on(self, lease: Lease) -> bool:
        """Begin a turn of an agent of events with its chunk; False = it is at its end, void, or due back.

        A turn ends between two events, when the unit is due or the loop was held for ``_TURN_S``. All else on
        the loop runs then; and where the unit is due, or intake is stopped, for a rebalance say, what is left
        of the chunk is given back by ``done``: no commit and no rebalance waits for a whole chunk.
        """
        if lease.until_s < inf:  # not the first
            if not lease.left:
                return False
            await asyncio.sleep(0)
            self._turn_ends = time.monotonic() + _TURN_S
            if lease.void or self._intake.stopped or self._is_due():
                return False
        lease.until_s = min(self._turn_ends, self._pace.ends_s)
        return True

    def done(self, topic: str) -> None:
        """The agent is done with its batch, or with its turns: what is left of the chunk comes next."""
        self.handout.returned(topic)
        lease = self._leases.of(topic)
        if lease is None:
            return
        lease.keep_batch()
        _, rest = self._take_back(topic)
        if rest is not None:
            self._backlog.put_back(rest)
        self._after_step()

    def failed(self, topic: str, error: BaseException) -> bool:
        """The agent raised: its last step is undone, and the event that it was is found and isolated.

        False = it had nothing in hand, and nothing that is void by now.
        """
        self.handout.returned(topic)
        lease, rest = self._take_back(topic)
        if lease is None:
            return self._stopped or self._leases.was_voided(topic)
        if rest is not None:
            try:
                self._isolate(lease, rest, error)
            except Exception as worse:
                log.exception("event could not be isolated", source=rest.source)
                self.stop_for(worse)
        self._after_step()
        return True

    # -- start and stop -------------------------------------------------------------------------------

    async def stop(self, within_s: float = 30.0) -> None:
        """Close intake, let the agents finish, commit. What does not finish in time is not done.

        A unit that does not end is left as a kill would leave it: the broker ends its transaction, and who
        reads its partitions next does it again.
        """
        if self._stopped:
            return
        self._stopped = True
        self._intake.stop()
        self._in_flight.close()  # what an agent still has in hand is not to blame for a kill that may come
        self._openings.cancel()
        try:
            async with asyncio.timeout(within_s):
                await self._end_unit()
        except TimeoutError:
            log.warning("the last unit of work did not end in time, its records are handled by the next")
            self.abandoned = True
            if self._commit_task is not None:
                self._commit_task.cancel()
        self.poller.stop()
        await self._loop.run_in_executor(DaemonExecutor(1, "join"), self.poller.join, _LEAVE_S)
        for source in list(self._committed):
            self._release(source)
        self.unit_thread.shutdown()

    @property
    def assignment(self) -> frozenset[SourcePartition]:
        """Partitions that are restored and being read."""
        return frozenset(self._committed)

    @property
    def progress(self) -> Mapping[SourcePartition, tuple[int, int]]:
        """Each partition's committed offset, and the append time of the last record handled, µs.

        Where none was handled yet, it is the time of the opening: a worker that hangs at its first event is
        behind as one that hangs at any other.
        """
        return {source: (at, self._handled_us[source]) for source, at in self._committed.items()}

    @property
    def _at_work(self) -> set[SourcePartition]:
        return {lease.chunk.source for lease in self._leases}

    # -- intake ---------------------------------------------------------------------------------------

    def _receive(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            if chunk.epoch == self._epoch:
                self._backlog.add(chunk)
            else:
                self._void_chunk(chunk)
        self._pump()

    def _pump(self) -> None:
        """Give a chunk to each agent that waits; end the unit when it is due."""
        if self._intake.stopped or self._commit_task is not None:
            return
        if not self._leases and self._unit.empty and self._pace.rests(self._backlog.records):
            return
        if self._unit.empty or not self._is_due():
            for topic in self._leases.waited_for():
                self.handbacks.bring(topic, self.pauses.stopped)
                chunk = self.handout.next(topic, self.pauses.shut, at_work=bool(self._leases))
                if chunk is not None:
                    self._give(topic, chunk)
        idle = not (self._leases or self._unit.empty)
        if idle and not self._pace.waits(self._unit, self._backlog.records, flooded=self.poller.flooded):
            self._commit_task = self._loop.create_task(self._commit())

    def _is_due(self) -> bool:
        """Whether the unit is to end, if anything is in it."""
        return self._pace.is_over or self._unit.full

    def pass_time(self, source: SourcePartition, position: int, step: Callable[[Any], None]) -> bool | None:
        """Have a step that no record brings be part of the unit, if the partition is at rest there.

        What it raises goes through, after it was undone. False = nothing is to be committed of it, None = it
        was not taken now.
        """
        busy = self._intake.stopped or self._commit_task or source in self._at_work
        if (
            busy
            or source in self._unit.positions
            or self._committed.get(source) != position
            or source in self.pauses.stopped
        ):
            return None
        done = take_step(self._scope(source), step)
        if done:
            self._unit.advance(source, position, 0)
            self._after_step()
        elif self._unit.empty and not self._leases:
            self._unit.drop()  # nor has it begun
        return done

    def _give(self, topic: str, chunk: Chunk) -> None:
        strict = self._policies[topic] == "stop-partition" and chunk.handback < 0
        self._pace.came()
        self._leases.give(topic, Lease(chunk, self._scope(chunk.source), strict=strict))

    def _scope(self, source: SourcePartition) -> Scope:
        if self._unit.empty and not self._leases:
            self._pace.begin()
        return self._unit.scope(self._agents[source.topic], source.partition)

    def _advance(self, chunk: Chunk) -> None:
        source = chunk.source
        self._unit.advance(source, chunk.next_offset, len(chunk))
        if not self.handbacks.handled(chunk):
            self._handled_us[source] = chunk.append_us
            self.poller.handled(len(chunk), chunk.size_bytes)
        if source in self.pauses.waiting:
            self.pauses.waiting.discard(source)
            self._loop.call_soon(self.follow_pauses)

    def _after_step(self) -> None:
        # After this turn of the loop: the agent that is just done asks for its next chunk first.
        self._loop.call_soon(self._pump)

    def follow_pauses(self) -> None:
        """Stop and start partitions as ``pauses`` wants them; to be called again, for some must settle first.

        What waits of a paused one is let go of: it would fill the hand-over of the others. It is read again
        from where the partition stands, which is known when no agent and no commit has any of it.
        """
        at_work = self._at_work
        for source, committed in self._committed.items():
            if self.pauses.overrules(source):
                self._backlog.close(source)
            if self.pauses.must_stop(source):
                (self._backlog.keep_first if source in self.pauses.waiting else self._backlog.close)(source)
                self.pauses.stop(source, asyncio.wrap_future(self.poller.stop_partition(source)))
            elif self._commit_task is None and source not in at_work and self.pauses.may_start(source):
                self._backlog.open(source)
                start = self._unit.positions.get(source, committed)
                started = asyncio.wrap_future(self.poller.start_partition(source, start))
                self.pauses.go_on(source, start, started, self.stop_for)

    # -- failing events -------------------------------------------------------------------------------

    def _take_back(self, topic: str) -> tuple[Lease | None, Chunk | None]:
        """Undo the agent's last step and count those before as handled; returns what is left of its chunk."""
        lease = self._leases.take(topic)
        if lease is None or lease.void:
            return None, None
        handled, rest = lease.give_up()
        if handled is not None:
            self._advance(handled)
        return lease, rest

    def _isolate(self, lease: Lease, rest: Chunk, error: BaseException) -> None:
        if getattr(error, "fatal", False):
            self._backlog.put_back(rest)
            self.stop_for(error, where_of(rest, error))
            return
        again = self._isolation.isolate(lease.scope, rest, error)
        if isinstance(again, Standstill):
            self._stand_still(rest, again)
            return
        kept = self._backlog.put_back(*again.chunks, pause_s=again.pause_s)
        if kept and again.pause_s >= min(_WAIT_S, self._options.backoff.ms_max / 1_000):
            self.pauses.waiting.add(rest.source)
            self.follow_pauses()
        if again.pause_s:
            self._loop.call_later(again.pause_s + 0.001, self._pump)
        if not again.chunks:
            self._advance(rest)

    def _stand_still(self, chunk: Chunk, standstill: Standstill) -> None:
        """Commit before the event that cannot be passed, with the cause, and read no further."""
        self._unit.advance(chunk.source, chunk.first.offset, 0, standstill.note)
        self._void_chunk(chunk)
        self._in_flight.acquit(chunk)
        self.pauses.standstills[chunk.source] = standstill
        self.follow_pauses()

    # -- the end of a unit ----------------------------------------------------------------------------

    def stop_for(self, error: BaseException, where: Mapping[str, Any] | None = None) -> None:
        """Hand out nothing more and have the worker stop; ``where`` it arose in an agent, for the log."""
        self._intake.stop()
        self._on_fatal(error, where or {})

    async def _commit(self) -> None:
        try:
            await self._commit_once()
        except Exception as error:  # noqa: BLE001  a rewind failed, say: to go on would be to read nothing
            self.stop_for(error)
        finally:
            self._commit_task = None
            self._loop.call_soon(self._pump)

    async def _commit_once(self) -> None:
        positions = dict(self._unit.positions)
        self._on_commit()
        began = time.monotonic()
        self.poller.gather(GATHER_S)
        try:
            result = await self._loop.run_in_executor(self.unit_thread, self._unit.commit)
        except Exception as error:
            if getattr(error, "fatal", False):
                raise
            self._aborts += 1
            may_pass = isinstance(error, TransactionAborted) or getattr(error, "transient", False)
            if not may_pass and self._aborts >= _REFUSALS_MAX:
                raise
            log.warning(
                "unit of work aborted, its records are handled again", cause=repr(error), aborts=self._aborts
            )
            self.pauses.lift(lambda source, _: source in positions)  # it comes to its event anew
            await self._rewind()
        else:
            self._aborts = 0
            self.poller.gather(self._pace.rest(time.monotonic() - began) - FETCH_S)
            self._committed.update({s: o for s, o in positions.items() if s in self._committed})
            self._in_flight.passed(self._committed | self.handbacks.passed())
            self._on_committed(result)

    async def _rewind(self) -> None:
        """Go back to what is committed; chunks of the older epoch are void wherever they are."""
        self._epoch += 1
        self._backlog.clear()
        self.handbacks.clear()
        self.pauses.waiting.clear()
        with suppress(TimeoutError):  # a rebalance, or the end, waits for this commit: it is not kept waiting
            await asyncio.wait_for(self._intake.until_stopped(), self._options.backoff.seconds(self._aborts))
        if not self._stopped:  # else who reads them next begins at what is committed
            await asyncio.wrap_future(self.poller.rewind(dict(self._committed), self._epoch))

    async def _end_unit(self, *, lost: bool = False) -> None:
        """Have the agents finish (unless the partitions are ``lost``), and commit; with intake stopped.

        One caller at a time: nobody may let go of a partition while another's commit has its scope.
        """
        async with self._ending:
            await self._committed_or_not()
            if self.abandoned:
                return
            if lost:
                self._void()
            await self._quiesce()
            if not self._unit.empty:
                self._commit_task = self._loop.create_task(self._commit())
                await self._committed_or_not()

    async def _committed_or_not(self) -> None:
        """Wait for the end of a commit: what commits must end as it began, whole or not at all."""
        while self._commit_task is not None:
            await asyncio.wait([self._commit_task])

    async def _quiesce(self) -> None:
        """Wait until no agent holds a chunk; one that does not finish in time has its work voided."""
        await self._leases.wait_until_none(self._options.stall_ms_max / 1_000)
        if self._leases:
            log.warning("agents still at work, their unit is dropped", topics=self._leases.topics)
            self._void()

    def _void(self) -> None:
        voided = [lease.chunk for lease in self._leases.void()]
        for chunk in voided:
            self.handout.returned(chunk.source.topic)
            self._void_chunk(chunk)
        self.pauses.lift(lambda source, _: source in self._unit.positions)
        self._unit.drop()
        for chunk in voided:  # an agent that wakes up late has a scope that is part of no unit any more
            if chunk.source in self._committed:
                self._partitions.ready(chunk.source)

    # -- rebalance ------------------------------------------------------------------------------------

    def _open(self, sources: Sequence[SourcePartition]) -> None:
        for source in () if self._stopped else sources:
            self._openings.begin(source)

    async def _opened(self, source: SourcePartition, start: int, cancelled: threading.Event) -> None:
        await self._committed_or_not()  # a unit that commits must not gain a scope
        if cancelled.is_set():
            return
        self._partitions.ready(source)
        self._handled_us[source] = time.time_ns() // 1_000
        self._committed[source] = start
        self._in_flight.passed({source: start} | self.handbacks.passed())
        if self.pauses.must_stop(source):
            self.pauses.stop(source)  # ready, and not read
        else:
            self._backlog.open(source)
            await asyncio.wrap_future(self.poller.start_partition(source, start))
        log.info("partition ready", topic=source.topic, partition=source.partition, offset=start)

    async def _revoke(self, sources: Sequence[SourcePartition], *, lost: bool) -> None:
        """Finish and commit (unless lost), then let go. Runs while the poll thread waits in its callback."""
        self._intake.stop()
        held = list(self._leases)
        try:
            opening = self._openings.cancel(sources)
            await self._end_unit(lost=lost)
            await asyncio.gather(*opening, return_exceptions=True)
            for source in sources:
                self._release(source)
            if self._committed and (lost or any(lease.void for lease in held)):
                await self._rewind()  # partitions that stay: what was dropped of them is read again
        finally:
            self._intake.go_on()
            self._loop.call_soon(self._pump)

    def _release(self, source: SourcePartition) -> None:
        self._committed.pop(source, None)
        self._handled_us.pop(source, None)
        self.pauses.forget(source)
        self.handbacks.drop(source)
        self._backlog.close(source)
        if not self.abandoned:  # the unit that was left behind may yet commit: whole, or not at all
            self._partitions.close(source)

    def _void_chunk(self, chunk: Chunk) -> None:
        """Count a chunk as done with that nobody handles: it is read again, here or elsewhere."""
        if not self.handbacks.voided(chunk):
            self.poller.handled(len(chunk), chunk.size_bytes)
