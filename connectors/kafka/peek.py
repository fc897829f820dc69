"""Looks into any topic: its newest committed records, without a group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka.access import REFUSALS, refusal
from connectors.kafka.errors import NoSuchTopic
from schemas.record import Record

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions

_ANSWER_S_MAX: Final = 10.0
_OFFSETS_A_RECORD: Final = 4  # markers of transactions take offsets too, so look further back than asked


def newest(kafka: KafkaOptions, topic: str, limit: int) -> list[Record]:
    """Return the newest ``limit`` records of a topic (its name as it stands in Kafka), the oldest first.

    Raises:
        NoSuchTopic: there is none.
        KafkaUnavailable: no answer.
    """
    consumer = Consumer(
        kafka.client_config()
        | {
            "group.id": f"{kafka.topic_prefix}{kafka.client_id}-peek",  # asked for; never joined
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    try:
        found = consumer.list_topics(topic, timeout=_ANSWER_S_MAX).topics[topic]
        if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise refusal(kafka, f"Read topic {topic}", found.error)
        if found.error is not None:
            raise NoSuchTopic(topic)
        starts = []
        for partition in found.partitions:
            low, high = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=_ANSWER_S_MAX
            )
            starts.append(TopicPartition(topic, partition, max(low, high - _OFFSETS_A_RECORD * limit)))
        records = _read(consumer, starts)
    except KafkaException as error:
        raise refusal(kafka, f"Read topic {topic}", error.args[0]) from None
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.timestamp_us, record.offset))[-limit:]


def _read(consumer: Consumer, starts: list[TopicPartition]) -> list[Record]:
    """Read from the starts to the present ends, or as long as there is an answer."""
    consumer.assign(starts)
    unread, records = {start.partition for start in starts}, []
    deadline = time.monotonic() + _ANSWER_S_MAX
    while unread:
        message = consumer.poll(0.1)
        if message is None:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001  # librdkafka's name
            continue
        error = message.error()
        if error is None:
            deadline = time.monotonic() + _ANSWER_S_MAX
            timestamp_us = message.timestamp()[1] * 1_000
            where = (message.topic(), message.partition(), message.offset())
            records.append(Record(*where, timestamp_us, message.key(), message.value()))
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            unread.discard(message.partition())
        elif error.code() in REFUSALS:
            raise KafkaException(error)
    return records
