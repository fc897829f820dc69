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
RECORDS_MAX: Final = 500_000
BYTES_MAX: Final = 268_435_456
"""Of the producer's queue. Answers are read no more from half of it on: what each call has in hand by then,
and what gathers to be sent, has the other half."""
_LOOK_S: Final = 0.05


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
        self._records = self._bytes = 0
        """Of all streams, not acknowledged."""
        self._broken: ProducerFailed | None = None
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
                "queue.buffering.max.messages": RECORDS_MAX,
                "queue.buffering.max.kbytes": BYTES_MAX // 1_024,
                "delivery.timeout.ms": 120_000,
            }
        )

    def send(self, key: bytes, value: bytes, partition: int, topic: TopicSpec = INPUT) -> None:
        """Have a record appended; see Outlet.

        Raises:
            ProducerFailed: the queue stays full. The worker is told, too: a timer that sends has no caller.
        """
        if self._broken is not None:
            raise self._broken
        name = topic.named(self._prefix)
        with self._lock:
            self._open[key] += 1
            self._records += 1
            self._bytes += len(value)
        for _ in range(_FULL_TRIES):
            try:
                self._producer.produce(name, value, key, partition, self._delivered)
            except BufferError:  # Kafka takes less than providers send: they wait by our reading no more
                self._producer.poll(_FULL_S)
            else:
                return
        raise self._lose(ProducerFailed(f"no room in its queue for {_FULL_TRIES * _FULL_S:.0f} s"))

    @property
    def full(self) -> bool:
        """Whether half of the queue is taken, and nobody should read on who would send what he reads."""
        return self._records > RECORDS_MAX // 2 or self._bytes > BYTES_MAX // 2

    async def emptied(self) -> None:
        """Return when it is not full any more. Raises ProducerFailed: it never will be."""
        while self.full:  # the thread of the acknowledgements would wake the loop for each
            if self._broken is not None:
                raise self._broken
            await asyncio.sleep(_LOOK_S)

    async def acknowledged(self, key: bytes) -> None:
        """Return when all that was sent for a stream is in the log. Raises ProducerFailed: it is not."""
        with self._lock:
            if self._broken is not None:
                raise self._broken
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
            self._lose(ProducerFailed(error.str()))
            return
        key = message.key()
        with self._lock:
            self._records -= 1
            self._bytes -= len(message)
            left = self._open[key] = self._open[key] - 1
            if left:
                return
            del self._open[key]
            future = self._waiting.pop(key, None)
        if future is not None:
            self._loop.call_soon_threadsafe(_settle, future, None)

    def _lose(self, error: ProducerFailed) -> ProducerFailed:
        """Note that a record is lost: no stream may end as if it had all, and nobody waits for it."""
        with self._lock:
            self._broken = self._broken or error
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            self._loop.call_soon_threadsafe(_settle, future, error)
        self._failed(error)
        return error


def _settle(future: asyncio.Future[None], error: ProducerFailed | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
