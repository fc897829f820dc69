"""How far the generation that runs has come: the one that is built beside it goes exactly as far."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from connectors.kafka.positions import Committed, PositionReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.options import KafkaOptions


_NOTHING: Final = Committed(0, None)


class Bounds:
    """Where each input partition ends for a generation that is built: where the running one's group stands.

    So whatever it handled before the switch, the other has handled too, and what it finds behind is new to
    both: no event is passed over, and none has its effect twice. The same holds for silence that was counted.
    """

    def __init__(self, kafka: KafkaOptions, group: str, partitions: Mapping[str, int]) -> None:
        """Take the group of the generation that runs, and how many partitions each bounded topic has."""
        self._reader = PositionReader(kafka, group)
        self._partitions = partitions
        self._ends: dict[tuple[str, int], Committed] = {}
        self._closing = threading.Event()

    def look(self) -> None:
        """Ask how far the running generation is; blocks. Raises as ``PositionReader.committed``."""
        for topic, count in self._partitions.items():
            for partition in range(count):
                committed = self._reader.committed(topic, partition, self._closing)
                if committed is not None:
                    self._ends[topic, partition] = committed

    def end_of(self, source: SourcePartition) -> int | None:
        """Return the offset before which ``source`` may be read, None = without an end; from any thread."""
        if source.topic not in self._partitions:
            return None
        return self._ends.get((source.topic, source.partition), _NOTHING).offset

    def silence_of(self, source: SourcePartition) -> tuple[int, int]:
        """Return where the running generation stands, and how much silence it has counted there."""
        found = self._ends.get((source.topic, source.partition), _NOTHING)
        return found.offset, found.silent_us

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()
        self._reader.close()
