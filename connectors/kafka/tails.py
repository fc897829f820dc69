"""Whether a record follows a position in the log, or only markers of transactions, which take offsets."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from connectors.kafka.committed import CommittedReader

if TYPE_CHECKING:
    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.options import KafkaOptions

_CLOSE_S: Final = 1.0


class Tails:
    """Reads one record at most a question, and nothing where the answer is known; to be closed."""

    def __init__(self, kafka: KafkaOptions) -> None:
        self._kafka = kafka
        self._readers: dict[str, CommittedReader] = {}
        self._lock = threading.Lock()  # a client that is closed while another thread reads ends the process
        # From where to where nothing but markers, and records that were aborted, stands in the log.
        self._empty: dict[SourcePartition, tuple[int, int]] = {}

    def knows_empty(self, source: SourcePartition, position: int, end: int) -> bool:
        """Say whether it is known that no record is committed from a position to an end; nobody is asked."""
        return position >= end or self._empty.get(source) == (position, end)

    def is_empty(self, source: SourcePartition, position: int, end: int) -> bool:
        """Say whether no record is committed from a position on; ``end`` is the last stable offset. Blocks.

        Raises:
            KafkaUnavailable: no answer.
            NotAuthorized: an ACL is missing.
        """
        if self.knows_empty(source, position, end):
            return True
        with self._lock:
            reader = self._readers.get(source.topic)
            if reader is None:
                reader = self._readers[source.topic] = CommittedReader(self._kafka, source.topic)
            for _record in reader.read({source.partition: position}):
                return False
        self._empty[source] = (position, end)
        return True

    def forget(self, source: SourcePartition) -> None:
        """The partition is another's now."""
        self._empty.pop(source, None)

    def close(self) -> None:
        """Let the connections go; those that still wait for an answer end with the process."""
        if not self._lock.acquire(timeout=_CLOSE_S):
            return
        try:
            while self._readers:
                self._readers.popitem()[1].close()
        finally:
            self._lock.release()
