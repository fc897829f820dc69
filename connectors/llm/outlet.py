"""Where deltas go: an idempotent producer that appends at once, and knows what is not acknowledged yet."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from connectors.kafka.errors import ProducerFailed
from schemas.topics import INPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

_POLL_S: Final = 0.05
_FULL_TRIES: Final = 50
_FULL_S: Final = 0.1
_CLOSE_S: Final = 10.0


class KafkaOutlet(threading.Thread):
    """Appends records in the order in which they are sent; its thread serves the acknowledgements.

    A delta waits for no transaction: what it says is superseded by a ``reset`` if its worker dies, and a
    stream's ``end`` waits until all before it are acknowledged.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        failed: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(name="llm-deltas", daemon=True)
        self._prefix = kafka.topic_prefix
        self._failed = failed
        self._loop = loop
        self._stopping = threading.Event()
        self._open: Counter[bytes] = Counter()
        """Records that are not acknowledged, by stream; of the thread that serves them and the loop."""
        self._lock = threading.Lock()
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._producer = kafka.clients.producer(
            kafka.client_config()
            | {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,  # what other streams send meanwhile goes in the same request
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 500_000,
                "queue.buffering.max.kbytes": 256 * 1024,
                "delivery.timeout.ms": 120_000,
            }
        )

    def send(self, key: bytes, value: bytes, partition: int, topic: TopicSpec = INPUT) -> None:
        """Have a record appended; see Outlet. Raises ProducerFailed when the queue stays full."""
        name = topic.named(self._prefix)
        with self._lock:
            self._open[key] += 1
        for _ in range(_FULL_TRIES):
            try:
                self._producer.produce(name, value, key, partition, self._delivered)
            except BufferError:  # Kafka takes less than providers send: they wait by our reading no more
                self._producer.poll(_FULL_S)
            else:
                return
        raise ProducerFailed(f"no room in its queue for {_FULL_TRIES * _FULL_S:.0f} s")

    async def acknowledged(self, key: bytes) -> None:
        """Return when all that was sent for a stream is in the log."""
        with self._lock:
            if not self._open[key]:
                del self._open[key]
                return
            future = self._waiting.setdefault(key, self._loop.create_future())
        await asyncio.shield(future)

    def stop(self) -> None:
        """Have the thread end after what was sent; ``join`` waits for it."""
        self._stopping.set()

    def run(self) -> None:
        """Serve acknowledgements until stopped."""
        try:
            while not self._stopping.is_set():
                self._producer.poll(_POLL_S)
            self._producer.flush(_CLOSE_S)
        except BaseException as error:  # noqa: BLE001  nobody may wait for it for ever
            self._failed(error)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed(ProducerFailed(error.str()))
            return
        key = message.key()
        with self._lock:
            left = self._open[key] = self._open[key] - 1
            if left:
                return
            del self._open[key]
            future = self._waiting.pop(key, None)
        if future is not None:
            self._loop.call_soon_threadsafe(_settle, future)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
