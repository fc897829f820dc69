"""Where deltas go: an idempotent producer that appends at once, and knows what is not acknowledged yet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from connectors.kafka.errors import ProducerFailed
from connectors.kafka.stamps import tell_stamp
from schemas.topics import INPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError

    from connectors.kafka.options import KafkaOptions
    from connectors.llm.broker_clock import BrokerClock
    from schemas.topics import TopicSpec

_SERVE_S: Final = 0.04
"""How often acknowledgements are taken while nothing waits for one."""
_SOON_S: Final = 0.005
"""The same while something does: the end of a stream, or records that are held back."""
_LINGER_MS: Final = 5
"""What other streams send meanwhile goes in the same request."""
_JOIN_S: Final = 0.004
"""So long records join the request that the first of them opened; with time to reach it before it is sent."""
_FULL_TRIES: Final = 50
_FULL_S: Final = 0.1
_CLOSE_S: Final = 10.0
RECORDS_MAX: Final = 500_000
BYTES_MAX: Final = 268_435_456
"""Of the producer's queue. Answers are read no more from half of it on: what each call has in hand by then,
and what gathers to be sent, has the other half."""
_LOOK_S: Final = 0.05
_CLOCK_S: Final = 0.25
"""How often the brokers' clock is looked at: not by each of some thousand records a second."""


@dataclass(slots=True)
class _Lane:
    """One partition's way."""

    unacknowledged: int = 0
    """Of those that librdkafka has."""
    joins_until_s: float = 0.0
    held: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Keys and values that wait until all before them are acknowledged."""


class KafkaOutlet:
    """Appends records in the order in which they are sent; belongs to the loop, which takes acknowledgements.

    A delta waits for no transaction: what it says is superseded by a ``reset`` if its worker dies, and a
    stream's ``end`` waits until all before it are acknowledged. ``clock`` learns by them what time it is for
    the brokers.

    librdkafka has one request of a partition under way at a time: it holds the five requests that an
    idempotent producer may have in flight against the *records* that are. While some are due to be sent
    behind them it does not wait for the answer, but spins on a core (2.16): a broker that was slow was made
    slower. So it is given nothing that it cannot send; what waits goes in one request.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        failed: Callable[[BaseException], None],
        loop: asyncio.AbstractEventLoop,
        clock: BrokerClock | None = None,
    ) -> None:
        self._prefix = kafka.topic_prefix
        self._failed = failed
        self._loop = loop
        self._clock = clock
        self._looked_s = -_CLOCK_S
        self._open: Counter[bytes] = Counter()
        """Records that are not acknowledged, by stream; of the loop, and of the thread that closes."""
        self._records = self._bytes = 0
        """Of all streams, not acknowledged."""
        self._broken: ProducerFailed | None = None
        self._lock = threading.Lock()
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._holding: set[tuple[str, int]] = set()
        """Lanes that hold something back."""
        self._served: asyncio.TimerHandle | None = None
        self._stopped = False
        self._producer = kafka.clients.producer(
            kafka.client_config()
            | {
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": _LINGER_MS,
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
                self._put((name, partition), key, value)
            except BufferError:  # Kafka takes less than providers send: they wait by our reading no more
                self._producer.poll(_FULL_S)
                self._let_go()
            else:
                break
        else:
            raise self._lose(ProducerFailed(f"no room in its queue for {_FULL_TRIES * _FULL_S:.0f} s"))
        if self._served is None:
            self._serve_in(_SERVE_S)

    def _put(self, place: tuple[str, int], key: bytes, value: bytes) -> None:
        """Hand a record over, or hold it back. Raises BufferError: there is no room."""
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = _Lane()
        now_s = time.monotonic()
        if lane.unacknowledged and not lane.held and now_s > lane.joins_until_s:
            self._producer.poll(0)  # it may be, and nobody has looked
        if lane.held or (lane.unacknowledged and now_s > lane.joins_until_s):
            if self._records > RECORDS_MAX or self._bytes > BYTES_MAX:
                raise BufferError
            lane.held.append((key, value))
            if place not in self._holding:
                self._holding.add(place)
                self._serve_in(_SOON_S)
            return
        self._producer.produce(place[0], value, key, place[1], self._delivered)
        if not lane.unacknowledged:
            lane.joins_until_s = now_s + _JOIN_S
        lane.unacknowledged += 1

    def _let_go(self) -> None:
        """Hand over what was held back for records that are acknowledged now."""
        for place in list(self._holding):
            lane = self._lanes[place]
            if lane.unacknowledged:
                continue
            held, lane.held = lane.held, []
            self._holding.discard(place)
            lane.joins_until_s = time.monotonic() + _JOIN_S
            for number, (key, value) in enumerate(held):
                try:
                    self._producer.produce(place[0], value, key, place[1], self._delivered)
                except BufferError:
                    lane.held = held[number:]
                    self._holding.add(place)
                    break
                lane.unacknowledged += 1

    @property
    def full(self) -> bool:
        """Whether half of the queue is taken, and nobody should read on who would send what he reads."""
        return self._records > RECORDS_MAX // 2 or self._bytes > BYTES_MAX // 2

    async def emptied(self) -> None:
        """Return when it is not full any more. Raises ProducerFailed: it never will be."""
        while self.full:  # to be woken for each acknowledgement would be to wake for nothing
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
        self._serve()
        await asyncio.shield(future)

    def stop(self) -> None:
        """Look for acknowledgements no more: nobody sends, and ``close`` does."""
        self._stopped = True
        if self._served is not None:
            self._served.cancel()

    def close(self) -> None:
        """Append what was sent; blocks, so call it off the loop, when nobody sends any more."""
        deadline_s = time.monotonic() + _CLOSE_S
        try:
            while self._records and self._broken is None and (left_s := deadline_s - time.monotonic()) > 0:
                self._let_go()
                self._producer.flush(left_s)
        except BaseException as error:  # noqa: BLE001  nobody may wait for it for ever
            self._failed(error)

    def _serve(self) -> None:
        """Take the acknowledgements that came, and look again while any is missing."""
        if self._served is not None:
            self._served.cancel()
            self._served = None
        try:
            self._producer.poll(0)
            self._let_go()
        except BaseException as error:  # noqa: BLE001  a timer has no caller
            self._failed(error)
            return
        if self._records and self._broken is None:
            self._serve_in(_SOON_S if self._waiting or self._holding else _SERVE_S)

    def _serve_in(self, seconds: float) -> None:
        if self._served is not None:
            if self._served.when() <= self._loop.time() + seconds:
                return
            self._served.cancel()
        self._served = None if self._stopped else self._loop.call_later(seconds, self._serve)

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._lose(ProducerFailed(error.str()))
            return
        if self._clock is not None and (now_s := time.monotonic()) - self._looked_s > _CLOCK_S:
            self._looked_s = now_s
            tell_stamp(message, self._clock.acknowledged)
        key = message.key()
        lane = self._lanes[message.topic(), message.partition()]
        with self._lock:
            lane.unacknowledged -= 1
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
