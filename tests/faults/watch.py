"""When the outside first saw each committed offset: what recovery is measured by."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from contextlib import suppress
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaException, TopicPartition

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

_EVERY_S = 0.25


class Watch(threading.Thread):
    """Looks at a group's committed offsets all through a run, whatever its test waits for meanwhile.

    The stamps in the broker's own log of offsets do not serve: they are of when an offset was sent, and its
    transaction may commit much later.
    """

    def __init__(self, kafka: KafkaOptions, group: str, *topics: TopicSpec) -> None:
        super().__init__(daemon=True)
        self._consumer = Consumer(
            kafka.client_config() | {"group.id": group, "isolation.level": "read_committed"}
        )
        self._asked = [
            TopicPartition(topic.named(kafka.topic_prefix), number)
            for topic in topics
            for number in range(topic.partitions)
        ]
        self._seen = {(part.topic, part.partition): [(0, time.time())] for part in self._asked}
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until closed."""
        while not self._ended.wait(_EVERY_S):
            self.look()

    def look(self) -> int:
        """Ask now; returns the sum over all partitions, the last one known where Kafka is away."""
        with suppress(KafkaException):
            found = self._consumer.committed(self._asked, timeout=5)
            with self._lock:
                for part in found:
                    seen = self._seen[part.topic, part.partition]
                    if part.offset > seen[-1][0]:
                        seen.append((part.offset, time.time()))
        return sum(seen[-1][0] for seen in self._seen.values())

    def moves(self, topic: str) -> list[int]:
        """How often each partition of a topic was seen to move on; units between two looks are one."""
        return [len(seen) - 1 for (name, _), seen in sorted(self._seen.items()) if name == topic]

    def seen_s(self, topic: str, partition: int, offset: int) -> float:
        """Return when so much of a partition was first seen committed, seconds since the epoch.

        Now, where it was not: Kafka was away at the last look, or an operator reset the group before one.
        """
        seen = self._seen[topic, partition]
        at = bisect_left(seen, (offset, 0.0))
        return seen[at][1] if at < len(seen) else time.time()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self.join(10)
        self._consumer.close()
