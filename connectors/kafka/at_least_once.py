"""The Kafka half of a unit of work without a transaction: its records are appended, then its offsets commit.

The order is what keeps every event (the numbers are those of ``state.checkpoint``): 3. outputs and changelog
are appended, and all acknowledged; 4., 5. the source offsets are committed by the consumer, which the broker
refuses for a member that was replaced; 6. the stores are written. So state is where the offsets are, or
ahead of them. What fails between 3 and 5 is handled again: its outputs stand twice, and a state that was
rebuilt from the changelog since counts its events twice.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.kafka.access import REFUSALS, refusal
from connectors.kafka.appends import Appends, offsets_of, producer_config
from connectors.kafka.errors import NotAuthorized, ProducerFailed, TransactionAborted

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from connectors.kafka.errors import KafkaFailure
    from connectors.kafka.options import KafkaOptions

_OPEN_S = 20.0
_AGAIN_S = 0.1


class AtLeastOnce(Appends):
    """Satisfies ``state.checkpoint.Transaction``.

    The producer is the same from start to end. What it has queued of a unit that was given up is appended
    before anything newer, so the last value of a key in a changelog is never an older one.

    Args:
        kafka: where Kafka is.
        commit_offsets: has the consumer commit; see ``PollThread.commit``.
        timeout_ms: how long acknowledgements, and the answer to a commit, are waited for.
        leaving: set when the worker must end soon: what is waited for is given up within two seconds then.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        *,
        commit_offsets: Callable[[Sequence[TopicPartition]], Future[None]],
        timeout_ms: int,
        leaving: threading.Event,
    ) -> None:
        super().__init__(kafka, timeout_s=timeout_ms / 1_000, leaving=leaving)
        self._commit_offsets = commit_offsets
        self._parts: list[TopicPartition] = []

    def open(self) -> None:
        """Make the producer.

        Raises:
            KafkaUnavailable: Kafka cannot be reached.
            NotAuthorized: the principal may not look.
        """
        # No time-out: a record that is given up may yet be appended, after newer ones of its key.
        producer = self._kafka.clients.producer(producer_config(self._kafka) | {"message.timeout.ms": 0})
        try:
            producer.list_topics(timeout=_OPEN_S)
        except KafkaException as error:
            raise refusal(self._kafka, "Describe topics", error.args[0]) from error
        self._producer = producer

    def begin(self) -> None:
        """Wait for what a unit before left in the queue: that holds one unit at most."""
        self._forget()
        if len(self._live):
            self.flush()
        self._forget()

    def send_offsets(
        self,
        positions: Mapping[Any, int],
        unit: int,
        notes: Mapping[Any, str],
        handbacks: Mapping[Any, int] = MappingProxyType({}),
    ) -> None:
        """Keep the offsets for the commit; see the protocol."""
        self._parts = offsets_of(positions, unit, notes, handbacks)

    def begin_at(self, source: Any, offset: int, cancelled: threading.Event) -> None:
        """Commit where a partition begins that was never committed; a rebalance in between is waited for.

        Raises as ``commit``.
        """
        deadline = time.monotonic() + self._timeout_s
        while not cancelled.is_set():
            try:
                self._commit([TopicPartition(source.topic, source.partition, offset)])
            except TransactionAborted:
                if time.monotonic() > deadline or self._leaving.is_set():
                    raise
                cancelled.wait(_AGAIN_S)
            else:
                return

    def commit(self) -> None:
        """Commit the offsets; an answer that never comes is taken for none, and the unit is handled again."""
        self._commit(self._parts)

    def _commit(self, parts: Sequence[TopicPartition]) -> None:
        try:
            committed = self._is_answered(self._commit_offsets(parts), self._timeout_s)
        except KafkaException as error:
            raise self._named(error, "Read its group") from error
        if not committed:
            raise TransactionAborted("the group's coordinator does not take the offsets")

    def abort(self) -> None:
        """Nothing is taken back: what was appended stands, and what is queued will."""

    def _named(self, error: KafkaException, what: str = "Write a topic of its unit of work") -> KafkaFailure:
        cause: KafkaError = error.args[0]
        if cause.code() in REFUSALS:
            return NotAuthorized(self._kafka.principal, what)
        if cause.fatal() or cause.code() == KafkaError._FATAL:  # noqa: SLF001  # librdkafka's name for it
            return ProducerFailed(cause.str())
        return TransactionAborted(f"{what}: {cause.str()}")
