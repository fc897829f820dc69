"""Reads one key's records out of a partition, between two offsets and within bounds: what replay needs."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.tailer import record_of

if TYPE_CHECKING:
    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions
    from schemas.record import Record

_SILENCE_S_MAX = 5.0
"""No record and no end of the partition for so long: the broker does not answer."""


@dataclass(frozen=True, slots=True)
class SpanBounds:
    """Where one read stops at the latest; it gives what it has, and says where to go on."""

    records_max: int
    bytes_max: int
    scan_ms_max: int
    """Time for passing over other keys' records; four times as much once some were found.

    Spans that are cut by time start where no other reader looks for them, so that is for the worst only."""
    idle_ms_max: int = 50
    """Longest to go on without a find once there was one: a client waits for what was found."""


@dataclass(frozen=True, slots=True)
class KeySpan:
    """The records of one key that were found; ``next_offset`` is where the next read goes on."""

    records: tuple[Record, ...]
    next_offset: int
    truncated: bool
    """The partition begins after where the read was to start."""
    passed: int = 0
    """Records of other keys that were read and passed over."""


class SpanReader:
    """One consumer, for one caller at a time; it keeps its place, so that reading on needs no new fetch."""

    def __init__(self, kafka: KafkaOptions) -> None:
        self._bootstrap = kafka.bootstrap_servers
        self._consumer = Consumer(
            kafka.client_config()
            | {
                "group.id": f"{kafka.topic_prefix}{kafka.client_id}-replay",  # asked for; never joined
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 10,
                "queued.max.messages.kbytes": 8 * 1024,
            }
        )
        self._place: tuple[str, int, int] | None = None
        """Topic, partition and next offset while it is assigned."""
        self._left: list[Message] = []

    def stands_at(self, topic: str, partition: int, offset: int) -> bool:
        """Whether this reader would go on from there without a new fetch."""
        return self._place == (topic, partition, offset)

    def read(  # noqa: C901, PLR0912  # one pass over the log with its three ways to stop; split, they hide each other
        self, topic: str, partition: int, key: bytes, from_offset: int, stop_offset: int, bounds: SpanBounds
    ) -> KeySpan:
        """Read ``from_offset ≤ offset < stop_offset``; blocks up to the bounds.

        Raises:
            KafkaUnavailable: the broker does not answer.
        """
        truncated = False
        fresh = not self.stands_at(topic, partition, from_offset)
        if fresh:
            self._assign(topic, partition, from_offset)
        started = heard = time.monotonic()
        found: list[Record] = []
        found_bytes, found_at, next_offset = 0, 0.0, from_offset
        passed = 0
        while next_offset < stop_offset:
            message = self._next()
            now = time.monotonic()
            if message is None:
                if now - heard > _SILENCE_S_MAX:
                    self._drop()
                    raise KafkaUnavailable(self._bootstrap, f"no answer for {topic}[{partition}]")
            elif (error := message.error()) is None:
                heard, offset = now, int(message.offset() or 0)
                if offset >= stop_offset:
                    self._left.append(message)
                    next_offset = stop_offset
                    break
                next_offset = offset + 1
                if message.key() != key:
                    passed += 1
                else:
                    found.append(record_of(message))
                    found_bytes += len(message.value() or b"")
                    found_at = now
                    if len(found) >= bounds.records_max or found_bytes >= bounds.bytes_max:
                        break
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's name for it
                # A reader that goes on may meet the end as it was when it was fetched: that says nothing
                # of now, and records up to the stop follow. A fresh one has fetched after it was asked.
                if fresh or int(message.offset() or 0) >= stop_offset:
                    next_offset = max(stop_offset, next_offset)
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
                truncated, heard = True, now
                self._assign(topic, partition, OFFSET_BEGINNING)
            elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                self._drop()
                raise KafkaUnavailable(self._bootstrap, f"{topic}[{partition}]: {error.str()}")
            if (now - started) * 1_000 > bounds.scan_ms_max * (4 if found else 1):
                break
            if found and (now - found_at) * 1_000 > bounds.idle_ms_max:
                break
        self._place = (topic, partition, next_offset)
        if next_offset >= stop_offset:
            self._drop()  # it was read to the present: nobody goes on from here, so fetch no more
        return KeySpan(tuple(found), next_offset, truncated, passed)

    def close(self) -> None:
        """Let the connection go."""
        self._consumer.close()

    def _next(self) -> Message | None:
        if not self._left:
            first = self._consumer.consume(1, 0.05)
            if not first:
                return None
            # Kept in the order of a stack: taking from its end is cheap.
            self._left = [*first, *self._consumer.consume(999, 0)][::-1]
        return self._left.pop()

    def _assign(self, topic: str, partition: int, offset: int) -> None:
        self._left.clear()
        try:
            if self._place is None:
                # An idle client asks for a topic's leader again only after up to a second: ask now (2 ms).
                self._consumer.list_topics(topic, timeout=_SILENCE_S_MAX)
            self._consumer.assign([TopicPartition(topic, partition, offset)])
        except KafkaException as error:
            raise KafkaUnavailable(self._bootstrap, error.args[0].str()) from None

    def _drop(self) -> None:
        self._place = None
        self._left.clear()
        self._consumer.unassign()


class SpanReaders:
    """A bounded number of readers for many callers; who goes on gets the reader that stands there."""

    def __init__(self, kafka: KafkaOptions, readers: int) -> None:
        self._idle = [SpanReader(kafka) for _ in range(readers)]
        self._count = readers
        self._condition = threading.Condition()
        self._closed = False

    def read(
        self, topic: str, partition: int, key: bytes, from_offset: int, stop_offset: int, bounds: SpanBounds
    ) -> KeySpan:
        """See SpanReader.read; waits for a free reader."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._idle) or self._closed)
            if self._closed:
                raise KafkaUnavailable("none", "this reader was closed")
            places = [one.stands_at(topic, partition, from_offset) for one in self._idle]
            reader = self._idle.pop(places.index(True) if True in places else 0)
        try:
            return reader.read(topic, partition, key, from_offset, stop_offset, bounds)
        finally:
            with self._condition:
                self._idle.append(reader)
                self._condition.notify()

    def close(self) -> None:
        """Close all readers; waits for those that are reading (bounded by their own bounds)."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            self._condition.wait_for(lambda: len(self._idle) == self._count, timeout=_SILENCE_S_MAX * 2)
            for reader in self._idle:
                reader.close()
