"""Reads a topic as a consumer would, committed records only, until there is enough and then silence."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Message, TopicPartition

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

    After ``enough`` the reader listens on for ``quiet_s`` of silence, so that a doubled effect shows itself.
    At the deadline it returns what there is: the caller's comparison says what is missing.
    """
    is_enough = enough if callable(enough) else lambda found: len(found) >= enough
    consumer = Consumer(
        kafka.client_config()
        | {"group.id": "reader", "isolation.level": "read_committed", "enable.auto.commit": False}
    )
    name = topic.named(kafka.topic_prefix)
    consumer.assign([TopicPartition(name, p, 0) for p in range(topic.partitions)])
    found: list[Message] = []
    deadline = time.monotonic() + deadline_s
    silent_since = time.monotonic()
    try:
        while time.monotonic() < deadline:
            messages = consumer.consume(10_000, 0.2)
            assert not any(m.error() for m in messages)
            found += messages
            if messages or not is_enough(found):
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > quiet_s:
                break
    finally:
        consumer.close()
    return found
