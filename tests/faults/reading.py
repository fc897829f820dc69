"""Reads what a run has left in Kafka, as a committed reader sees it, up to where the logs end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, TopicPartition

from tests.support.cutting import ends_of

if TYPE_CHECKING:
    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

_WITHIN_S = 60.0


def read_all(kafka: KafkaOptions, topic: TopicSpec) -> list[Message]:
    """All committed records of a topic, each partition in order, up to where its log ends now.

    A commit is answered before its markers are written: who stopped where a committed reader can read just
    now would miss what has committed.
    """
    name = topic.named(kafka.topic_prefix)
    ends = ends_of(kafka, topic)
    consumer = Consumer(
        kafka.client_config()
        | {"group.id": "recorder", "isolation.level": "read_committed", "enable.auto.commit": False}
        | {"enable.partition.eof": True, "auto.offset.reset": "earliest"}  # some are cut
    )
    left = set(range(topic.partitions))
    found: list[Message] = []
    consumer.assign([TopicPartition(name, number, 0) for number in left])
    deadline = time.monotonic() + _WITHIN_S
    try:
        while left:
            assert time.monotonic() < deadline, f"{name} cannot be read to its end"
            for message in consumer.consume(10_000, 0.1):
                error, number = message.error(), message.partition() or 0
                if error is None:
                    found.append(message)
                elif error.name() != "_PARTITION_EOF":
                    raise AssertionError(error)
                elif (message.offset() or 0) >= ends[number]:
                    left.discard(number)
    finally:
        consumer.close()
    return found
