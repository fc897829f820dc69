"""The load: whole streams of log lines, encoded before the clock starts: the program under test is timed."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.published import event_from_json
from schemas.topics import INPUT

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from schemas.payloads import PayloadCodec
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec

LINE = "x" * 80
# A limit is one only at its best. By default librdkafka asks for no more of a partition for a second when its
# part of the queue is full: a consumer that is quicker than that runs dry, at a fifth of what these reach.
QUICK = {
    "fetch.queue.backoff.ms": 10,
    "queued.min.messages": 1_000_000,
    "fetch.message.max.bytes": 8 * 1_048_576,
    "fetch.wait.max.ms": 10,
}


def make_streams(
    codec: WireCodec, payloads: PayloadCodec, streams: int, lines: int
) -> list[tuple[bytes, bytes]]:
    """Return (key, framed event) of ``streams`` streams in turn: ``open``, ``lines`` lines, ``end``."""
    tenant, now_us = f"bench-{uuid.uuid4().hex[:8]}", time.time_ns() // 1_000
    made: list[tuple[bytes, bytes]] = []
    bodies = [
        ("open", {"title": "bench"}),
        *[("log", {"line": LINE})] * lines,
        ("end", {"reason": "completed"}),
    ]
    for seq, (type_, payload) in enumerate(bodies):
        for number in range(streams):
            event = event_from_json(
                {"type": type_, "seq": seq, "payload": payload},
                tenant=tenant,
                stream_id=f"s-{number}",
                kind="log",
                payloads=payloads,
                now_us=now_us + seq,
            )
            made.append((event.key, codec.encode_event(event)))
    return made


def append(kafka: KafkaOptions, records: list[tuple[bytes, bytes]]) -> None:
    """Append all records to the input topic; raises if Kafka does not take one."""
    producer = Producer(
        kafka.client_config() | {"partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True}
    )
    topic = INPUT.named(kafka.topic_prefix)
    for key, value in records:
        while True:
            try:
                producer.produce(topic, value, key)
            except BufferError:
                producer.poll(0.1)
            else:
                break
    if producer.flush(120):
        raise RuntimeError("Kafka did not take the load in two minutes")


def read(kafka: KafkaOptions, topic: TopicSpec, count: int, timeout_s: float) -> tuple[float, list[bytes]]:
    """Read ``count`` committed values; returns seconds from the first to the last of them, and the values."""
    consumer = Consumer(
        kafka.client_config()
        | QUICK
        | {"group.id": "bench", "isolation.level": "read_committed", "enable.auto.commit": False}
    )
    name = topic.named(kafka.topic_prefix)
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(topic.partitions)])
    values: list[bytes] = []
    began = first = last = time.perf_counter()
    try:
        while len(values) < count and time.perf_counter() - began < timeout_s:
            messages = consumer.consume(10_000, 0.1)
            if messages and not values:
                first = time.perf_counter()
            values += [message.value() for message in messages if message.error() is None]
            if messages:
                last = time.perf_counter()
    finally:
        consumer.close()
    return last - first, values
