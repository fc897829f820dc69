"""One transactional producer and its id: a transaction at a time, replaced after any doubt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.kafka.access import REFUSALS
from connectors.kafka.commits import was_not_asked
from connectors.kafka.errors import AppendFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confluent_kafka import TopicPartition

    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)

_MARGIN_S: Final = 2.0
_ABORT_S: Final = 3.0  # a broker that does not answer by then is gone; a new producer settles the rest


class ProducerSlot:
    """Belongs to one thread.

    The transactional id stays the same when the producer is replaced: the new one's ``init_transactions``
    settles at the broker whatever the old one left open, so a late commit cannot tear the next transaction.
    """

    def __init__(self, options: KafkaOptions, transactional_id: str, timeout_ms: int) -> None:
        self._kafka = options
        self._id = transactional_id
        self._timeout_s = timeout_ms / 1_000
        self._config = options.client_config() | {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
            "enable.idempotence": True,
            "acks": "all",
            # The flush waits for none of it. At 0 the first record would go alone, the others behind its
            # answer, and librdkafka's thread would spin meanwhile (see ``connectors/llm/outlet.py``).
            "linger.ms": min(1_000, timeout_ms // 2),
            "compression.type": "lz4",
            "partitioner": "murmur2_random",  # librdkafka's own default would split a stream
            "socket.timeout.ms": min(timeout_ms, 5_000),
        }
        self._producer: Producer | None = None

    def connect(self) -> None:
        """Make the producer ready ahead of its first transaction; a failure is left to that."""
        try:
            self._ready(time.monotonic() + self._timeout_s)
        except AppendFailed as error:
            log.warning("producer is not ready, tried again with the next append", cause=str(error))

    def append(
        self,
        records: Sequence[tuple[str, bytes, bytes | None, int | None]],
        offsets: tuple[Sequence[TopicPartition], Any] | None = None,
    ) -> list[tuple[int, int]]:
        """Append all records in one transaction and return (partition, offset) of each.

        ``offsets`` are positions of a group, with its metadata, that are set in the same transaction.

        What failed before its commit was sent is tried once more with a new producer.

        Raises:
            AppendFailed: nothing of it was appended, or nobody knows.
        """
        deadline = time.monotonic() + self._timeout_s + _MARGIN_S
        problem = ""
        for _ in range(2):
            try:
                return self._try(records, offsets, deadline)
            except _NotCommitted as error:
                problem = str(error)
            if time.monotonic() > deadline - self._timeout_s / 2:
                break
        raise AppendFailed(f"Kafka at {self._kafka.bootstrap_servers}: {problem}")

    def close(self) -> None:
        """Drop the producer; an open transaction is aborted."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _ready(self, deadline: float) -> Producer:
        if self._producer is None:
            producer = Producer(self._config)
            try:
                producer.init_transactions(max(0.1, deadline - time.monotonic()))
            except KafkaException as error:
                # Dropped, not closed: close() would try to abort what the init is still about.
                if error.args[0].code() in REFUSALS:
                    raise AppendFailed(
                        f"{self._kafka.principal} may not Write transactional id {self._id}"
                    ) from error
                raise AppendFailed(
                    f"Kafka at {self._kafka.bootstrap_servers}: {error.args[0].str()}"
                ) from error
            self._producer = producer
        return self._producer

    def _try(
        self,
        records: Sequence[tuple[str, bytes, bytes | None, int | None]],
        positions: tuple[Sequence[TopicPartition], Any] | None,
        deadline: float,
    ) -> list[tuple[int, int]]:
        producer = self._ready(deadline)
        try:
            producer.begin_transaction()
            reports = _produce(producer, records)
            producer.flush(max(0.1, deadline - _MARGIN_S - time.monotonic()))
            offsets = _delivered(reports)
            if positions is not None:
                left_s = max(0.1, deadline - _MARGIN_S - time.monotonic())
                producer.send_offsets_to_transaction(list(positions[0]), positions[1], left_s)
        except (KafkaException, BufferError) as error:
            self._abort(producer)
            raise _NotCommitted(_said(error)) from error
        self._commit(producer, deadline)
        return offsets

    def _commit(self, producer: Producer, deadline: float) -> None:
        while True:
            try:
                producer.commit_transaction(max(0.1, deadline - time.monotonic()))
            except KafkaException as error:
                cause: KafkaError = error.args[0]
                if was_not_asked(cause):
                    self._abort(producer)
                    raise _NotCommitted(_said(error)) from error
                if cause.retriable() and time.monotonic() < deadline:
                    continue  # the call goes on where it stood
                self._discard()
                raise AppendFailed(f"the outcome is not known: {cause.str()}") from error
            return

    def _abort(self, producer: Producer) -> None:
        try:
            producer.abort_transaction(min(self._timeout_s, _ABORT_S))
        except KafkaException:
            self._discard()

    def _discard(self) -> None:
        # Not close(): it waits for ever for a broker that is gone. The next init_transactions settles it,
        # and the producer goes with the last reference to it.
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()


class _NotCommitted(Exception):
    """The transaction was given up before its commit was sent: nothing of it will ever be seen."""


def _produce(
    producer: Producer, records: Sequence[tuple[str, bytes, bytes | None, int | None]]
) -> list[list[Any]]:
    reports: list[list[Any]] = []
    for topic, key, value, partition in records:
        report: list[Any] = []
        reports.append(report)
        producer.produce(
            topic,
            key=key,
            value=value,
            partition=-1 if partition is None else partition,
            on_delivery=lambda error, message, report=report: report.extend((error, message)),
        )
    return reports


def _delivered(reports: Sequence[Sequence[Any]]) -> list[tuple[int, int]]:
    offsets = []
    for report in reports:
        if not report:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no broker took the records in time"))  # noqa: SLF001
        error, message = report
        if error is not None:
            raise KafkaException(error)
        offsets.append((message.partition(), message.offset()))
    return offsets


def _said(error: KafkaException | BufferError) -> str:
    cause = error.args[0] if error.args else error
    return str(cause.str() if isinstance(cause, KafkaError) else cause)
