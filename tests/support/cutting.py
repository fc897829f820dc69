"""Takes from topics what they should have kept, as an operator would by mistake."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.kafka.admin import ensure_topics
from connectors.kafka.positions import PositionReader
from tests.support.topic_config import set_config

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

LAST: Final = -1
"""All but the last records of each partition: the marker of the last transaction and one before it."""


def cut(kafka: KafkaOptions, topic: TopicSpec, before: int) -> None:
    """Delete the records of each partition before an offset.

    Kafka itself refuses to cut a topic that is compacted alone: its policy is another one meanwhile, as of a
    retention that was set by mistake.
    """
    name, admin = topic.named(kafka.topic_prefix), AdminClient(kafka.client_config())

    cuts = [
        TopicPartition(name, partition, end - 2 if before == LAST else before)
        for partition, end in enumerate(ends_of(kafka, topic))
    ]
    if topic.cleanup == "compact":
        set_config(admin, name, "cleanup.policy", "delete")
    deadline = time.monotonic() + 20
    for where, future in admin.delete_records(cuts).items():
        while True:  # the leader learns of the policy in its own time
            try:
                assert future.result(20).low_watermark == where.offset
                break
            except KafkaException:
                assert time.monotonic() < deadline
                time.sleep(0.2)
                future = admin.delete_records([where])[where]  # noqa: PLW2901  # the next try
    if topic.cleanup == "compact":
        set_config(admin, name, "cleanup.policy", topic.cleanup)


def make_anew(kafka: KafkaOptions, topic: TopicSpec) -> None:
    """Delete a topic and make it again."""
    name, admin = topic.named(kafka.topic_prefix), AdminClient(kafka.client_config())
    admin.delete_topics([name])[name].result(20)
    deadline = time.monotonic() + 30
    while name in admin.list_topics(timeout=10).topics:
        assert time.monotonic() < deadline, f"{name} is still there"
        time.sleep(0.1)
    ensure_topics(kafka, [topic])


def forget_group(kafka: KafkaOptions, group: str) -> None:
    """Delete a group's offsets; the broker knows a member that was killed until its session ends."""
    admin = AdminClient(kafka.client_config())
    deadline = time.monotonic() + 60
    while True:
        try:
            admin.delete_consumer_groups([group])[group].result(20)
        except KafkaException:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            return


def ends_of(kafka: KafkaOptions, topic: TopicSpec) -> list[int]:
    """Return the high watermark of each partition; one that has no leader for a moment is waited for."""
    reader = PositionReader(kafka, "ends")
    try:
        name = topic.named(kafka.topic_prefix)
        return [reader.ends(name, number)[1] for number in range(topic.partitions)]
    finally:
        reader.close()
