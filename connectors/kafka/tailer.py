"""Follows topics from their recent past on, all partitions and no group: what an edge sees of Kafka.

One thread owns the consumer, decodes what it fetched, and hands a batch over to the event loop with one
call. A broker that goes away and comes back is told as a state, and the position is kept meanwhile.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import orjson
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka.access import REFUSALS
from connectors.kafka.errors import KafkaUnavailable, NotAuthorized
from schemas.errors import RegistryUnavailable
from schemas.record import Record

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)
T_contra = TypeVar("T_contra", contravariant=True)
T = TypeVar("T")

Place = tuple[str, int]
_BATCH_RECORDS_MAX = 1_000
_BATCHES_OUTSTANDING_MAX = 4
"""Batches that the loop has not handled: then the thread waits, and librdkafka's own bounded queue fills."""
RARELY_MS = 500
"""How often a broker is asked for what people do by hand."""
_STATE_MS = 1_000
_PAUSE_S = 1.0
_SETTLES_S = 15.0
"""So long after a start an error may be of topics that were just made: brokers agree on leaders meanwhile."""
_UNSETTLED = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)


@dataclass(frozen=True, slots=True)
class Followed:
    """One topic to follow; ``recent_records`` a partition are read again first, -1 = from its beginning."""

    topic: str
    recent_records: int
    since_ms: int = 0
    """Not from before that time by the broker's clock, ms since 1970; 0 = whenever."""


@dataclass(slots=True)
class TailState:
    """How the tail stands; ``problem`` is empty while all is well."""

    connected: bool = False
    problem: str = "Kafka has not answered yet"
    behind: dict[Place, int] = field(default_factory=dict)
    """Records between what was read and the last stable offset, of each partition."""
    low_offsets: dict[Place, int] = field(default_factory=dict)
    """The oldest offset that each partition still has, as of the latest look."""
    end_offsets: dict[Place, int] = field(default_factory=dict)
    """The last stable offset of each partition, as of the latest look: nothing committed stands there yet."""


class TailListener(Protocol[T_contra]):
    """The loop side; every call comes on the loop."""

    def tail_batch(self, batch: T_contra, positions: Mapping[Place, int]) -> None:
        """Take what was decoded; ``positions`` are the offsets that are read next."""

    def tail_caught_up(self, place: Place) -> None:
        """All that was there of a partition when it was looked at has been handed over."""

    def tail_state(self, state: TailState) -> None:
        """Take the state; comes about once a second."""


class Tailer(threading.Thread, Generic[T]):
    """See the module's docstring. ``decode`` runs on this thread; RegistryUnavailable makes it wait."""

    def __init__(
        self,
        kafka: KafkaOptions,
        followed: Sequence[Followed],
        decode: Callable[[Sequence[Record]], T],
        listener: TailListener[T],
        loop: asyncio.AbstractEventLoop,
        *,
        asks_ms: int = 100,
    ) -> None:
        """``asks_ms``: how often a broker that has nothing is asked again, which costs it.

        What comes is answered at once however long that is; that a partition was read to its end is known so
        much later where a transaction's marker is the last that stands in it.
        """
        super().__init__(name="kafka-tail", daemon=True)
        self._servers = kafka.bootstrap_servers
        self._said = kafka.said
        self._config = kafka.client_config() | kafka.said.config()
        self._config |= {
            "group.id": f"{kafka.topic_prefix}{kafka.client_id}-tail",  # asked for; never joined
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            # A position that is not in the log is never guessed in silence.
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": asks_ms,
            "fetch.error.backoff.ms": 100,
            "queued.max.messages.kbytes": 16 * 1024,
            "statistics.interval.ms": _STATE_MS,
            "stats_cb": self._on_stats,
            "error_cb": self._on_error,
        }
        self._principal = kafka.principal
        self._followed = followed
        self._decode = decode
        self._listener = listener
        self._loop = loop
        self._stopping = threading.Event()
        self._room = threading.Semaphore(_BATCHES_OUTSTANDING_MAX)
        self._problem = ""
        self._positions: dict[Place, int] = {}
        """What is read next; a consumer that is made anew goes on from there."""
        self._ends: dict[Place, int] = {}
        """Where partitions ended when they were looked at, of those that were not read as far yet."""

    def stop(self) -> None:
        """Have the thread end; ``join`` waits for it."""
        self._stopping.set()
        self._room.release()

    def run(self) -> None:
        """Follow until stopped; whatever fails is told as a state and tried again."""
        began = time.monotonic()
        while not self._stopping.is_set():
            consumer = None
            try:
                consumer = Consumer(self._config)
                self._assign(consumer)
                while not self._stopping.is_set():
                    self._poll(consumer)
            except (KafkaException, KafkaUnavailable) as error:
                self._tell(TailState(connected=False, problem=str(error)))
                settles = time.monotonic() - began < _SETTLES_S and _is_unsettled(error)
                (log.info if settles else log.warning)("tail_failed", error=str(error))
                self._stopping.wait(_PAUSE_S)
            except Exception as error:
                # Whatever it is, clients must not hang on a tail that is dead: tell it and begin anew.
                self._tell(TailState(connected=False, problem=f"{type(error).__name__}: {error}"))
                log.exception("tail_broken")
                self._stopping.wait(_PAUSE_S)
            finally:
                if consumer is not None:
                    consumer.close()

    # -- where to start ---------------------------------------------------------------------------------

    def _assign(self, consumer: Consumer) -> None:
        """Take every partition from where its topic is to be followed from; positions already had go on."""
        starts: list[TopicPartition] = []
        positions: dict[Place, int] = {}
        # Kafka answers: the first state need not wait for the first statistics.
        state = TailState(connected=True, problem="")
        for followed in self._followed:
            for partition in self._partitions(consumer, followed.topic):
                place = (followed.topic, partition)
                start = self._positions.get(place)
                if start is None:
                    low, stable = self._offsets(consumer, place)
                    recent = max(low, stable - followed.recent_records)
                    start = low if followed.recent_records < 0 else recent
                    if followed.since_ms:
                        start = max(start, self._offset_at(consumer, place, followed.since_ms, stable))
                    state.behind[place] = stable - start
                    state.low_offsets[place], state.end_offsets[place] = low, stable
                    self._ends[place] = stable
                positions[place] = start
                starts.append(TopicPartition(followed.topic, partition, start))
        consumer.assign(starts)
        self._hand_over([], positions)
        if state.end_offsets:
            self._tell(state)

    def _partitions(self, consumer: Consumer, topic: str) -> list[int]:
        try:
            found = consumer.list_topics(topic, timeout=5.0).topics[topic]
        except KafkaException as error:
            raise KafkaUnavailable(self._servers, error.args[0].str()) from None
        if found.error is not None or not found.partitions:
            raise KafkaUnavailable(self._servers, f"topic {topic} is not there: {found.error}")
        return sorted(found.partitions)

    def _offsets(self, consumer: Consumer, place: Place) -> tuple[int, int]:
        # With read_committed the upper one is the last stable offset: nothing before it is still open.
        low, stable = consumer.get_watermark_offsets(TopicPartition(*place), timeout=5.0)
        return int(low), int(stable)

    def _offset_at(self, consumer: Consumer, place: Place, since_ms: int, stable: int) -> int:
        """Give the offset of the first record of a time or later; where none is, the end."""
        (found,) = consumer.offsets_for_times([TopicPartition(*place, since_ms)], timeout=5.0)
        if found.error is not None:
            raise KafkaUnavailable(self._servers, f"{place[0]}[{place[1]}]: {found.error.str()}")
        return int(found.offset) if found.offset >= 0 else stable

    # -- the loop of the thread -------------------------------------------------------------------------

    def _poll(self, consumer: Consumer) -> None:
        # The first call waits for one record, the second takes what is there: asking for many at once
        # would wait for them to be many.
        messages = consumer.consume(1, 0.1)
        if messages:
            messages += consumer.consume(_BATCH_RECORDS_MAX - 1, 0)
        records: list[Record] = []
        positions: dict[Place, int] = {}
        ends: list[Place] = []
        for message in messages:
            place = (message.topic() or "", message.partition() or 0)
            error = message.error()
            if error is None:
                records.append(record_of(message))
                positions[place] = int(message.offset() or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's name for it
                positions[place] = int(message.offset() or 0)
                ends.append(place)
            else:
                self._on_partition_error(consumer, place, error)
        if messages:
            self._hand_over(records, positions)
        for place in ends:
            self._caught_up(place)

    def _hand_over(self, records: Sequence[Record], positions: Mapping[Place, int]) -> None:
        while not self._stopping.is_set():
            try:
                batch = self._decode(records)
                break
            except RegistryUnavailable as error:
                # Nothing is skipped for it: a schema is met for the first time and cannot be had yet.
                self._tell(TailState(connected=True, problem=str(error)))
                self._stopping.wait(_PAUSE_S)
        else:
            return
        self._room.acquire()
        if not self._stopping.is_set():
            self._positions.update(positions)
            self._loop.call_soon_threadsafe(self._take, batch, positions)
            reached = [place for place, end in self._ends.items() if self._positions.get(place, -1) >= end]
            for place in reached:
                self._caught_up(place)

    def _caught_up(self, place: Place) -> None:
        self._ends.pop(place, None)
        self._loop.call_soon_threadsafe(self._listener.tail_caught_up, place)

    def _take(self, batch: T, positions: Mapping[Place, int]) -> None:
        try:
            self._listener.tail_batch(batch, positions)
        finally:
            self._room.release()

    # -- trouble ----------------------------------------------------------------------------------------

    def _on_partition_error(self, consumer: Consumer, place: Place, error: KafkaError) -> None:
        topic, partition = place
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
            low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=5.0)
            consumer.incremental_unassign([TopicPartition(topic, partition)])
            consumer.incremental_assign([TopicPartition(topic, partition, int(low))])
            # Data was deleted before it was read here; clients find the hole by seq and are told of it.
            log.error("tail_position_lost", topic=topic, partition=partition, resumed_at=low)
            return
        if error.code() in REFUSALS:
            # Without a topic it is about the group, which is never joined, but asked for.
            what = f"Read topic {topic}" if topic else f"Describe group {self._config['group.id']}"
            refused = NotAuthorized(self._principal, what)
            log.error("tail_refused", cause=str(refused), remedy=refused.remedy)
        self._problem = f"{topic}[{partition}]: {error.str()}"
        log.warning("tail_partition_error", topic=topic, partition=partition, error=error.str())

    def _on_error(self, error: KafkaError) -> None:
        self._said.error(error)
        self._problem = str(error.str())

    def _on_stats(self, text: str) -> None:
        stats: dict[str, Any] = orjson.loads(text)
        connected = any(
            broker["state"] == "UP" for broker in stats["brokers"].values() if broker["nodeid"] >= 0
        )
        state = TailState(connected=connected, problem="")
        for topic, held in stats["topics"].items():
            for number, partition in held["partitions"].items():
                if number == "-1" or partition["ls_offset"] < 0:
                    continue
                place = (topic, int(number))
                state.behind[place] = max(partition["ls_offset"] - self._positions.get(place, 0), 0)
                state.low_offsets[place] = max(partition["lo_offset"], 0)
                state.end_offsets[place] = partition["ls_offset"]
        if not connected:
            state.problem = f"Kafka at {self._servers} does not answer: {self._problem or 'no connection'}"
        self._tell(state)

    def _tell(self, state: TailState) -> None:
        if not self._stopping.is_set():
            self._loop.call_soon_threadsafe(self._listener.tail_state, state)


def _is_unsettled(error: Exception) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in _UNSETTLED


def record_of(message: Message) -> Record:
    """A fetched message as a plain record."""
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp_us=message.timestamp()[1] * 1_000,
        key=message.key(),
        value=message.value(),
    )
