"""Fills a new topic from old entries, a batch a transaction, with how far it came in the same transaction.

The progress is the committed offset of a group of its own: the source's, where that is a log; else so many
entries were carried over, and the metadata says behind which key. A count alone would not do: retention may
take entries meanwhile. Who is killed goes on behind the last batch that was committed; who is fenced has been
replaced.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from connectors.kafka.access import refusal
from connectors.kafka.errors import TransactionFenced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.errors import KafkaFailure
    from connectors.kafka.options import KafkaOptions

_CALL_S: Final = 30.0
_WHOLE: Final = "whole"
_FROM: Final = "from "
_KEY_BYTES_MAX: Final = 2_048  # in base64 2,732: the broker takes 4,096 (offset.metadata.max.bytes)
_FENCED: Final = frozenset(
    (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)  # noqa: SLF001
)

Pair = tuple[bytes, bytes | None]


class Progress(NamedTuple):
    """How far one partition came."""

    entries: int
    """Of the source, carried over; or its offset."""
    whole: bool
    """All of them were."""
    start: bytes = b""
    """Of a source that is sorted: the key to go on from. Of a long key the beginning: some are done again."""

    @classmethod
    def of(cls, entries: int, metadata: str) -> Progress:
        """Return what a committed offset and its metadata say."""
        start = b64decode(metadata.removeprefix(_FROM)) if metadata.startswith(_FROM) else b""
        return cls(max(entries, 0), metadata == _WHOLE, start)

    @property
    def metadata(self) -> str:
        """What ``of`` reads."""
        if self.whole:
            return _WHOLE
        return _FROM + b64encode(self.start[:_KEY_BYTES_MAX]).decode() if self.start else ""


class Rewriter:
    """One target topic (its full name); opened by one process at a time."""

    def __init__(self, kafka: KafkaOptions, topic: str, group: str) -> None:
        """Take the target, and the group under whose name its progress is kept; it also fences."""
        self._kafka = kafka
        self._topic = topic
        self._group = group
        self._consumer = Consumer(
            kafka.client_config()
            | {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_committed"}
        )
        self._producer = Producer(
            kafka.client_config()
            | {
                "transactional.id": group,
                "transaction.timeout.ms": 60_000,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
            }
        )

    def open(self) -> None:
        """Become the only one who writes; raises KafkaUnavailable, NotAuthorized."""
        try:
            self._producer.init_transactions(_CALL_S)
        except KafkaException as error:
            raise self._named(error) from error

    def progress(self, partition: int) -> Progress:
        """Return how far a partition came; raises KafkaUnavailable, NotAuthorized."""
        try:
            (found,) = self._consumer.committed([TopicPartition(self._topic, partition)], timeout=_CALL_S)
        except KafkaException as error:
            raise self._named(error) from error
        if found.error is not None:
            raise self._named(KafkaException(found.error))
        return Progress.of(found.offset, found.metadata or "")

    def write(self, partition: int, pairs: Sequence[Pair], progress: Progress) -> None:
        """Append the pairs and that the partition came this far, or nothing.

        Raises:
            TransactionFenced: another process has taken over.
            KafkaUnavailable: it was not done, or nobody knows; who opens it next finds out.
        """
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failed.append(error)

        at = TopicPartition(self._topic, partition, progress.entries, metadata=progress.metadata)
        producer = self._producer
        try:
            producer.begin_transaction()
            for key, value in pairs:
                producer.produce(self._topic, value, key, partition=partition, on_delivery=delivered)
                producer.poll(0)
            _flush(producer, failed)
            producer.send_offsets_to_transaction([at], self._consumer.consumer_group_metadata(), _CALL_S)
            producer.commit_transaction(_CALL_S)
        except (KafkaException, BufferError, SystemError) as error:
            # SystemError: confluent-kafka raises "fenced" under the feet of whatever callback runs just then.
            raise self._named(error.__cause__ if isinstance(error, SystemError) else error) from error

    def close(self) -> None:
        """Let the connections go; what is open is ended by who opens it next."""
        self._producer.purge()
        self._consumer.close()

    def _named(self, error: BaseException | None) -> KafkaFailure:
        cause = error.args[0] if error is not None and error.args else None
        if not isinstance(cause, KafkaError):
            full = isinstance(error, BufferError)
            cause = KafkaError(KafkaError._QUEUE_FULL if full else KafkaError._FENCED)  # noqa: SLF001
        if cause.code() in _FENCED:
            return TransactionFenced(f"another process writes {self._topic}: {cause.str()}")
        return refusal(
            self._kafka, f"Write topic {self._topic}, transactional id and Read group {self._group}", cause
        )


def _flush(producer: Producer, failed: Sequence[KafkaError]) -> None:
    """Wait until the broker has every record; ``failed`` is filled meanwhile."""
    left = producer.flush(_CALL_S)
    if failed or left:
        raise KafkaException(failed[0] if failed else KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
