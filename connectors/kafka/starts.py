"""Where a group may begin: the offsets of a time."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from connectors.kafka.access import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions

_CALL_S: Final = 15.0
At = tuple[str, int]


def offsets_from(kafka: KafkaOptions, group: str, topics: Sequence[str], from_ms: int) -> dict[At, int]:
    """Return for each partition the first offset appended at ``from_ms`` or later, -1 = the earliest.

    Where nothing came since, that is the end.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: an ACL is missing.
    """
    with closing(_consumer(kafka, group)) as consumer:
        found: dict[At, int] = {}
        try:
            for topic in topics:
                known = consumer.list_topics(topic, timeout=_CALL_S).topics[topic]
                asked = [TopicPartition(topic, partition, from_ms) for partition in known.partitions]
                times = (
                    consumer.offsets_for_times(asked, timeout=_CALL_S) if from_ms >= 0 and asked else asked
                )
                for at in times:
                    low, high = consumer.get_watermark_offsets(
                        TopicPartition(at.topic, at.partition), timeout=_CALL_S
                    )
                    by_time = high if at.offset < 0 else at.offset
                    found[at.topic, at.partition] = low if from_ms < 0 else by_time
        except KafkaException as error:
            raise refusal(kafka, f"Read topics {', '.join(topics)}", error.args[0]) from error
    return found


def _consumer(kafka: KafkaOptions, group: str) -> Consumer:
    return Consumer(
        kafka.client_config()
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
