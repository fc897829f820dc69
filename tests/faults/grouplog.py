"""Reads the log in which the broker itself keeps a group's committed offsets, with their whole history."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, TopicPartition

from connectors.kafka.positions import read_metadata
from tests.faults.history import Commit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions

OFFSETS_TOPIC = "__consumer_offsets"
_COMMITS = (0, 1)  # key versions of a committed offset; others are of members and of the group


def commits_of(kafka: KafkaOptions, group: str, topics: Sequence[str]) -> dict[str, list[Commit]]:
    """Return all that ``group`` committed of each of ``topics``, in order; what was aborted is not among it.

    The broker keeps an older offset until the log is compacted, which it is not before it has 100 MB.
    """
    consumer = Consumer(
        kafka.client_config()
        | {"group.id": "grouplog", "isolation.level": "read_committed", "enable.auto.commit": False}
        | {"enable.partition.eof": True}
    )
    try:
        partitions = consumer.list_topics(OFFSETS_TOPIC, timeout=20).topics[OFFSETS_TOPIC].partitions
        consumer.assign([TopicPartition(OFFSETS_TOPIC, number, 0) for number in partitions])
        left = set(partitions)
        found: dict[str, list[Commit]] = {topic: [] for topic in topics}
        while left:
            for message in consumer.consume(10_000, 0.1):
                if message.error() is not None:
                    assert message.error().name() == "_PARTITION_EOF", message.error()
                    left.discard(message.partition())
                elif (commit := _commit(message.key(), message.value(), group)) is not None:
                    found.setdefault(commit[0], []).append(commit[1])
        return found
    finally:
        consumer.close()


def _commit(key: bytes, value: bytes | None, group: str) -> tuple[str, Commit] | None:
    (version,) = struct.unpack_from(">h", key)
    if version not in _COMMITS or value is None:
        return None
    its_group, at = _string(key, 2)
    if its_group != group:
        return None
    topic, at = _string(key, at)
    (partition,) = struct.unpack_from(">i", key, at)
    version, offset = struct.unpack_from(">hq", value)
    if version >= 4:  # strings of the flexible encoding: their length + 1 in one byte, for ours
        metadata = value[15 : 14 + value[14]].decode()
    else:
        metadata, _ = _string(value, 14 if version == 3 else 10)  # from 3 on behind the leader's epoch
    metadata = metadata.rstrip("\0")  # librdkafka sends the end of its string, too
    return topic, Commit(partition, offset, read_metadata(metadata)[0])


def _string(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", data, at)
    end = at + 2 + length
    return data[at + 2 : end].decode(), end
