"""Another member of a group under test: it takes its share of the partitions, and reads nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Protocol

from connectors.kafka.chunk import SourcePartition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confluent_kafka import Consumer, TopicPartition

    from connectors.kafka.memory import MemoryKafka
    from connectors.kafka.options import KafkaOptions

_LEAVE_S: Final = 20.0


class Rival(Protocol):
    """A member from when it is made until it leaves."""

    @property
    def holds(self) -> frozenset[SourcePartition] | None:
        """Its partitions; None = the group has not given it any yet."""

    def leave(self) -> None:
        """Leave the group."""


class MemoryRival:
    """``Rival`` in a Kafka in memory."""

    def __init__(self, log: MemoryKafka, group: str, topics: Sequence[str]) -> None:
        self._log = log
        self._group = group
        self._holds = frozenset(
            SourcePartition(topic, number) for topic in topics for number in log.rivals_share(topic)
        )
        log.rival_joins(group)

    @property
    def holds(self) -> frozenset[SourcePartition] | None:
        """See ``Rival``."""
        return self._holds

    def leave(self) -> None:
        """See ``Rival``."""
        self._log.rival_leaves(self._group)


class KafkaRival(threading.Thread):
    """``Rival`` on a real broker: it polls, as a member must, and what it is given it pauses at once."""

    def __init__(self, kafka: KafkaOptions, group: str, topics: Sequence[str]) -> None:
        super().__init__(name="rival", daemon=True)
        self._holds: frozenset[SourcePartition] | None = None
        self._leaving = threading.Event()
        self._consumer: Consumer = kafka.clients.consumer(
            kafka.client_config()
            | {
                "group.id": group,
                "partition.assignment.strategy": "range",
                "enable.auto.commit": False,
                "session.timeout.ms": 6_000,
            }
        )
        self._consumer.subscribe(list(topics), on_assign=self._take)
        self.start()

    @property
    def holds(self) -> frozenset[SourcePartition] | None:
        """See ``Rival``."""
        return self._holds

    def run(self) -> None:
        """Stay a member until it is to leave."""
        while not self._leaving.is_set():
            self._consumer.poll(0.1)
        self._consumer.close()

    def leave(self) -> None:
        """See ``Rival``."""
        self._leaving.set()
        self.join(_LEAVE_S)

    def _take(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        consumer.assign(parts)
        consumer.pause(parts)
        self._holds = frozenset(SourcePartition(part.topic, part.partition) for part in parts)
