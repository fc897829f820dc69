"""The worker: requests of Kafka in, events of their streams out; calls run beside each other on one loop.

One thread polls (``connectors/kafka/consumer.py``), one commits, one serves acknowledgements, one follows
cancels and the ledger; all calls are tasks of the loop. The poll never waits for a call: requests under way
are bounded, and partitions are paused at the bound.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import httpx2
import structlog

from connectors.kafka.chunk import SourcePartition, events_of
from connectors.kafka.consumer import ConsumerOptions, PollThread
from connectors.kafka.positions import PositionReader
from connectors.kafka.transaction import KafkaTransaction
from connectors.llm.committer import Committer, PartitionLost, Row
from connectors.llm.emitter import Emitter
from connectors.llm.errors import LlmError
from connectors.llm.follower import Follower
from connectors.llm.offsets import Offsets
from connectors.llm.operation import Operation, Tools
from connectors.llm.outlet import KafkaOutlet
from connectors.llm.providers import PROVIDERS
from connectors.llm.request import envelope_of, request_of
from connectors.llm.takeover import TakenOver, take_over
from connectors.llm.transport import AiohttpTransport
from connectors.threads import DaemonExecutor
from schemas.errors import ContractError, RegistryUnavailable, WireError
from schemas.topics import LLM_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.chunk import Chunk
    from connectors.llm.desk import RoutingDesk
    from connectors.llm.ledger import Known
    from connectors.llm.options import LlmOptions
    from connectors.llm.request import Envelope
    from schemas.payloads import PayloadCodec
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

ROLE: Final = "llm"
TYPES: Final = ("open", "token", "media", "structured", "usage", "state", "reset", "end")
"""Types of events that a worker writes: their schemas are fetched before the first call."""
_STOP_S: Final = 10.0


class LlmWorker:
    """Runs until ``stop`` is called or something fails that waiting does not mend.

    Args:
        options: where Kafka is, and the bounds.
        wire: writes and reads records.
        payloads: writes payloads.
        desk: decides about providers and money.
        letter: makes the dead letter of a request that names no stream.
    """

    def __init__(
        self,
        options: LlmOptions,
        wire: WireCodec,
        payloads: PayloadCodec,
        desk: RoutingDesk,
        letter: Callable[[Record, BaseException], Row],
    ) -> None:
        self._options = options
        self._wire = wire
        self._payloads = payloads
        self._desk = desk
        self._letter = letter
        prefix = options.kafka.topic_prefix
        self._group = f"{prefix}sluicegate.{ROLE}"
        self._source_topic = LLM_REQUESTS.named(prefix)
        self._offsets = Offsets()
        self._operations: dict[bytes, tuple[Operation, asyncio.Task[None]]] = {}
        self._known: dict[SourcePartition, dict[bytes, Known]] = {}
        self._opening: dict[SourcePartition, threading.Event] = {}
        self._failure: BaseException | None = None
        self._over = asyncio.Event()
        self._draining = False

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
                handover_records_max=options.calls_max,
            ),
            {self._source_topic: events_of(self._decode)},
            self,
        )
        transaction = KafkaTransaction(
            options.kafka,
            transactional_id=f"{self._group}.{options.identity}",
            group_metadata=lambda: self._poll.group_metadata,
            committed_unit=self._committed_unit,
            timeout_ms=options.transaction_timeout_ms,
            leaving=leaving,
        )
        self._follower = Follower(options.kafka, self._wire, loop, cancelled=self._cancel, saw=self._desk.saw)
        self._committer = Committer(
            transaction, self._offsets, self._follower.ledger_at, self._failed_from_thread, loop
        )
        outlet = KafkaOutlet(options.kafka, self._failed_from_thread, loop)
        transport = AiohttpTransport(options.calls_max)
        async with httpx2.AsyncClient(
            transport=transport, timeout=None, trust_env=False, follow_redirects=False
        ) as client:
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
            )
            self._outlet = outlet
            self._follower.start()
            outlet.start()
            self._committer.start()
            await self._ready()
            self._poll.start()
            try:
                await self._over.wait()
                await self._drain()
            finally:
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

    async def _drain(self) -> None:
        """Let calls end; what is left after the time is the next owner's, who begins it anew."""
        self._draining = True
        for source in list(self._known):
            self._poll.stop_partition(source)
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
            if not self._offsets.owns(chunk.source) or self._draining:
                self._poll.handled(len(chunk), chunk.size_bytes)
                continue
            for record, item in chunk.items:  # type: ignore[attr-defined]  # they are EventChunks
                self._begin(chunk.source, record, item)

    def _begin(self, source: SourcePartition, record: Record, item: Any) -> None:
        self._offsets.take(source, record.offset, self._follower.ledger_at(source.partition))
        try:
            to = _addressed(record, item)
        except (ContractError, WireError, LlmError) as error:
            self._spawn(self._bury(source, record, error), record)
            return
        known = self._known.get(source, {}).pop(to.key, None)
        if to.key in self._operations or self._follower.has_ended(to.key) or (known and known.end_reason):
            log.info("llm_request_again", stream=to.key.decode(), offset=record.offset)
            self._offsets.finish(source, record.offset)
            self._poll.handled(1, record.size_bytes)
            return
        try:
            request: Any = request_of(item)
        except LlmError as refused:
            request = refused
        emitter = Emitter(
            to,
            source.partition,
            self._outlet,
            self._wire,
            self._payloads,
            self._options.flush,
            self._loop,
        )
        operation = Operation(self._tools, source, record.offset, to, request, known, emitter)
        if self._follower.is_cancelled(to.key):
            operation.cancel()
        task = self._spawn(operation.run(), record)
        self._operations[to.key] = (operation, task)
        task.add_done_callback(lambda _task: self._operations.pop(to.key, None))

    def _spawn(self, work: Any, record: Record) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)

        def done(task: asyncio.Task[None]) -> None:
            self._poll.handled(1, record.size_bytes)
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, PartitionLost):
                self._fail(error)

        task.add_done_callback(done)
        return task

    async def _bury(self, source: SourcePartition, record: Record, error: BaseException) -> None:
        log.error(
            "llm_request_unreadable", partition=record.partition, offset=record.offset, cause=str(error)
        )
        await self._committer.put(source, [self._letter(record, error)], ends=record.offset)

    def _cancel(self, key: bytes) -> None:
        found = self._operations.get(key)
        if found is not None:
            found[0].cancel()

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
        """See Listener: calls of these partitions end here, and are their next owner's to begin anew."""
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
        try:
            found = take_over(self._options.kafka, self._wire, self._positions, source, cancelled)
        except Exception as error:  # noqa: BLE001  whatever it is, this partition cannot be read
            if not cancelled.is_set():
                self._failed_from_thread(error)
            return
        if not cancelled.is_set():
            self._loop.call_soon_threadsafe(self._opened, source, found, cancelled)

    def _opened(self, source: SourcePartition, found: TakenOver, cancelled: threading.Event) -> None:
        if cancelled.is_set() or self._draining:
            return
        self._known[source] = found.known
        self._offsets.start(source, found.offset)
        self._poll.start_partition(source, found.offset)
        log.info(
            "llm_partition_opened", partition=source.partition, offset=found.offset, known=len(found.known)
        )

    def _let_go(self, sources: frozenset[SourcePartition], done: Future[None]) -> None:
        for source in sources:
            self._known.pop(source, None)
        tasks = [task for operation, task in self._operations.values() if operation.source in sources]
        for task in tasks:
            task.cancel()
        gathered = asyncio.gather(*tasks, return_exceptions=True)
        gathered.add_done_callback(lambda _: done.set_result(None))

    # -- failures -----------------------------------------------------------------------------------------

    def _failed_from_thread(self, error: BaseException) -> None:
        self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None and not self._over.is_set():
            log.error("llm_worker_failed", cause=str(error))
            self._failure = error
        self._over.set()


def _addressed(record: Record, item: Any) -> Envelope:
    """Read whose a request is. Raises WireError, InvalidEvent, LlmError: nobody can be told of it."""
    if isinstance(item, BaseException):
        raise item
    to = envelope_of(item)
    if record.key != to.key:
        raise LlmError(f"its key is {record.key!r}, and it names the stream {to.key.decode()}")
    return to
