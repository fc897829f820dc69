"""The worker: requests of Kafka in, events of their streams out; calls run beside each other on one loop.

One thread polls (``connectors/kafka/consumer.py``), one commits, one serves acknowledgements, one follows
cancels and the ledger; all calls are tasks of the loop. The poll never waits for a call: requests under way
are bounded, and partitions are paused at the bound.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import structlog

from connectors.kafka.chunk import SourcePartition, events_of
from connectors.kafka.consumer import ConsumerOptions, PollThread
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.positions import PositionReader
from connectors.kafka.transaction import KafkaTransaction
from connectors.llm.client import provider_client
from connectors.llm.clock import now_us
from connectors.llm.committer import Committer, PartitionLost, Row
from connectors.llm.emitter import Emitter
from connectors.llm.errors import LlmError
from connectors.llm.follower import Follower
from connectors.llm.metrics import LlmMetrics
from connectors.llm.offsets import Offsets
from connectors.llm.operation import Operation, Tools
from connectors.llm.outlet import KafkaOutlet
from connectors.llm.providers import PROVIDERS
from connectors.llm.request import asks_of, envelope_of, request_of
from connectors.llm.takeover import TakenOver, take_over
from connectors.llm.web import Pages, serving
from connectors.threads import DaemonExecutor
from schemas.errors import ContractError, RegistryUnavailable, WireError
from schemas.topics import LLM_REQUESTS, partition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.chunk import Chunk
    from connectors.llm.desk import RoutingDesk
    from connectors.llm.ledger import EndReason, Known
    from connectors.llm.offsets import Tenure
    from connectors.llm.options import LlmOptions
    from connectors.llm.request import Envelope
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
    """

    def __init__(
        self,
        options: LlmOptions,
        wire: WireCodec,
        payloads: PayloadCodec,
        desk: RoutingDesk,
        letter: Callable[[Record, BaseException], Row],
        kinds: KindTable,
    ) -> None:
        self._options = options
        self._wire = wire
        self._payloads = payloads
        self._desk = desk
        self._letter = letter
        self._kinds = kinds
        prefix = options.kafka.topic_prefix
        self._group = f"{prefix}sluicegate.{ROLE}"
        self._source_topic = LLM_REQUESTS.named(prefix)
        self._offsets = Offsets()
        self._operations: dict[bytes, tuple[Operation, asyncio.Task[None]]] = {}
        self._known: dict[Tenure, dict[bytes, Known]] = {}
        self._waiting: deque[tuple[Tenure, Record, Any]] = deque()
        """Requests beyond ``calls_max``: ``_WAITING_MAX`` and a chunk at most, and some 64 MiB."""
        self._opening: dict[SourcePartition, threading.Event] = {}
        self._failure: BaseException | None = None
        self._over = asyncio.Event()
        self._draining = False
        self._metrics = LlmMetrics(lambda: len(self._operations))
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
            options.kafka, self._wire, loop, stopped=self._stop_operation, saw=self._desk.saw
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
        outlet = KafkaOutlet(options.kafka, self._failed_from_thread, loop)
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
            )
            self._outlet = outlet
            self._follower.start()
            outlet.start()
            self._committer.start()
            await self._ready()
            self._poll.start()
            looking = self._loop.create_task(self._look_regularly())
            looking.add_done_callback(self._watched)
            try:
                async with serving(self._pages, options.web_host, options.web_port):
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
        """Wait until the ledger was read, or it is to stop."""
        waits = [asyncio.ensure_future(one) for one in (self._follower.ready(), self._over.wait())]
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
        causes = []
        if self._draining:
            causes.append("it is about to stop")
        if self._follower.problem:
            causes.append(self._follower.problem)
        if not self._desk.book.targets:
            causes.append("no provider is configured")
        return causes

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
        for thread in (self._committer, outlet, self._poll):
            thread.join(_STOP_S)
        self._follower.stop()
        self._positions.close()

    def _committed_unit(self, source: Any) -> int | None:
        found = self._positions.committed(source.topic, source.partition)
        return None if found is None else found.unit

    # -- requests -----------------------------------------------------------------------------------------

    def _decode(self, records: Sequence[Record]) -> list[Any]:
        """Decode on the poll thread; an error is an item of its own."""
        found: list[Any] = []
        for record in records:
            try:
                found.append(self._wire.decode(record.value or b"", LLM_REQUESTS.subject))
            except RegistryUnavailable:
                raise
            except WireError as error:
                found.append(error)
        return found

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

    def _look_at_waiting(self) -> None:
        """Begin, beyond the bound, what will not be called any more: it was stopped, or waited for too long.

        To say so takes no call of a provider, and whoever asked waits to hear it.
        """
        left: deque[tuple[Tenure, Record, Any]] = deque()
        while self._waiting and not self._draining:
            tenure, record, item = self._waiting.popleft()
            if self._offsets.lasts(tenure) and self._is_over(tenure, record, item):
                self._begin(tenure, record, item)
            else:
                left.append((tenure, record, item))
        left.extend(self._waiting)
        self._waiting = left

    def _is_over(self, tenure: Tenure, record: Record, item: Any) -> bool:
        key = record.key or b""
        if self._follower.stopped(key):
            return True
        if isinstance(item, BaseException) or key in self._known.get(tenure, {}):
            return False  # what a dead owner had begun has no bound of waiting
        bounds_ms = self._options.queue_ms_max, self._desk.book.queue_ms(item["route"])
        age_ms = (now_us() - record.timestamp_us) // 1_000
        return any(bound_ms is not None and age_ms > bound_ms for bound_ms in bounds_ms)

    def _watched(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._look_at_waiting()

    def _begin(self, tenure: Tenure, record: Record, item: Any) -> None:
        try:
            to = self._addressed(record, item)
        except (ContractError, WireError, LlmError) as error:
            self._spawn(self._bury(tenure, record, error), record)
            return
        known = self._known.get(tenure, {}).pop(to.key, None)
        if to.key in self._operations or self._follower.has_ended(to.key) or (known and known.end_reason):
            self._metrics.requests_again.inc()
            log.info("llm_request_again", stream=to.key.decode(), offset=record.offset)
            if to.key in self._operations:
                self._operations[to.key][0].asked_again(asks_of(item), record.timestamp_us)
            self._offsets.finish(tenure, record.offset)
            self._poll.handled(1, record.size_bytes)
            return
        try:
            request: Any = request_of(item)
        except LlmError as refused:
            request = refused
        emitter = Emitter(
            to,
            tenure.source.partition,
            self._outlet,
            self._wire,
            self._payloads,
            self._options.flush,
            self._loop,
        )
        operation = Operation(
            self._tools,
            tenure,
            record.offset,
            record.timestamp_us,
            to,
            request,
            known,
            emitter,
            asks_of(item),
        )
        if reason := self._follower.stopped(to.key):
            operation.cancel(reason)
        task = self._spawn(operation.run(), record)
        self._operations[to.key] = (operation, task)
        task.add_done_callback(lambda _task: self._over_with(to.key))

    def _over_with(self, key: bytes) -> None:
        self._operations.pop(key, None)
        self._begin_waiting()

    def _spawn(self, work: Any, record: Record) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)

        def done(task: asyncio.Task[None]) -> None:
            self._poll.handled(1, record.size_bytes)
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, PartitionLost):
                self._fail(error)

        task.add_done_callback(done)
        return task

    def _addressed(self, record: Record, item: Any) -> Envelope:
        """Read whose a request is. Raises WireError, ContractError, LlmError: nobody can be told of it."""
        if isinstance(item, BaseException):
            raise item
        to = envelope_of(item)
        if record.key != to.key:
            raise LlmError(f"its key is {record.key!r}, and it names the stream {to.key.decode()}")
        partition = partition_of(to.key, LLM_REQUESTS.partitions)
        if record.partition != partition:  # its stream is another partition's, and another worker's
            raise LlmError(f"it is on partition {record.partition}, and its key belongs on {partition}")
        self._kinds.named(to.kind)
        return to

    async def _bury(self, tenure: Tenure, record: Record, error: BaseException) -> None:
        self._metrics.letters.inc()
        log.error(
            "llm_request_unreadable", partition=record.partition, offset=record.offset, cause=str(error)
        )
        await self._committer.put(tenure, [self._letter(record, error)], ends=record.offset)

    def _stop_operation(self, key: bytes, reason: EndReason) -> None:
        found = self._operations.get(key)
        if found is not None:
            found[0].cancel(reason)
        elif self._waiting:
            self._look_at_waiting()

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
        where = {"partition": source.partition, "offset": found.offset}
        log.info("llm_partition_opened", **where, known=len(found.known))

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
