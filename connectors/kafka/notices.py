"""Tells topics what happened, for who is interested: never waited for, dropped when it cannot be told.

Whoever tells is on an event loop and only puts a record into a bounded queue; encoding and sending are a
thread's. What does not fit, or cannot be sent within half a minute, is counted as dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from confluent_kafka import KafkaException

from schemas.errors import RegistryUnavailable, SluicegateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from confluent_kafka import KafkaError, Message

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)
_WAITING_MAX: Final = 20_000
"""Some 10 MiB: twice as many as an edge has connections, for they may all come, or go, at once."""
_GATHER_S: Final = 0.05
_AGAIN_S: Final = 1.0
_CLOSE_S: Final = 3.0


class _Notice(NamedTuple):
    spec: TopicSpec
    key: bytes
    fields: Mapping[str, object] | None


class Notices:
    """A queue, and the thread that empties it into Kafka."""

    def __init__(self, kafka: KafkaOptions, wire: WireCodec, *, waiting_max: int = _WAITING_MAX) -> None:
        self._kafka = kafka
        self._wire = wire
        self._waiting: deque[_Notice] = deque()
        self._waiting_max = waiting_max
        self._came = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
        self.told = 0
        self.dropped = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """Send what is left, as far as a few seconds allow."""
        self._stopping.set()
        self._came.set()
        if self._thread.is_alive():
            self._thread.join(2 * _CLOSE_S)

    def tell(self, spec: TopicSpec, key: bytes, fields: Mapping[str, object] | None) -> None:
        """Have a record told; None for its fields is a tombstone. Never waits and never fails."""
        if len(self._waiting) >= self._waiting_max:
            self.dropped += 1
            return
        self._waiting.append(_Notice(spec, key, fields))
        if not self._came.is_set():
            self._came.set()

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        producer = self._kafka.clients.producer(
            self._kafka.client_config()
            | {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 20,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "message.timeout.ms": 30_000,
                "queue.buffering.max.messages": self._waiting_max,
                "queue.buffering.max.kbytes": 16 * 1_024,
            }
        )
        while not self._stopping.is_set():
            self._came.wait(_AGAIN_S)
            self._stopping.wait(_GATHER_S)  # what comes together is sent together
            self._came.clear()
            self._send_waiting(producer)
            producer.poll(0)
        self._send_waiting(producer)
        self.dropped += producer.flush(_CLOSE_S) + len(self._waiting)

    def _send_waiting(self, producer: Any) -> None:
        while self._waiting:
            notice = self._waiting[0]
            try:
                self._send(producer, notice)
            except RegistryUnavailable as error:
                log.warning("notices_wait", cause=str(error))  # meanwhile the queue fills, and overflows
                self._stopping.wait(_AGAIN_S)
                return
            except (SluicegateError, KafkaException, BufferError) as error:
                self.dropped += 1
                log.warning("notice_dropped", topic=notice.spec.name, cause=str(error))
            self._waiting.popleft()
            producer.poll(0)

    def _send(self, producer: Any, notice: _Notice) -> None:
        spec, key, fields = notice
        value = None if fields is None else self._wire.encode(spec.subject, fields)
        producer.produce(spec.named(self._kafka.topic_prefix), value, key, on_delivery=self._settled)

    def _settled(self, error: KafkaError | None, _message: Message) -> None:
        if error is None:
            self.told += 1
        else:
            self.dropped += 1
