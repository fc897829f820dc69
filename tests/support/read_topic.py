"""Reads a topic as a consumer would, committed records only, until there is enough and then silence."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec


def read_committed(
    kafka: KafkaOptions,
    topic: TopicSpec,
    enough: int | Callable[[list[Message]], bool],
    *,
    deadline_s: float = 90.0,
    quiet_s: float = 1.0,
) -> list[Message]:
    """Return all records from the beginning on.

    After ``enough``, and once it saw the end of each partition (a broker that is slow is not silent), the
    reader listens on for ``quiet_s`` of silence, so that a doubled effect shows itself; 0 for who looks again
    and again, at what need not become silent. At the deadline it returns what there is, and says on stderr of
    which partitions it did not see the end: the caller's comparison says what is missing.
    """
    is_enough = enough if callable(enough) else lambda found: len(found) >= enough
    consumer = Consumer(
        kafka.client_config()
        | {
            "group.id": "reader",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # An end is told by an answer without records: of a partition that is written more often than
            # the 500 ms by default, none may ever come.
            "fetch.wait.max.ms": 20,
        }
    )
    name = topic.named(kafka.topic_prefix)
    consumer.assign([TopicPartition(name, p, 0) for p in range(topic.partitions)])
    found: list[Message] = []
    unread = set(range(topic.partitions))
    deadline = time.monotonic() + deadline_s
    silent_since = time.monotonic()
    try:
        while time.monotonic() < deadline:
            came = consumer.consume(10_000, 0.2)
            messages = [message for message in came if message.error() is None]
            ends = [message for message in came if message.error() is not None]
            assert all(end.error().code() == KafkaError._PARTITION_EOF for end in ends)
            unread -= {end.partition() for end in ends}
            found += messages
            if unread or not is_enough(found) or (messages and quiet_s):
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since >= quiet_s:
                break
        else:
            _tell_unread(consumer, name, unread)
    finally:
        consumer.close()
    return found


def _tell_unread(consumer: Consumer, topic: str, unread: set[int]) -> None:
    """Say where a reader stands in partitions whose end it did not see, and where Kafka says they end."""
    for place in consumer.position([TopicPartition(topic, number) for number in sorted(unread)]):
        seen = consumer.get_watermark_offsets(place, cached=True)
        try:
            real = consumer.get_watermark_offsets(place, timeout=5)
        except KafkaException as error:
            real = error
        sys.stderr.write(f"{topic}/{place.partition}: at {place.offset}, end seen {seen}, in fact {real}\n")
