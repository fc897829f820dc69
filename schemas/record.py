"""One Kafka record as it was fetched, before anything is decided about it."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):  # a million are made a second: a frozen dataclass takes twice the time
    """A record with its coordinates; key and value are the bytes as they stand in the log."""

    topic: str
    partition: int
    offset: int
    timestamp_us: int
    """Broker append time, microseconds since the epoch (its resolution is a millisecond)."""
    key: bytes | None
    value: bytes | None

    @property
    def size_bytes(self) -> int:
        """Bytes of key and value."""
        return len(self.key or b"") + len(self.value or b"")
