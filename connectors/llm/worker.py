"""The worker: requests of Kafka in, events of their streams out; calls run beside each other on one loop.

One thread polls (``connectors/kafka/consumer.py``), one commits, one follows cancels and the ledger; all
calls are tasks of the loop. The poll never waits for a call: requests under way are bounded, and partitions
are paused at the bound.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import structlog

from connectors.kafka.chunk import SourcePartition, events_of
from connectors.kafka.consumer import PollThread
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.membership import ConsumerOptions
from connectors.kafka.positions import PositionReader
from connectors.kafka.transaction import KafkaTransaction
from connectors.llm.broker_clock import BrokerClock, compare_clocks
from connectors.llm.client import provider_client
from connectors.llm.committer import Committer, PartitionLost, Row
from connectors.llm.emitter import Emitter
from connectors.llm.errors import LlmError
from connectors.llm.follower import Follower
from connectors.llm.lives import Lives
from connectors.llm.metrics import LlmMetrics
from connectors.llm.offsets import Offsets
from connectors.llm.operation import Operation
from connectors.llm.outlet import KafkaOutlet
from connectors.llm.providers import PROVIDERS
from connectors.llm.request import asks_of, request_of
from connectors.llm.taken import Rivals, addressed, decoded
from connectors.llm.takeover import TakenOver, take_over
from connectors.llm.tools import Tools
from connectors.llm.web import Pages, serving
from connectors.threads import DaemonExecutor
from schemas.errors import ContractError, WireError
from schemas.topics import LLM_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.chunk import Chunk
    from connectors.llm.desk import RoutingDesk
    from connectors.llm.follow import BookFollower
    from connectors.llm.ledger import Known
    from connectors.llm.offsets import Tenure
    from connectors.llm.options import LlmOptions
    from connectors.llm.taken import Taken
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

ROLE: Final = "llm"
TYPES: Final = ("open", "token", "media", "structured", "usage", "state", "reset", "end")
"""Types of events that a worker writes: their schemas are fetched before the first call."""
_STOP_S: Final = 10.0
_AGAIN_S: Final = 1.0
_LOOK_S: Final = 0.5
_WAITING_MAX: Final = 1_000
"""Of those behind them in Kafka nobody knows how long they have waited; the poll thread bounds bytes."""


class LlmWorker:
    """Runs until ``stop`` is called or something fails that waiting does not mend.

    Args:
        options: where Kafka is, and the bounds.
        wire: writes and reads records.
        payloads: writes payloads.
        desk: decides about providers and money.
        letter: makes the dead letter of a request that names no stream.
        kinds: those that ``ingest`` knows, too.
        versions: keeps the desk's routes and prompts up to date; no request is taken before it is ready.
    """

    def __init__(
        self,
        options: LlmOptions,
        wire: WireCodec,
        payloads: PayloadCodec,
        desk: RoutingDesk,
        letter: Callable[[Record, BaseException], Row],
        kinds: KindTable,
        versions: BookFollower,
    ) -> None:
        self._options = options
        self._wire = wire
        self._payloads = payloads
        self._desk = desk
        self._letter = letter
        self._kinds = kinds
        self._versions = versions
        prefix = options.kafka.topic_prefix
        self._group = f"{prefix}sluicegate.{ROLE}"
        self._source_topic = LLM_REQUESTS.named(prefix)
        self._offsets = Offsets()
        self._operations: dict[bytes, tuple[Operation, asyncio.Task[None]]] = {}
        self._known: dict[Tenure, dict[bytes, Known]] = {}
        self._lives = Lives(kinds)
        self._rivals = Rivals()
        self._waiting: deque[Taken] = deque()
        """Requests beyond ``calls_max``: ``_WAITING_MAX`` and a chunk at most, and some 64 MiB."""
        self._opening: dict[SourcePartition, threading.Event] = {}
        self._failure: BaseException | None = None
        self._over = asyncio.Event()
        self._draining = False
        self._clock = BrokerClock()
        self._metrics = LlmMetrics(lambda: len(self._operations), lambda: self._clock.skew_s)
        self._pages = Pages(self._unready, self._metrics.render)

    async def run(self) -> None:
        """Work until stopped; raises what failed."""
        self._loop = loop = asyncio.get_running_loop()
        options = self._options
        self._positions = PositionReader(options.kafka, self._group)
        leaving = threading.Event()
        self._poll = PollThread(
            options.kafka,
            ConsumerOptions(
                group=self._group,
                instance_id=f"{ROLE}-{options.identity}",
                assignment="cooperative-sticky",
                session_timeout_ms=options.session_timeout_ms,
                chunk_records_max=options.calls_max,
                handover_records_max=options.calls_max + _WAITING_MAX,
            ),
            {self._source_topic: events_of(self._decode)},
            self,
        )

        def transaction(group_metadata: Callable[[], Any]) -> KafkaTransaction:
            return KafkaTransaction(
                options.kafka,
                transactional_id=f"{self._group}.{options.identity}",
                group_metadata=group_metadata,
                committed_unit=self._committed_unit,
                timeout_ms=options.transaction_timeout_ms,
                leaving=leaving,
            )

        self._follower = Follower(
            options.kafka,
            self._wire,
            loop,
            self._lives,
            stopped=self._stop_operation,
            refused=self._open_refused,
            saw=self._desk.saw,
        )
        self._committer = Committer(
            transaction,
            lambda: self._poll.group_metadata,
            self._offsets,
            self._follower.ledger_at,
            self._failed_from_thread,
            self._metrics.commit_seconds.observe,
            loop,
        )
        outlet = self._outlet = KafkaOutlet(options.kafka, self._failed_from_thread, loop, self._clock)
        async with provider_client() as client:
            self._tools = Tools(
                desk=self._desk,
                client=client,
                providers=PROVIDERS,
                committer=self._committer,
                outlet=outlet,
                wire=self._wire,
                worker=options.identity,
                queue_ms_max=options.queue_ms_max,
                judges=options.judges,
                metrics=self._metrics,
                kinds=self._kinds,
                clock=self._clock,
            )
            self._follower.start()
            self._committer.start()
            looking = self._loop.create_task(self._look_regularly())
            looking.add_done_callback(self._watched)
            try:
                async with serving(self._pages, options.web_host, options.web_port):
                    await self._ready()
                    self._poll.start()
                    await self._over.wait()
                    await self._drain()
            finally:
                looking.cancel()
                leaving.set()
                self._committer.stop()
                outlet.stop()
                await asyncio.to_thread(self._join, outlet)
        if self._failure is not None:
            raise self._failure

    async def _ready(self) -> None:
        """Wait until versions and the ledger were read and clocks were compared, or it is to stop."""
        told = compare_clocks(self._clock, self._options.kafka, f"{self._group}.{self._options.identity}")
        starts = self._versions.ready(), self._follower.ready(), asyncio.wrap_future(told)
        ready = asyncio.gather(*starts, return_exceptions=True)
        waits: list[asyncio.Future[Any]] = [ready, asyncio.ensure_future(self._over.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()

    def stop(self) -> None:
        """Take no more requests; calls under way may end within ``drain_ms``."""
        self._over.set()

    def abandon(self) -> None:
        """End now: calls under way are the next owner's to begin anew."""
        self._over.set()
        for _, task in self._operations.values():
            task.cancel()

    @property
    def under_way(self) -> int:
        """Operations that are not over."""
        return len(self._operations)

    def _unready(self) -> list[str]:
        """Why no requests are taken; empty when they are."""
        stops = "it is about to stop" if self._draining else ""
        none = "" if self._desk.book.targets else "no provider is configured"
        return [why for why in (stops, self._follower.unready, self._versions.unready, none) if why]

    async def _drain(self) -> None:
        """Let calls end; what is left after the time is the next owner's, who begins it anew."""
        self._draining = True
        for tenure in self._known:
            self._poll.stop_partition(tenure.source)
        if self._operations and self._failure is None:
            tasks = [task for _, task in self._operations.values()]
            log.info("llm_drain", under_way=len(tasks), drain_ms=self._options.drain_ms)
            await asyncio.wait(tasks, timeout=self._options.drain_ms / 1_000)
        left = [task for _, task in self._operations.values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._poll.stop()

    def _join(self, outlet: KafkaOutlet) -> None:
        self._committer.join(_STOP_S)
        outlet.close()
        if self._poll.is_alive():  # else it never was, or is over
            self._poll.join(_STOP_S)
        self._follower.stop()
        self._positions.close()

    def _committed_unit(self, source: Any) -> int | None:
        found = self._positions.committed(source.topic, source.partition)
        return None if found is None else found.unit

    # -- requests -----------------------------------------------------------------------------------------

    def _decode(self, records: Sequence[Record]) -> list[Any]:
        return decoded(records, self._wire)

    def _take(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            tenure = self._offsets.tenure(chunk.source)
            if tenure is None or self._draining:
                self._poll.handled(len(chunk), chunk.size_bytes)
                continue
            for record, item in chunk.items:  # type: ignore[attr-defined]  # they are EventChunks
                self._offsets.take(tenure, record.offset, self._follower.ledger_at(tenure.source.partition))
                self._waiting.append((tenure, record, item))
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        """Begin what there is room for; what waits beyond it is bounded by the poll thread."""
        while self._waiting and len(self._operations) < self._options.calls_max and not self._draining:
            tenure, record, item = self._waiting.popleft()
            if self._offsets.lasts(tenure):
                self._begin(tenure, record, item)
            else:
                self._poll.handled(1, record.size_bytes)

    def _look_at_waiting(self, key: bytes | None = None) -> None:
        """Begin, beyond the bound, what will not be called any more: it was stopped, or waited for too long.

        To say so takes no call of a provider, and whoever asked waits to hear it. Of one ``key``, or of all.
        """
        left: deque[Taken] = deque()
        while self._waiting and not self._draining:
            tenure, record, item = self._waiting.popleft()
            asked = key is None or key == record.key
            if asked and self._offsets.lasts(tenure) and self._is_over(tenure, record, item):
                self._begin(tenure, record, item)
            else:
                left.append((tenure, record, item))
        left.extend(self._waiting)
        self._waiting = left

    def _is_over(self, tenure: Tenure, record: Record, item: Any) -> bool:
        key = record.key or b""
        if self._lives.stopped(key, record.timestamp_us):
            return True
        if isinstance(item, BaseException) or key in self._known.get(tenure, {}):
            return False  # what a dead owner had begun has no bound of waiting
        bounds_ms = self._options.queue_ms_max, self._desk.book.queue_ms(item["route"])
        return any(most is not None and self._clock.age_ms(record.timestamp_us) > most for most in bounds_ms)

    def _watched(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look_at_waiting()

    def _begin(self, tenure: Tenure, record: Record, item: Any) -> None:
        try:
            to = addressed(record, item, self._kinds)
        except (ContractError, WireError, LlmError) as error:
            self._spawn(self._bury(tenure, record, error), record)
            return
        if self._follower.refused(to.key, item["open_id"]):
            self._pass_over(tenure, record)
            return
        if found := self._operations.get(to.key):
            if found[0].claim.meet(asks_of(item), item["open_id"], record.timestamp_us):
                self._rivals.add(to.key, (tenure, record, item))
            else:
                self._pass_over(tenure, record)
            return
        asked_us, held = record.timestamp_us, self._known.get(tenure, {})
        known = held.pop(to.key, None)
        over = self._lives.has_ended(to.key, asked_us, known)
        if known is not None:
            known = known.after_end()
        if over:
            if known is not None:  # a later question's
                held[to.key] = known
            self._pass_over(tenure, record)
            return
        try:
            request: Any = request_of(item)
        except LlmError as refused:
            request = refused
        written = self._outlet, self._wire, self._payloads
        emitter = Emitter(to, tenure.source.partition, *written, self._options.flush, self._loop)
        asked = tenure, record.offset, asked_us, to, request
        first = self._lives.first_attempt(to.key)
        operation = Operation(self._tools, *asked, known, emitter, asks_of(item), item["open_id"], first)
        if reason := self._lives.stopped(to.key, asked_us):
            operation.cancel(reason)
        task = self._spawn(operation.run(), record)
        self._operations[to.key] = (operation, task)
        task.add_done_callback(lambda _task: self._over_with(to.key))

    def _pass_over(self, tenure: Tenure, record: Record) -> None:
        """Be done with a request that is not to be answered: it has been, or whoever asked was told so."""
        self._metrics.requests_again.inc()
        log.info("llm_request_again", stream=(record.key or b"").decode(), offset=record.offset)
        self._offsets.finish(tenure, record.offset)
        self._poll.handled(1, record.size_bytes)

    def _over_with(self, key: bytes) -> None:
        operation, _task = self._operations.pop(key)
        if operation.claim.lost and operation.tenure in self._known:
            self._known[operation.tenure][key] = operation.known
        for tenure, record, item in self._rivals.leave(key):
            if self._draining or not self._offsets.lasts(tenure):
                self._poll.handled(1, record.size_bytes)
            elif operation.claim.lost:
                self._begin(tenure, record, item)
            else:
                self._pass_over(tenure, record)
        self._begin_waiting()

    def _open_refused(self, key: bytes, open_id: str) -> None:
        """Take that ``ingest`` refused an ``open``: the question that was written with it is nobody's."""
        refused = self._rivals.refuse(key, open_id)
        for tenure, record, _item in refused:
            self._pass_over(tenure, record)
        if found := self._operations.get(key):
            found[0].refuse_open(open_id)
            if refused and key not in self._rivals:
                found[0].claim.settle(sends=True)

    def _spawn(self, work: Any, record: Record) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)

        def done(task: asyncio.Task[None]) -> None:
            self._poll.handled(1, record.size_bytes)
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, PartitionLost):
                self._fail(error)

        task.add_done_callback(done)
        return task

    async def _bury(self, tenure: Tenure, record: Record, error: BaseException) -> None:
        self._metrics.letters.inc()
        log.error(
            "llm_request_unreadable", partition=record.partition, offset=record.offset, cause=str(error)
        )
        await self._committer.put(tenure, [self._letter(record, error)], ends=record.offset)

    def _stop_operation(self, key: bytes) -> None:
        found = self._operations.get(key)
        if found is not None:
            if reason := self._lives.stopped(key, found[0].asked_us):
                found[0].cancel(reason)
        elif self._waiting:
            self._look_at_waiting(key)

    # -- partitions: called on the poll thread --------------------------------------------------------------

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """See Listener."""
        self._loop.call_soon_threadsafe(self._take, chunks)

    def assigned(self, sources: Sequence[SourcePartition]) -> None:
        """See Listener."""
        for source in sources:
            cancelled = self._opening[source] = threading.Event()
            DaemonExecutor(1, "llm-open").submit(self._open, source, cancelled)

    def revoked(self, sources: Sequence[SourcePartition], *, lost: bool) -> Future[None]:
        """See Listener: calls of these partitions end here, and are their next owner's to begin anew.

        The partitions are not let go of while a transaction may hold something of them.
        """
        for source in sources:
            opening = self._opening.pop(source, None)
            if opening is not None:
                opening.set()
        self._offsets.stop(sources)
        done: Future[None] = Future()
        self._loop.call_soon_threadsafe(self._let_go, frozenset(sources), done)
        log.info("llm_partitions_revoked", partitions=[each.partition for each in sources], lost=lost)
        return done

    def failed_for_good(self, error: BaseException) -> None:
        """See Listener."""
        self._failed_from_thread(error)

    def _open(self, source: SourcePartition, cancelled: threading.Event) -> None:
        while not cancelled.is_set():
            try:
                found = take_over(self._options.kafka, self._wire, self._positions, source, cancelled)
            except KafkaUnavailable as error:
                log.warning("llm_partition_waits", partition=source.partition, cause=str(error))
                cancelled.wait(_AGAIN_S)
            except Exception as error:  # noqa: BLE001  whatever it is, this partition cannot be read
                if not cancelled.is_set():
                    self._failed_from_thread(error)
                return
            else:
                self._loop.call_soon_threadsafe(self._opened, source, found, cancelled)
                return

    def _opened(self, source: SourcePartition, found: TakenOver, cancelled: threading.Event) -> None:
        if cancelled.is_set() or self._draining:
            return
        tenure = self._offsets.start(source, found.offset, found.note, found.until)
        if cancelled.is_set():  # it was taken away meanwhile, by the poll thread
            self._offsets.stop([source])
            return
        self._known[tenure] = found.known
        self._poll.start_partition(source, found.offset)
        log.info("llm_opened", partition=source.partition, offset=found.offset, known=len(found.known))

    def _let_go(self, sources: frozenset[SourcePartition], done: Future[None]) -> None:
        for tenure in [tenure for tenure in self._known if tenure.source in sources]:
            del self._known[tenure]
        tasks = [task for operation, task in self._operations.values() if operation.tenure.source in sources]
        for task in tasks:
            task.cancel()
        self._begin_waiting()  # those of these partitions are thrown away
        settled = asyncio.wrap_future(self._committer.settled(), loop=self._loop)
        gathered = asyncio.gather(settled, *tasks, return_exceptions=True)
        gathered.add_done_callback(lambda _: done.set_result(None))

    # -- failures -----------------------------------------------------------------------------------------

    def _failed_from_thread(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None and not self._draining:
            self._failure = error
        log.error("llm_worker_failed", cause=str(error), stopping=self._draining)
        self._over.set()
