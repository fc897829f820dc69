"""What the producers of both guarantees share: how a unit's records are appended and heard of."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.kafka.errors import AppendRefused, KafkaFailure, TopicUndeclared, TransactionAborted
from connectors.kafka.needs import SPREAD_S
from connectors.kafka.ports import QUEUE_BYTES_MAX, QUEUE_RECORDS_MAX
from connectors.kafka.positions import metadata_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from confluent_kafka import Producer

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.outputs import Outputs
    from schemas.record import Headers
    from schemas.topics import TopicSpec

ASK_S = 1.0  # how often a wait looks whether the worker leaves
_ROOM_TRIES, _ROOM_S = 50, 0.1
_FIND_PAUSE_S = 0.1
_BY_KEY = -1  # librdkafka's own partitioner chooses
_NO_HEADERS: Final[Mapping[str, Any]] = {}


class Append(Protocol):
    """What is appended: see ``state.effects.Append``."""

    @property
    def topic(self) -> TopicSpec:
        """The topic, without prefix."""

    @property
    def key(self) -> bytes | None:
        """Key bytes."""

    @property
    def value(self) -> bytes | None:
        """Value bytes; None = a tombstone."""

    @property
    def partition(self) -> int | None:
        """Number, or None = by key."""

    @property
    def on_offset(self) -> Callable[[int], None] | None:
        """Called with the offset, or None."""

    @property
    def headers(self) -> Headers:
        """Names and values."""


def producer_config(options: KafkaOptions) -> dict[str, object]:
    """Return librdkafka's configuration of a unit's producer; the guarantee adds its own."""
    return options.client_config() | {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 1_000,  # a flush waits for none of it: what a unit appends goes out in full batches
        "partitioner": "murmur2_random",
        "compression.type": "lz4",
        # The unit of work bounds what is queued; librdkafka's own bound must not be met first.
        "queue.buffering.max.messages": QUEUE_RECORDS_MAX,
        "queue.buffering.max.kbytes": QUEUE_BYTES_MAX >> 10,
    }


def offsets_of(
    positions: Mapping[Any, int], unit: int, notes: Mapping[Any, str], handbacks: Mapping[Any, int]
) -> list[TopicPartition]:
    """Return the offsets that a unit commits, with ``metadata_of`` its number, a note and a hand-back."""
    return [
        TopicPartition(
            source.topic,
            source.partition,
            offset,
            metadata=metadata_of(unit, notes.get(source, ""), handbacks.get(source, -1)),
        )
        for source, offset in positions.items()
    ]


class Appends:
    """A producer and the appends of one open unit; ``open`` makes it, ``_named`` names its errors."""

    _hears_all = True
    """Whether each record is heard of, or those with an ``on_offset`` alone."""

    def __init__(self, kafka: KafkaOptions, *, timeout_s: float, leaving: threading.Event) -> None:
        self._kafka = kafka
        self._prefix = kafka.topic_prefix
        self._timeout_s = timeout_s
        self._leaving = leaving
        self._producer: Producer | None = None
        self.outputs: Outputs | None = None
        """Where records go, None = to the topics that they name; set before the first unit of work."""
        self._failed: KafkaFailure | None = None
        self._offsets: list[tuple[Callable[[int], None], int]] = []
        self._there: set[str] = set()

    def open(self) -> None:
        """Make the producer."""
        raise NotImplementedError

    def settle(self) -> None:
        """Make a producer if there is none, which ends what the one before had open. Raises as ``open``."""
        if self._producer is None:
            self.open()

    def renew(self) -> None:
        """Make the producer anew if it must not serve another unit; without transactions it may."""

    def close(self) -> None:
        """Give the producer up; an open transaction is aborted."""
        if self._producer is not None:
            self._producer.purge()
            self._producer = None

    @property
    def _live(self) -> Producer:
        self.settle()
        assert self._producer is not None
        return self._producer

    def _is_answered(self, asked: Future[Any], limit_s: float) -> bool:
        """Wait for an answer, and raise what it raises; False = none came in time, or the worker leaves."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                asked.result(min(ASK_S, limit_s))
            except TimeoutError:
                if time.monotonic() > deadline or self._leaving.is_set():
                    return False
            else:
                return True

    def _named(self, error: KafkaException, what: str = "") -> KafkaFailure:
        raise NotImplementedError

    def _forget(self) -> None:
        """Begin anew: what is still heard of an earlier unit counts for nothing."""
        self._failed = None
        self._offsets = []

    def append(self, appends: Sequence[Append]) -> None:
        """Append records; see ``state.checkpoint.Transaction``. Raises TopicUndeclared, too."""
        produce, outputs, there = self._live.produce, self.outputs, self._there
        heard = self._delivered if self._hears_all else None
        for append in appends:
            on_offset, partition = append.on_offset, append.partition
            topic = self._prefix + (append.topic.name if outputs is None else outputs.name_of(append))
            if topic not in there:
                self._find(topic)
            record = (
                topic,
                append.value,
                append.key,
                _BY_KEY if partition is None else partition,
                heard if on_offset is None else self._delivered_to(on_offset),
            )
            how = {"headers": list(append.headers)} if append.headers else _NO_HEADERS
            try:
                produce(*record, **how)
            except BufferError:
                self._wait_for_room(record, how)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise AppendRefused(append.topic.name, append.key, len(append.value or b"")) from error
                raise self._named(error) from error

    def _find(self, topic: str) -> None:
        """See that a topic is there, once: for one that is not, librdkafka waits longer than a unit may."""
        deadline = time.monotonic() + min(SPREAD_S, self._timeout_s)
        while True:
            try:
                error = self._live.list_topics(topic, timeout=ASK_S).topics[topic].error
            except KafkaException as failed:
                raise self._named(failed, f"Describe topic {topic}") from failed
            if error is None or error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._there.add(topic)
                return
            if time.monotonic() > deadline:
                raise TopicUndeclared(topic)
            time.sleep(_FIND_PAUSE_S)

    def _wait_for_room(self, record: tuple[Any, ...], how: Mapping[str, Any]) -> None:
        """Produce into a queue that was full; it is waited for, as the same unit would only meet it again."""
        for _ in range(_ROOM_TRIES):
            self._live.poll(_ROOM_S)
            with suppress(BufferError):
                self._live.produce(*record, **how)
                return
        raise TransactionAborted(f"no room in the queue for {_ROOM_TRIES * _ROOM_S:.0f} s")

    def flush(self) -> None:
        """Wait for the acknowledgements, then hand out the offsets; see the protocol."""
        began = time.monotonic()
        while left := self._live.flush(min(ASK_S, self._timeout_s)):
            waited_s = time.monotonic() - began
            if waited_s > self._timeout_s or self._leaving.is_set():
                raise TransactionAborted(f"{left} records were not acknowledged in {waited_s:.0f} s")
        if self._failed is not None:
            raise self._failed
        offsets, self._offsets = self._offsets, []
        for on_offset, offset in offsets:
            on_offset(offset)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is None or self._failed is not None:
            return
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            self._failed = AppendRefused(message.topic(), message.key(), len(message.value() or b""))
        else:
            self._failed = self._named(KafkaException(error), f"Write topic {message.topic()}")

    def _delivered_to(self, on_offset: Callable[[int], None]) -> Callable[[KafkaError | None, Any], None]:
        offsets = self._offsets  # of this unit: one that comes later is no other's

        def delivered(error: KafkaError | None, message: Any) -> None:
            self._delivered(error, message)
            if error is None:
                offsets.append((on_offset, message.offset()))

        return delivered
