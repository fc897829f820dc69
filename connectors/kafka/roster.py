"""What is deployed of each role, on record in a compacted topic; changed by one at a time, from what it read.

Two that decide at once decide one after the other (``turn.py``); compaction keeps the latest, which is what
counts.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import structlog

from connectors.kafka.committed import CommittedReader
from connectors.kafka.turn import change
from schemas.access import ROSTER
from schemas.errors import WireError
from schemas.topics import DEPLOYED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.turn import Commits, Records
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

Row = dict[str, Any]


class Roster:
    """The records of all roles; safe to share between threads."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec) -> None:
        self._kafka = kafka
        self._codec = codec
        self._topic = DEPLOYED.named(kafka.topic_prefix)
        self._reader: CommittedReader | None = None
        self._lock = threading.Lock()

    def read(self) -> dict[str, Row]:
        """Return the records by role, as of now; none where nobody made the topic. Blocks for milliseconds.

        Raises:
            KafkaUnavailable: no answer.
            NotAuthorized: an ACL is missing.
        """
        found: dict[str, Row] = {}
        with self._lock:
            if self._reader is None:
                self._reader = CommittedReader(self._kafka, self._topic)
            for message in self._reader.present():
                key = (message.key() or b"").decode("utf-8", "replace")
                value = message.value()
                try:
                    found[key] = self._codec.decode(value or b"", DEPLOYED.subject)
                except WireError as error:
                    log.warning("record of a role cannot be read", role=key, cause=str(error))
        return found

    def is_there(self) -> bool:
        """Say whether anybody made the topic; raises KafkaUnavailable."""
        with self._lock:
            if self._reader is None:
                self._reader = CommittedReader(self._kafka, self._topic)
            return bool(self._reader.partitions())

    def change(
        self, role: str, decide: Callable[[Row | None], Row | None], commits: Commits | None = None
    ) -> Row | None:
        """Have ``decide`` make the role's new record of the one that stands, and keep it; returns what holds.

        ``decide`` may be asked again, with another record, if somebody else was quicker; it returns None to
        leave the record as it is, and what it raises goes through. ``commits`` takes place if it is changed,
        in the same transaction.

        Raises:
            KafkaUnavailable: no answer, or others change it all the time; nothing is known to be changed.
            NotAuthorized: an ACL is missing.
        """
        held: Row | None = None

        def records() -> Records:
            nonlocal held
            before = self.read().get(role)
            after = decide(before)
            if after is None or after == before:
                held = before
                return []
            held = after
            return [(self._topic, role.encode(), self._codec.encode(DEPLOYED.subject, after))]

        change(self._kafka, f"{self._kafka.topic_prefix}{ROSTER}", [self._topic], records, commits)
        return held

    def close(self) -> None:
        """Let the connection go."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None


def store_of(row: Mapping[str, Any] | None, changelog: str) -> Row | None:
    """Return what a role's record says of one store, by its changelog's name in the code; None = nothing."""
    stores = row["stores"] if row is not None else ()
    return next((store for store in stores if store["changelog"] == changelog), None)
