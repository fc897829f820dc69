"""Clients under a test's hand: its clock stamps what they append, and it can have a commit fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

if TYPE_CHECKING:
    from connectors.kafka.clients import Clients


@dataclass(slots=True)
class Stage:
    """What a test decides; changed by the test's thread, read by those of the engine."""

    now_us: int
    """The broker's clock, microseconds since the epoch."""
    refusals: int = 0
    """So many of the next commits are refused, as by a broker that has lost a transaction."""

    def clients(self, clients: Clients) -> Clients:
        """Return the same clients, under this stage's hand."""
        return replace(
            clients,
            consumer=lambda config: StagedConsumer(self, clients.consumer(config)),
            producer=lambda config: StagedProducer(self, clients.producer(config)),
        )

    def refuse(self) -> None:
        """Raise what librdkafka does where a commit can only be given up, if this one is to be."""
        if self.refusals <= 0:
            return
        self.refusals -= 1
        error = KafkaError(
            KafkaError._STATE,  # noqa: SLF001  # librdkafka's name for it
            "refused by the test",
            fatal=False,
            retriable=False,
            txn_requires_abort=True,
        )
        raise KafkaException(error)


class StagedProducer:
    """A producer, stamping and refusing as the stage says; all else is the producer's own."""

    def __init__(self, stage: Stage, producer: Any) -> None:
        self._stage = stage
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def __len__(self) -> int:
        return len(self._producer)

    def produce(self, *record: Any, **how: Any) -> None:
        """Append, stamped with the stage's time unless the caller says another."""
        self._producer.produce(*record, **{"timestamp": self._stage.now_us // 1_000, **how})

    def commit_transaction(self, *how: Any) -> None:
        """Commit, unless it is refused."""
        self._stage.refuse()
        self._producer.commit_transaction(*how)


class StagedConsumer:
    """A consumer whose commits, those of a role that is at least once, are refused as the stage says."""

    def __init__(self, stage: Stage, consumer: Any) -> None:
        self._stage = stage
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def commit(self, **how: Any) -> Any:
        """Commit offsets, unless it is refused."""
        self._stage.refuse()
        return self._consumer.commit(**how)
