"""What Kafka holds that a test may see: the committed records of topics, and whether an input is handled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from connectors.kafka.committed import CommittedReader
from connectors.kafka.positions import PositionReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

_MARKERS_S: Final = 30.0
_PAUSE_S: Final = 0.005


class TopicReader:
    """Reads whole topics, without joining a group; to be closed."""

    def __init__(self, kafka: KafkaOptions) -> None:
        self._kafka = kafka
        self._positions = PositionReader(kafka, f"{kafka.topic_prefix}test")
        self._readers: dict[str, CommittedReader] = {}

    def read(self, spec: TopicSpec, starts: Mapping[int, int]) -> list[Any]:
        """Return the committed records, librdkafka's messages, by partition and offset.

        ``starts`` says from where on, by partition; 0 where it does not.
        """
        self.settle(spec)
        reader = self._reader(spec)
        found = list(reader.read({partition: starts.get(partition, 0) for partition in reader.partitions()}))
        return sorted(found, key=lambda message: (message.partition(), message.offset()))

    def is_handled(self, spec: TopicSpec, partition: int, position: int) -> bool:
        """Tell whether no committed record of a partition stands at ``position`` or behind it."""
        end = self._settle(spec, partition)
        if position >= end:
            return True
        for _message in self._reader(spec).read({partition: position}):
            return False
        return True  # markers of transactions alone

    def settle(self, spec: TopicSpec) -> None:
        """Wait until what was committed to a topic can be read."""
        for partition in self._reader(spec).partitions():
            self._settle(spec, partition)

    def _settle(self, spec: TopicSpec, partition: int) -> int:
        """Return a partition's end, once no transaction is open on it.

        A commit is answered before its markers are written: until then its records are not seen.
        """
        where = spec.named(self._kafka.topic_prefix), partition
        deadline = time.monotonic() + _MARKERS_S
        while True:
            stable = self._positions.stable_end(*where)
            _, end = self._positions.ends(*where)
            if stable >= end or time.monotonic() > deadline:
                return stable
            time.sleep(_PAUSE_S)

    def _reader(self, spec: TopicSpec) -> CommittedReader:
        reader = self._readers.get(spec.name)
        if reader is None:
            name = spec.named(self._kafka.topic_prefix)
            reader = self._readers[spec.name] = CommittedReader(self._kafka, name)
        return reader

    def close(self) -> None:
        """Let the connections go."""
        for reader in self._readers.values():
            reader.close()
        self._positions.close()
