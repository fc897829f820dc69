"""Moves time on an idle input partition: a tick is appended there, and the broker stamps it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
from confluent_kafka import KafkaException

from schemas.envelope import Event, new_event_id, stream_key
from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from confluent_kafka import Producer

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)

_TENANT, _STREAM = "sluicegate", "tick"


class Ticker:
    """Appends ticks to partitions whose earliest deadline has passed by the wall clock.

    The worker's clock only decides when to ask; what time it is, the broker's stamp says. At most one tick
    a partition and second.
    """

    def __init__(self, kafka: KafkaOptions, encode: Callable[[Event], bytes]) -> None:
        self._encode = encode
        self._clients = kafka.clients
        self._config = kafka.client_config() | {"enable.idempotence": True, "linger.ms": 0}
        self._producer: Producer | None = None  # made for the first tick: not every role has any
        self._deadlines: dict[SourcePartition, int] = {}
        self._next: dict[SourcePartition, float] = {}

    def watch(self, source: SourcePartition, deadline_us: int | None) -> None:
        """Say when something falls due on ``source``, microseconds since the epoch; None = nothing waits."""
        if deadline_us is None:
            self._deadlines.pop(source, None)
        else:
            self._deadlines[source] = deadline_us

    def forget(self, source: SourcePartition) -> None:
        """The partition is another's now."""
        self._deadlines.pop(source, None)
        self._next.pop(source, None)

    def tick(self, unread: Collection[SourcePartition] = ()) -> int:
        """Append the ticks that are due, but for partitions that nobody reads now; returns how many."""
        now_us, now = time.time_ns() // 1_000, time.monotonic()
        due = [
            source
            for source, deadline in self._deadlines.items()
            if deadline <= now_us and self._next.get(source, 0.0) <= now and source not in unread
        ]
        self._next.update(dict.fromkeys(due, now + 1.0))
        self._append(due, now_us)
        return len(due)

    def _append(self, due: Collection[SourcePartition], now_us: int) -> None:
        if due and self._producer is None:
            self._producer = self._clients.producer(self._config)
        for source in due:
            try:
                assert self._producer is not None
                self._producer.produce(
                    source.topic,
                    self._encode(_tick(now_us)),
                    stream_key(_TENANT, _STREAM),
                    partition=source.partition,
                )
            except (BufferError, KafkaException, SluicegateError) as error:
                log.warning("tick not appended, the next one will be", **source._asdict(), cause=str(error))
        if self._producer is not None:
            self._producer.poll(0)

    def close(self) -> None:
        """Send what is queued; bounded."""
        if self._producer is not None:
            self._producer.flush(2)


def _tick(now_us: int) -> Event:
    return Event(
        event_id=new_event_id(),
        tenant=_TENANT,
        stream_id=_STREAM,
        seq=-1,
        kind="tick",
        type="tick",
        time=now_us,
        source="sluicegate",
        request_id="",
        task_id="",
        upstream_id="",
        traceparent="",
        epoch=0,
        attempt=0,
        payload=b"",
        payload_schema=0,
    )
