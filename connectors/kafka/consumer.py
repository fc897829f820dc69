"""The poll thread: the one owner of the librdkafka consumer, from partitions to decoded chunks.

Everything that touches the consumer happens on this thread, as some calls from a second one can hang
while the first polls. Others ask by ``call``; commands are served while a rebalance waits, too.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from connectors.kafka.chunk import Records, SourcePartition
from connectors.kafka.commands import Commands
from connectors.kafka.decoding import DecodeGuard
from connectors.kafka.errors import ConsumerFailed, ConsumerFenced, IdentityHeld
from connectors.kafka.fetched import by_partition, failure_of, records_of
from connectors.kafka.handover import HandOver
from connectors.kafka.membership import consumer_config
from connectors.kafka.pace import FLOOD_RECORDS
from connectors.kafka.said import OUTAGE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from confluent_kafka import Consumer, Message

    from connectors.kafka.chunk import Chunk, Chunker
    from connectors.kafka.membership import ConsumerOptions
    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)
T = TypeVar("T")

_SEEK_TRIES, _SEEK_PAUSE_S = 200, 0.01
_DECODE_PAUSE_S, _FULL_WAIT_S = 1.0, 0.002
_HELD_S, _HELD_PAUSE_S = 90.0, 1.0  # twice the session of a member that was killed, by Kafka's default
_TWIN_S = 10.0  # two with one identity fence each other within seconds; a session alone takes 6 s to time out


class Listener(Protocol):
    """The loop side; none of it may block the poll thread that calls it."""

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """Take chunks; ``PollThread.handled`` is told when each is done with."""

    def assigned(self, sources: Sequence[SourcePartition]) -> None:
        """Partitions were assigned; they stay paused until ``start_partition``."""

    def revoked(self, sources: Sequence[SourcePartition], *, lost: bool) -> Future[None]:
        """Partitions go away: commit what is done (unless ``lost``) and let go of them; then it is done."""

    def failed_for_good(self, error: BaseException) -> None:
        """The consumer cannot go on."""


class PollThread(threading.Thread):
    """See the module's docstring."""

    def __init__(
        self,
        kafka: KafkaOptions,
        options: ConsumerOptions,
        chunkers: Mapping[str, Chunker],
        listener: Listener,
        guard: DecodeGuard | None = None,
        end_of: Callable[[SourcePartition], int | None] = lambda _source: None,
    ) -> None:
        """``end_of`` says before which offset a partition is read, None = without end; it may only grow."""
        super().__init__(name=f"poll-{options.group}", daemon=True)
        self._end_of = end_of
        self._at_end: set[SourcePartition] = set()  # paused, as what comes next is not to be read yet
        self._options = options
        self._chunkers = chunkers
        self._listener = listener
        self._guard = guard or DecodeGuard()
        self._principal = kafka.principal
        self._clients = kafka.clients
        self._said = kafka.said
        self._config = consumer_config(kafka, options)
        self._commands = Commands(lambda: ConsumerFailed(options.group, "its poll thread has ended"))
        self._stopping = threading.Event()
        self._expected: dict[SourcePartition, int] = {}  # started partitions: the next offset to deliver
        self._undecoded: list[tuple[int, Records]] = []
        self._epoch = 0
        self._handover = HandOver(options.handover_records_max, options.handover_bytes_max)
        self._retry_at = 0.0
        self._gathers_until = 0.0
        self.flooded = False
        """The last fetch brought a flood: the next one will soon bring more. For any thread to read."""
        self._away_at = -OUTAGE_S
        self.group_metadata: Any = None
        self.assignment: frozenset[SourcePartition] = frozenset()

    # -- asked by others, from any thread -------------------------------------------------------------

    def call(self, fn: Callable[[], T]) -> Future[T]:
        """Run ``fn`` on the poll thread; the future raises ConsumerFailed when the thread has ended."""
        return self._commands.call(fn)

    def start_partition(self, source: SourcePartition, offset: int) -> Future[None]:
        """Begin to deliver ``source`` from ``offset`` on: it was assigned and its state restored."""
        return self.call(lambda: self._start_partition(source, offset))

    def stop_partition(self, source: SourcePartition) -> Future[None]:
        """Deliver nothing more of ``source`` until it is started again; polling and heartbeats go on."""
        return self.call(lambda: self._stop_partition(source))

    def rewind(self, positions: Mapping[SourcePartition, int], epoch: int) -> Future[None]:
        """Go back to ``positions``; what was delivered under an older epoch is void."""
        return self.call(lambda: self._rewind(positions, epoch))

    def commit(self, offsets: Sequence[TopicPartition]) -> Future[None]:
        """Commit offsets without a transaction; the broker refuses those of a member that was replaced."""
        return self.call(lambda: self._commit(offsets))

    def handled(self, records: int, size_bytes: int) -> None:
        """Say that so many delivered records, of so many bytes, are done with (or void)."""
        self._handover.handled(records, size_bytes)

    def gather(self, seconds: float) -> None:
        """Leave what comes with librdkafka for so long, unless it comes in floods: it cannot be handled yet.

        Fetched one by one, events that trickle in would each wake both threads, and have the loop wait for
        the interpreter's lock after each call to the disk. Commands are served meanwhile.
        """
        until = time.monotonic() + seconds
        self.call(lambda: setattr(self, "_gathers_until", until))  # it may wait for longer than that now

    def stop(self) -> None:
        """Have the thread end; ``join`` waits for it.

        A static member does not leave the group: its partitions are its own until the session times out,
        for a worker that is started again.
        """
        self._stopping.set()

    # -- the thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Poll until stopped; an error that cannot pass is told to the listener once.

        After an outage of the brokers a static member can be fenced by its own second attempt to join:
        then it joins once more, and again after the next one: brokers are restarted one after the other. A
        member that is fenced without an outage, or as soon as it has joined, has been replaced.

        One that starts after it was killed may find its identity held until the session of then is over
        (``assignment=consumer``): it tries again for as long as that may take.
        """
        rejoined_at, began = -OUTAGE_S, time.monotonic()
        try:
            while not self._stopping.is_set():
                try:
                    self._poll()
                except IdentityHeld as held:
                    if time.monotonic() - began > _HELD_S:
                        raise
                    log.warning("waiting for a session to end", group=self._options.group, cause=str(held))
                    self._consumer.close()
                    self._stopping.wait(_HELD_PAUSE_S)
                except ConsumerFenced:
                    now = time.monotonic()
                    if now - self._away_at > OUTAGE_S or now - rejoined_at < _TWIN_S:
                        raise
                    rejoined_at = now
                    log.warning(
                        "fenced after an outage of the brokers, joining again", group=self._options.group
                    )
                    self._let_go([TopicPartition(*source) for source in self.assignment], lost=True)
                    self._consumer.close()
        except Exception as error:  # noqa: BLE001  whatever it is, the role cannot go on without it
            self._listener.failed_for_good(error)
        finally:
            self._close()

    def _poll(self) -> None:
        self._consumer: Consumer = self._clients.consumer(
            self._config | self._said.config() | {"error_cb": self._on_error}
        )
        self._consumer.subscribe(
            list(self._chunkers),
            on_assign=self._on_assign,
            on_revoke=lambda _consumer, parts: self._on_revoke(parts, lost=False),
            on_lost=lambda _consumer, parts: self._on_revoke(parts, lost=True),
        )
        while not self._stopping.is_set():
            self._commands.serve()
            self._follow_ends()
            self._regulate()
            self._fetch()

    def _on_error(self, error: KafkaError) -> None:
        if self._said.error(error, group=self._options.group):
            self._away_at = time.monotonic()

    def _fetch(self) -> None:
        if self._undecoded:
            self._decode_waiting()
        if self._handover.takes_nothing:
            self._commands.serve(_FULL_WAIT_S)
            return
        gather_s = self._gathers_until - time.monotonic()
        if gather_s > 0 and not self.flooded:
            self._commands.serve(gather_s)
            return
        timeout_s = 0.02 if self._handover.pauses or self._undecoded else 0.1
        first = self._consumer.poll(timeout_s if self._commands.none_wait else 0)
        # Also when nothing comes: a rebalance that moves no partition of ours calls nobody, and changes it;
        # so does a heartbeat under KIP-848. It takes 19 us, where a full chunk takes milliseconds.
        self.group_metadata = self._consumer.consumer_group_metadata()
        if first is None:
            self.flooded = False
            return
        # A rewind inside of these calls, by a rebalance, makes void what they return: it is fetched again.
        epoch = self._epoch
        messages = [first, *self._consumer.consume(self._options.chunk_records_max - 1, 0)]
        self.flooded = len(messages) >= min(FLOOD_RECORDS, self._options.chunk_records_max)
        if epoch != self._epoch:
            records_of(messages, self._on_message_error)  # that the member is fenced is said once
            for source, offset in self._expected.items():
                self._seek(source, offset)
            return
        for source, run in self._runs(messages):
            pieces = Records(source, run).pieces(self._options.chunk_bytes_max)
            self._undecoded.extend((epoch, piece) for piece in pieces)
        self._decode_waiting()

    def _runs(self, messages: Sequence[Message]) -> Iterator[tuple[SourcePartition, list[Message]]]:
        """Give the messages that are wanted by partition, in offset order."""
        for source, fetched in by_partition(messages).items():
            wanted = records_of(fetched, self._on_message_error)
            expected = self._expected.get(source)
            if expected is None:
                continue  # a partition that is not ready
            if wanted and wanted[0].offset() < expected:  # fetched before a seek took hold
                wanted = [message for message in wanted if message.offset() >= expected]
            end = self._end_of(source)
            if end is not None and wanted and wanted[-1].offset() >= end:
                wanted = [message for message in wanted if message.offset() < end]
                self._stop_at(source, end)
                if wanted:
                    yield source, wanted
            elif wanted:
                self._expected[source] = wanted[-1].offset() + 1
                yield source, wanted

    def _stop_at(self, source: SourcePartition, end: int) -> None:
        """Leave a partition at its end: all before it was fetched, and what is behind is fetched again.

        An end that is not known yet is 0: it does not take the partition back to what was handled.
        """
        self._expected[source] = max(end, self._expected[source])
        self._at_end.add(source)
        self._consumer.pause(self._parts([source]))

    def _follow_ends(self) -> None:
        """Read on where an end has moved, or where a rewind went back behind it."""
        for source in list(self._at_end):
            end, expected = self._end_of(source), self._expected.get(source)
            if expected is None:
                self._at_end.discard(source)
            elif end is None or end > expected:
                self._at_end.discard(source)
                self._seek(source, expected)
                if not self._handover.pauses:
                    self._consumer.resume(self._parts([source]))

    def _on_message_error(self, error: KafkaError, topic: str | None) -> None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            return
        options = self._options
        failure = failure_of(
            error, topic, group=options.group, instance_id=options.instance_id, principal=self._principal
        )
        if failure is not None:
            raise failure
        log.warning("consumer", group=options.group, cause=error.str())

    def _decode_waiting(self) -> None:
        """Decode and deliver in order; a registry that is away, say, is waited for, and polling goes on."""
        if time.monotonic() < self._retry_at:
            return
        chunks: list[Chunk] = []
        try:
            while self._undecoded:
                epoch, records = self._undecoded[0]
                source = records.source
                if epoch == self._epoch and source in self._expected:
                    chunks.append(self._chunkers[source.topic](epoch, records, self._guard))
                del self._undecoded[0]
        except Exception as error:
            if not getattr(error, "transient", False):
                raise
            self._retry_at = time.monotonic() + _DECODE_PAUSE_S
            log.warning("records wait for what may pass to be decoded", cause=str(error))
        if chunks:
            self._handover.given(chunks)
            self._listener.deliver(chunks)

    def _regulate(self) -> None:
        """Pause partitions while too much is handed over."""
        match self._handover.regulate(held_up=bool(self._undecoded)):
            case "pause":
                self._consumer.pause(self._parts(self._expected))
            case "resume":
                self._consumer.resume(self._parts(self._expected.keys() - self._at_end))

    # -- commands -------------------------------------------------------------------------------------

    def _start_partition(self, source: SourcePartition, offset: int) -> None:
        if source not in self.assignment:
            return  # revoked while its state was restored
        self._seek(source, offset)
        self._expected[source] = offset
        self._at_end.discard(source)
        self._guard.passed({source: offset})
        if not self._handover.pauses:
            self._consumer.resume(self._parts([source]))

    def _stop_partition(self, source: SourcePartition) -> None:
        if self._expected.pop(source, None) is not None:
            self._consumer.pause(self._parts([source]))
        self._undecoded = [waiting for waiting in self._undecoded if waiting[1].source != source]

    def _rewind(self, positions: Mapping[SourcePartition, int], epoch: int) -> None:
        self._undecoded.clear()
        for source, offset in positions.items():
            if source in self._expected:
                self._seek(source, offset)
                self._expected[source] = offset
        self._epoch = epoch  # only now: what was fetched before the seek would come back as duplicates

    def _commit(self, offsets: Sequence[TopicPartition]) -> None:
        for part in self._consumer.commit(offsets=list(offsets), asynchronous=False) or ():
            if part.error is not None:
                raise KafkaException(part.error)

    def _seek(self, source: SourcePartition, offset: int) -> None:
        """Seek; librdkafka refuses until its own fetcher has taken the partition up, which is soon."""
        for attempt in range(_SEEK_TRIES):
            try:
                self._consumer.seek(TopicPartition(source.topic, source.partition, offset))
            except KafkaException:
                if attempt == _SEEK_TRIES - 1:
                    raise
                time.sleep(_SEEK_PAUSE_S)
            else:
                return

    # -- rebalance ------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        for part in parts:
            part.offset = OFFSET_BEGINNING  # any valid one: paused at once, sought before it is resumed
        sources = [SourcePartition(part.topic, part.partition) for part in parts]
        if self._options.assignment == "range":
            consumer.assign(parts)
            self.assignment = frozenset(sources)
        else:
            consumer.incremental_assign(parts)
            self.assignment |= frozenset(sources)
        if parts:
            consumer.pause(parts)
        self.group_metadata = consumer.consumer_group_metadata()
        self._listener.assigned(sources)

    def _on_revoke(self, parts: list[TopicPartition], *, lost: bool) -> None:
        self._let_go(parts, lost=lost)
        if self._options.assignment == "range":
            self._consumer.unassign()
        else:
            self._consumer.incremental_unassign(parts)

    def _let_go(self, parts: list[TopicPartition], *, lost: bool) -> None:
        sources = [SourcePartition(part.topic, part.partition) for part in parts]
        done = self._listener.revoked(sources, lost=lost)
        if not lost:
            # A cooperative rebalance has its generation by now, and stands still until these are let go of:
            # by the one before nothing of the partitions that stay could be committed meanwhile.
            self.group_metadata = self._consumer.consumer_group_metadata()
        # As long as the listener needs: taken up again before it has let go, a partition would be let go of
        # then, and never be read. What it waits for is bounded, but for the outcome of a commit that nobody
        # knows while Kafka is away.
        while not done.done():
            self._commands.serve(0.01)  # the last commit needs this thread
        done.result()
        for source in sources:
            self._expected.pop(source, None)
        self._undecoded = [waiting for waiting in self._undecoded if waiting[1].source not in set(sources)]
        self.assignment = self.assignment.difference(sources)
        if not self.assignment:
            self._handover.forget_pauses()

    def _close(self) -> None:
        consumer = getattr(self, "_consumer", None)
        try:
            if consumer is not None:
                consumer.close()
        finally:
            self._commands.end()

    @staticmethod
    def _parts(sources: Iterable[SourcePartition]) -> list[TopicPartition]:
        return [TopicPartition(source.topic, source.partition) for source in sources]
