"""Brings a partition's state up to its changelog: raw batches, never through the agents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import structlog
from confluent_kafka import KafkaException, TopicPartition

from connectors.kafka.errors import KafkaUnavailable, RestoreStalled

if TYPE_CHECKING:
    import threading

    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)

_BATCH = 10_000
_STALL_S_MAX = 120.0
_PROGRESS_S = 5.0


class Apply(Protocol):
    """Takes one batch of changes (None deletes) and the next changelog offset."""

    def __call__(self, changes: dict[bytes, bytes | None], next_offset: int) -> None:
        """Write them, atomically."""


def restore(
    kafka: KafkaOptions,
    topic: str,
    partition: int,
    *,
    start: int,
    high: int,
    apply: Apply,
    cancelled: threading.Event,
) -> int:
    """Apply the changelog from ``start`` up to the high watermark ``high``; returns how many changes.

    Up to the high watermark, not the last stable offset: an old open transaction can hide newer committed
    records, so it is waited for. The end is told by the position: commit markers take offsets.

    Raises:
        KafkaUnavailable: the consumer failed.
        RestoreStalled: no progress for two minutes.
    """
    if start >= high:
        return 0
    reader = _ChangelogReader(kafka, topic, partition, start)
    applied, began = 0, time.monotonic()
    told = moved = began
    try:
        while reader.position < high and not cancelled.is_set():
            before = reader.position
            changes = reader.read()
            if changes:
                apply(changes, reader.position)
                applied += len(changes)
            now = time.monotonic()
            if reader.position > before:
                moved = now
            if now - moved > _STALL_S_MAX:
                raise RestoreStalled(topic, partition, reader.position, high)
            if now - told > _PROGRESS_S:
                told = now
                log.info("restoring", topic=topic, partition=partition, position=reader.position, end=high)
    finally:
        reader.close()
    if applied:
        seconds = round(time.monotonic() - began, 3)
        log.info("state restored", topic=topic, partition=partition, changes=applied, seconds=seconds)
    return applied


class _ChangelogReader:
    """A consumer of one changelog partition that knows how far it is, markers included."""

    def __init__(self, kafka: KafkaOptions, topic: str, partition: int, start: int) -> None:
        self._bootstrap = kafka.bootstrap_servers
        self._where = TopicPartition(topic, partition, start)
        self.position = start
        self._consumer = kafka.clients.consumer(
            kafka.client_config()
            | {
                "group.id": f"{kafka.topic_prefix}{kafka.client_id}-restore",  # asked for; never joined
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,  # moves the position over trailing markers
                "fetch.wait.max.ms": 20,
            }
        )
        self._consumer.assign([self._where])

    def read(self) -> dict[bytes, bytes | None]:
        """Return the next batch of changes, the last one a key; empty when none came in time."""
        changes: dict[bytes, bytes | None] = {}
        try:
            for message in self._consumer.consume(_BATCH, 0.1):
                error = message.error()
                if error is None:
                    changes[message.key() or b""] = message.value()
                    self.position = (message.offset() or 0) + 1
                elif error.name() == "_PARTITION_EOF":
                    self.position = max(self.position, message.offset() or 0)
                elif error.fatal() or error.name() in ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"):
                    raise self._unavailable(error.str())
        except KafkaException as error:
            raise self._unavailable(str(error)) from error
        return changes

    def _unavailable(self, cause: str) -> KafkaUnavailable:
        where = f"{self._where.topic}[{self._where.partition}]"
        return KafkaUnavailable(self._bootstrap, f"{where}: {cause}")

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
