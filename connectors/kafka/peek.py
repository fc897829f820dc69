"""Looks into any topic: its newest committed records, without a group."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from connectors.kafka.admin import list_topics
from connectors.kafka.chunk import Records, SourcePartition
from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import NoSuchTopic

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from schemas.record import Record

_OFFSETS_A_RECORD: Final = 4  # markers of transactions take offsets too, so look further back than asked


def newest(kafka: KafkaOptions, topic: str, limit: int) -> list[Record]:
    """Return the newest ``limit`` records of a topic (its name as it stands in Kafka), the oldest first.

    Raises:
        NoSuchTopic: there is none.
        KafkaUnavailable: no answer.
        NotAuthorized: it may not be read.
    """
    with closing(CommittedReader(kafka, topic)) as reader:
        starts = {}
        for partition in reader.partitions():
            low, high = reader.bounds(partition)
            starts[partition] = max(low, high - _OFFSETS_A_RECORD * limit)
        if not starts:
            raise NoSuchTopic(topic, list_topics(kafka))
        records = [
            Records(SourcePartition(topic, message.partition() or 0), [message])[0]
            for message in reader.read(starts)
        ]
    return sorted(records, key=lambda record: (record.timestamp_us, record.offset))[-limit:]


def record_at(kafka: KafkaOptions, topic: str, partition: int, offset: int) -> Record | None:
    """Return the committed record at an offset of a topic (its name as it stands in Kafka), or None.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: it may not be read.
    """
    with closing(CommittedReader(kafka, topic)) as reader:
        if partition not in reader.partitions():
            return None
        low, high = reader.bounds(partition)
        if not low <= offset < high:
            return None
        for message in reader.read({partition: offset}):
            if message.offset() != offset:
                return None
            return Records(SourcePartition(topic, partition), [message])[0]
    return None
