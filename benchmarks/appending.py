"""Readings on their way to a topic: encoded a block at a time, appended before any clock starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa
from confluent_kafka import Producer
from pyruhvro import serialize_record_batch

from benchmarks.windows import SCHEMA, SUBJECT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from schemas.topics import TopicSpec

COLUMNS: Final = ("sensor", "time", "amount", "cost", "note")
BLOCK: Final = 50_000
"""Readings that are encoded at a time."""
_QUEUE_MAX: Final = 500_000
_FLUSH_S: Final = 120.0

Reading = tuple[str, int, int, float, str]
"""Sensor (the key), event time in microseconds, amount, cost, note: the fields of ``windows.SCHEMA``."""


class Appender:
    """Appends readings to one topic, in Confluent's frame."""

    def __init__(self, kafka: KafkaOptions, spec: TopicSpec, registry: Registry) -> None:
        registry.register(SUBJECT, SCHEMA)
        self._frame = b"\x00" + registry.id_of(SUBJECT).to_bytes(4, "big")
        self._topic = spec.named(kafka.topic_prefix)
        self._producer = Producer(
            kafka.client_config()
            | {
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "enable.idempotence": True,
                "log_level": 3,  # a new broker makes it wait for its id, and it says so at every attempt
                "queue.buffering.max.messages": _QUEUE_MAX,
            }
        )
        self.size_bytes = 0
        """Of all values so far."""

    def append(self, rows: Sequence[Reading]) -> None:
        """Hand rows to the producer, at most ``BLOCK`` of them at a time; waits while its queue is full."""
        if not rows:
            return
        for row, body in zip(rows, _encoded(rows), strict=True):
            value = self._frame + body
            self.size_bytes += len(value)
            while True:
                try:
                    self._producer.produce(self._topic, value, row[0].encode())
                except BufferError:
                    self._producer.poll(0.1)
                else:
                    break
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until Kafka has all of it; raises RuntimeError after two minutes."""
        if self._producer.flush(_FLUSH_S):
            raise RuntimeError("Kafka did not take the load in two minutes")


def blocks(rows: Iterable[Reading]) -> Iterator[list[Reading]]:
    """Give ``rows`` in blocks of as many as are encoded at a time."""
    block: list[Reading] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _encoded(rows: Sequence[Reading]) -> Iterator[bytes]:
    batch = pa.record_batch(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    for part in serialize_record_batch(batch, SCHEMA, 1):
        yield from part.to_pylist()
