"""Kafka in memory: the twin of librdkafka's clients, on which an agent runs under its real engine.

It has what the engine stands on: offsets that commit markers take too, transactions that are seen whole or
not at all, offsets that commit with them, fenced producers, topics that refuse what is too large, a rebalance
for a member that takes its share and reads nothing. It has one process: no replicas, no compaction, no
retention. The same scenarios run on it and on a real broker (tests/integration/test_testing_twin.py).
"""

from __future__ import annotations

import threading
import uuid
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka.clients import Clients
from connectors.kafka.errors import TopicUndeclared
from schemas.topics import partition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from schemas.topics import TopicSpec

_Place = tuple[str, int]
# A poll thread serves its commands between two polls: asked for longer, it would answer later.
_POLL_S_MAX: Final = 0.005
_EOF: Final = KafkaError._PARTITION_EOF  # noqa: SLF001  # librdkafka's name for it


@dataclass(eq=False, slots=True)
class _Transaction:
    state: str = "open"  # then "committed" or "aborted"
    places: dict[_Place, int] = field(default_factory=dict)  # where it wrote, and its first offset there
    offsets: dict[tuple[str, str, int], TopicPartition] = field(default_factory=dict)
    refused: KafkaError | None = None  # a record of it was not taken: it can only be aborted


def _message(
    place: _Place,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    timestamp_ms: int,
    headers: list[tuple[str, bytes]] | None = None,
    error: KafkaError | None = None,
) -> Message:
    """Return librdkafka's own message, as the engine has C look into it."""
    stamp = TIMESTAMP_LOG_APPEND_TIME, timestamp_ms
    return Message(*place, offset, key, value, headers, error, stamp)


@dataclass(slots=True)
class _Entry:
    message: Message | None  # None = the marker of a transaction's end
    transaction: _Transaction | None


class MemoryKafka:
    """The log, its groups and its transactions; ``clients`` gives what to reach it with.

    Args:
        clock_us: what the broker stamps records with, microseconds since the epoch.
    """

    def __init__(self, clock_us: Callable[[], int]) -> None:
        self.clock_us = clock_us
        self.changed = threading.Condition(threading.RLock())
        self._specs: dict[str, TopicSpec] = {}
        self._ids: dict[str, uuid.UUID] = {}
        self._logs: dict[_Place, list[_Entry]] = {}
        self._committed: dict[tuple[str, str, int], TopicPartition] = {}
        self._producers: dict[str, MemoryProducer] = {}
        self._open: set[_Transaction] = set()
        self._rivals: set[str] = set()

    def create(self, specs: Iterable[TopicSpec]) -> None:
        """Create those of the topics that are not there yet."""
        for spec in specs:
            if spec.name not in self._specs:
                self._specs[spec.name] = spec
                self._ids[spec.name] = uuid.uuid4()
                self._logs |= {(spec.name, number): [] for number in range(spec.partitions)}

    def clients(self) -> Clients:
        """Return the clients of this Kafka; they heed isolation and end of partition alone."""
        return Clients(
            consumer=lambda config: MemoryConsumer(self, config),
            producer=lambda config: MemoryProducer(self, config),
            admin=lambda _config: SimpleNamespace(describe_topics=self._describe),
        )

    def partitions(self, topic: str) -> range:
        """Return the numbers of a topic's partitions, none if there is no such topic."""
        spec = self._specs.get(topic)
        return range(0 if spec is None else spec.partitions)

    # -- groups ---------------------------------------------------------------------------------------

    def rival_joins(self, group: str) -> None:
        """Have another member take its share of a group's partitions, the upper half of each topic's."""
        self._rivals.add(group)

    def rival_leaves(self, group: str) -> None:
        """Have it leave: its share comes back."""
        self._rivals.discard(group)

    def has_rival(self, group: str) -> bool:
        """Say whether it is there."""
        return group in self._rivals

    def rivals_share(self, topic: str) -> range:
        """Return the numbers of a topic's partitions that it has, or would have."""
        count = len(self.partitions(topic))
        return range((count + 1) // 2, count)

    # -- for the clients ------------------------------------------------------------------------------

    def append(
        self,
        place: _Place,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: list[tuple[str, bytes]] | None,
        transaction: _Transaction | None,
    ) -> Message:
        """Append one record: partition -1 = by key, timestamp 0 = the clock's.

        Raises:
            TopicUndeclared: there is no such topic.
            KafkaException: there is no such partition, or the record is too large for its topic.
        """
        topic, number = place
        spec = self._specs.get(topic)
        if spec is None:
            raise TopicUndeclared(topic)
        if len(key or b"") + len(value or b"") > spec.max_message_bytes:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if number < 0:
            number = 0 if key is None else partition_of(key, spec.partitions)
        if number >= spec.partitions:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))  # noqa: SLF001
        place = topic, number
        with self.changed:
            log = self._logs[place]
            stamp_ms = timestamp_ms or self.clock_us() // 1_000
            message = _message(place, len(log), key, value, stamp_ms, headers)
            if transaction is not None:
                transaction.places.setdefault(place, len(log))
                self._open.add(transaction)
            log.append(_Entry(message, transaction))
            self.changed.notify_all()
        return message

    def end(self, transaction: _Transaction, state: str) -> None:
        """Commit or abort: each partition that was written to gets a marker."""
        with self.changed:
            transaction.state = state
            self._open.discard(transaction)
            for place in sorted(transaction.places):
                self._logs[place].append(_Entry(None, transaction))
            if state == "committed":
                self._committed |= transaction.offsets
            self.changed.notify_all()

    def bounds(self, place: _Place, *, committed: bool) -> tuple[int, int]:
        """Return a partition's first offset, and its high watermark or, ``committed``, last stable offset.

        Raises:
            KafkaException: there is no such partition.
        """
        with self.changed:
            log = self._logs.get(place)
            if log is None:
                raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))  # noqa: SLF001
            firsts = (unit.places[place] for unit in self._open if place in unit.places)
            return 0, min(firsts, default=len(log)) if committed else len(log)

    def fetch(self, place: _Place, start: int, limit: int, *, committed: bool) -> tuple[list[Message], int]:
        """Return at most ``limit`` records from ``start`` on, and where the partition stands after them."""
        with self.changed:
            _, end = self.bounds(place, committed=committed)
            found: list[Message] = []
            position = start
            for entry in self._logs[place][start:end]:
                if len(found) == limit:
                    break
                position += 1
                aborted = entry.transaction is not None and entry.transaction.state == "aborted"
                if entry.message is not None and not (committed and aborted):
                    found.append(entry.message)
            return found, position

    def first_since(self, place: _Place, since_ms: int) -> int:
        """Return the offset of the first record that is not older than a time, -1 if there is none."""
        with self.changed:
            messages = (entry.message for entry in self._logs[place] if entry.message is not None)
            return next((m.offset() for m in messages if m.timestamp()[1] >= since_ms), -1)

    def take_over(self, transactional_id: str, producer: MemoryProducer) -> None:
        """Fence the id's producer before, and abort what it left open."""
        with self.changed:
            before = self._producers.get(transactional_id)
            self._producers[transactional_id] = producer
            if before is not None and before is not producer:
                before.fence()

    def committed(self, group: str, part: TopicPartition) -> TopicPartition:
        """Return a group's committed offset, -1001 if there is none."""
        with self.changed:
            known = self._committed.get((group, part.topic, part.partition))
            return known or TopicPartition(part.topic, part.partition)

    def commit(self, group: str, parts: Sequence[TopicPartition]) -> None:
        """Have a group's offsets stand."""
        with self.changed:
            self._committed |= {(group, part.topic, part.partition): part for part in parts}

    def _describe(self, topics: Any, request_timeout: float) -> dict[str, Future[Any]]:  # noqa: ARG002
        found: dict[str, Future[Any]] = {}
        for name in topics.topic_names:
            future: Future[Any] = Future()
            if name in self._ids:
                future.set_result(SimpleNamespace(topic_id=self._ids[name]))
            else:
                future.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
            found[name] = future
        return found


class MemoryConsumer:
    """Stands for ``confluent_kafka.Consumer``; the one member of its group that reads."""

    def __init__(self, kafka: MemoryKafka, config: dict[str, Any]) -> None:
        self._kafka = kafka
        self._group = str(config["group.id"])
        self._is_committed = config.get("isolation.level", "read_committed") == "read_committed"
        self._tells_eof = bool(config.get("enable.partition.eof"))
        self._positions: dict[_Place, int] = {}
        self._paused: set[_Place] = set()
        self._told: dict[_Place, int] = {}  # the end that was told last
        self._subscribed: list[str] = []
        self._joins = False
        self._has_rival = False
        self._callbacks: dict[str, Any] = {}

    def subscribe(self, topics: Sequence[str], **callbacks: Any) -> None:
        """Have all partitions of the topics assigned at the next poll."""
        self._subscribed, self._callbacks, self._joins = list(topics), callbacks, True

    def poll(self, timeout: float) -> Message | None:
        """Return the next record, or None."""
        found = self.consume(1, timeout)
        return found[0] if found else None

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """Return the next records, a partition after the other."""
        if self._joins or (self._subscribed and self._has_rival != self._kafka.has_rival(self._group)):
            self._join()
        with self._kafka.changed:
            found = list(self._ready(num_messages))
            if not found and timeout > 0:
                self._kafka.changed.wait(min(timeout, _POLL_S_MAX))
                found = list(self._ready(num_messages))
            return found

    def _ready(self, limit: int) -> Iterator[Message]:
        for place, start in list(self._positions.items()):
            if limit <= 0:
                return
            if place in self._paused:
                continue
            records, position = self._kafka.fetch(place, start, limit, committed=self._is_committed)
            self._positions[place] = position
            limit -= len(records)
            yield from records
            _, end = self._kafka.bounds(place, committed=self._is_committed)
            if self._tells_eof and position >= end and self._told.get(place) != position and limit > 0:
                self._told[place] = position
                limit -= 1
                yield _message(place, position, None, None, 0, error=KafkaError(_EOF))

    def _join(self) -> None:
        """Join the group, or join it again: then all that it had is revoked first."""
        self._revoke()
        self._joins, self._has_rival = False, self._kafka.has_rival(self._group)
        parts = [
            TopicPartition(topic, number)
            for topic in self._subscribed
            for number in self._kafka.partitions(topic)
            if not (self._has_rival and number in self._kafka.rivals_share(topic))
        ]
        self._callbacks["on_assign"](self, parts)

    def _revoke(self) -> None:
        if self._positions and self._callbacks:
            self._callbacks["on_revoke"](self, [TopicPartition(*place) for place in self._positions])

    def assign(self, parts: Sequence[TopicPartition]) -> None:
        """Read these partitions from their offsets on."""
        self._positions = {(part.topic, part.partition): max(part.offset, 0) for part in parts}
        self._paused.clear()
        self._told.clear()

    def unassign(self) -> None:
        """Read nothing."""
        self.assign(())

    def incremental_assign(self, parts: Sequence[TopicPartition]) -> None:
        """Read these partitions, too."""
        for part in parts:
            place = part.topic, part.partition
            self._positions[place] = max(part.offset, 0)
            self._told.pop(place, None)

    def incremental_unassign(self, parts: Sequence[TopicPartition]) -> None:
        """Do not read these partitions any more."""
        for part in parts:
            self._positions.pop((part.topic, part.partition), None)

    def pause(self, parts: Sequence[TopicPartition]) -> None:
        """Give nothing of these partitions."""
        self._paused.update((part.topic, part.partition) for part in parts)

    def resume(self, parts: Sequence[TopicPartition]) -> None:
        """Go on with these partitions."""
        self._paused.difference_update((part.topic, part.partition) for part in parts)

    def seek(self, part: TopicPartition) -> None:
        """Go to an offset."""
        self._positions[part.topic, part.partition] = part.offset

    def committed(self, parts: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:  # noqa: ARG002
        """Return the group's committed offsets."""
        return [self._kafka.committed(self._group, part) for part in parts]

    def commit(self, offsets: Sequence[TopicPartition], *, asynchronous: bool) -> list[TopicPartition]:  # noqa: ARG002
        """Have the group's offsets stand, without a transaction."""
        self._kafka.commit(self._group, offsets)
        return list(offsets)

    def get_watermark_offsets(self, part: TopicPartition, timeout: float) -> tuple[int, int]:  # noqa: ARG002
        """Return the first offset, and the last stable one or, read uncommitted, the high watermark."""
        return self._kafka.bounds((part.topic, part.partition), committed=self._is_committed)

    def offsets_for_times(self, parts: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:  # noqa: ARG002
        """Return the first offset at the time (ms) that each part has as its offset, or later; -1 = none."""
        return [
            TopicPartition(
                part.topic, part.partition, self._kafka.first_since((part.topic, part.partition), part.offset)
            )
            for part in parts
        ]

    def list_topics(self, topic: str, timeout: float) -> Any:  # noqa: ARG002
        """Return a topic's partitions."""
        found = SimpleNamespace(error=None, partitions=dict.fromkeys(self._kafka.partitions(topic)))
        return SimpleNamespace(topics=defaultdict(lambda: found))

    def consumer_group_metadata(self) -> str:
        """Return the group, by which offsets are sent."""
        return self._group

    def close(self) -> None:
        """Leave: what is assigned is revoked."""
        self._revoke()
        self._positions = {}


class MemoryProducer:
    """Stands for ``confluent_kafka.Producer``; appends at once, and reports in ``poll`` and ``flush``."""

    def __init__(self, kafka: MemoryKafka, config: dict[str, Any]) -> None:
        self._kafka = kafka
        self._transactional_id = config.get("transactional.id")
        self._transaction: _Transaction | None = None
        self._fenced = False
        self._reports: list[tuple[Any, KafkaError | None, Message]] = []

    def init_transactions(self, timeout: float) -> None:  # noqa: ARG002
        """Fence whoever has the transactional id."""
        self._kafka.take_over(str(self._transactional_id), self)

    def fence(self) -> None:
        """Another producer has the id now."""
        self._fenced = True
        self._end("aborted")

    def __len__(self) -> int:
        return 0  # appended at once: nothing is queued

    def list_topics(self, topic: str | None = None, *, timeout: float) -> Any:  # noqa: ARG002
        """Say that a topic is there; one that is not is refused as it is appended to."""
        return SimpleNamespace(topics={topic: SimpleNamespace(error=None)})

    def begin_transaction(self) -> None:
        """Open a transaction."""
        self._check()
        self._transaction = _Transaction()

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = -1,
        on_delivery: Callable[[KafkaError | None, Message], None] | None = None,
        *,
        timestamp: int = 0,
        headers: list[tuple[str, Any]] | None = None,
    ) -> None:
        """Append a record; ``timestamp`` is milliseconds, 0 = as the broker stamps."""
        self._check()
        error = None
        if headers is not None:  # as librdkafka does
            headers = [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]
        try:
            message = self._kafka.append(
                (topic, partition), key, value, timestamp, headers, self._transaction
            )
        except KafkaException as refused:
            error = refused.args[0]
            message = _message((topic, partition), -1, key, value, timestamp, headers, error)
            if self._transaction is not None:
                self._transaction.refused = error
        if on_delivery is not None:
            self._reports.append((on_delivery, error, message))

    def poll(self, timeout: float) -> int:  # noqa: ARG002
        """Report what was appended; returns how much."""
        reports, self._reports = self._reports, []
        for on_delivery, error, message in reports:
            on_delivery(error, message)
        return len(reports)

    def flush(self, timeout: float = 0) -> int:
        """Report what was appended; nothing is left."""
        self.poll(timeout)
        return 0

    def send_offsets_to_transaction(
        self,
        parts: Sequence[TopicPartition],
        group: str,
        timeout: float,  # noqa: ARG002
    ) -> None:
        """Have the group's offsets commit with the transaction."""
        self._check()
        assert self._transaction is not None
        self._transaction.offsets |= {(group, part.topic, part.partition): part for part in parts}

    def commit_transaction(self, timeout: float) -> None:  # noqa: ARG002
        """Commit: all is seen, and the offsets stand."""
        self._check()
        self.poll(0)
        refused = self._transaction and self._transaction.refused
        if refused:
            reason = f"a record was refused: {refused.str()}"
            raise KafkaException(
                KafkaError(refused.code(), reason, fatal=False, retriable=False, txn_requires_abort=True)
            )
        self._end("committed")

    def abort_transaction(self, timeout: float) -> None:  # noqa: ARG002
        """Abort: nothing is seen, and no offset moves."""
        self._check()
        self._end("aborted")

    def purge(self) -> None:
        """Nothing is queued here; what is open stays open, as a process that ends leaves it."""
        self._reports.clear()

    def _end(self, state: str) -> None:
        if self._transaction is not None:
            self._kafka.end(self._transaction, state)
            self._transaction = None

    def _check(self) -> None:
        if self._fenced:
            raise KafkaException(KafkaError(KafkaError._FENCED, "fenced", True, False, False))  # noqa: SLF001, FBT003
