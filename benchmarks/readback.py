"""What a contender wrote, read back as any reader would see it: committed records alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.load import QUICK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.options import KafkaOptions

# At least once, the last updates come about a second after their events were acknowledged.
LAST_OUTPUT_S: Final = 15.0
_CALL_S: Final = 10.0


class Check(Protocol):
    """Takes in what is read back, and compares it with what a plain computation gives."""

    def see(self, key: bytes, value: bytes | None) -> None:
        """Take in a record; of a key the last one counts."""

    def difference(self) -> str:
        """Say where it is not what it must be; empty = nowhere."""


@dataclass(frozen=True)
class Topic:
    """A topic's name as it stands in Kafka, and its number of partitions."""

    kafka: KafkaOptions
    name: str
    partitions: int


def read_back(
    topic: Topic, check: Check, start: Mapping[int, int] | None = None, quiet_s: float = LAST_OUTPUT_S
) -> tuple[int, str]:
    """Read until all is right, or nothing comes for a while; from ``start``, or from the beginning.

    Returns when the last record was appended (milliseconds, by the broker's clock), and what is wrong.
    """
    consumer = _consumer(topic)
    start = start or dict.fromkeys(range(topic.partitions), 0)
    consumer.assign([TopicPartition(topic.name, *at) for at in start.items()])
    last_ms = 0
    quiet_since = time.monotonic()
    difference = "nothing was read back"
    try:
        while difference and time.monotonic() - quiet_since < quiet_s:
            messages = [message for message in consumer.consume(10_000, 0.5) if message.error() is None]
            for message in messages:
                check.see(message.key() or b"", message.value())
            if messages:
                last_ms = max(last_ms, *(message.timestamp()[1] for message in messages))
                quiet_since = time.monotonic()
            else:
                difference = check.difference()
    finally:
        consumer.close()
    return last_ms, difference


class GroupProgress:
    """How far a group has come, asked without being one of it.

    By a consumer that never joins, and not by librdkafka's admin client: that one crashes the process now and
    then when a group's coordinator is slow to answer (seen with 2.16).
    """

    def __init__(self, topic: Topic, group: str) -> None:
        self._partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        self._consumer = Consumer(
            topic.kafka.client_config()
            # Else it would wait for transactions that are open.
            | {"group.id": group, "isolation.level": "read_uncommitted", "enable.auto.commit": False}
        )

    def events(self) -> int:
        """Return the sum of the committed offsets; 0 as long as the broker does not answer."""
        try:
            found = self._consumer.committed(self._partitions, _CALL_S)
        except KafkaException:
            return 0
        return sum(max(at.offset, 0) for at in found)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()


def ends(topic: Topic) -> dict[int, int]:
    """Return the end of each partition."""
    consumer = _consumer(topic)
    try:
        return {
            partition: consumer.get_watermark_offsets(TopicPartition(topic.name, partition), _CALL_S)[1]
            for partition in range(topic.partitions)
        }
    finally:
        consumer.close()


def _consumer(topic: Topic) -> Consumer:
    return Consumer(
        topic.kafka.client_config()
        | QUICK
        | {"group.id": "bench.check", "isolation.level": "read_committed", "enable.auto.commit": False}
    )
