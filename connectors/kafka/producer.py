"""Appends on behalf of people who wait: each request all or nothing, many requests in one transaction.

Requests queue for a few threads, each with a transactional producer. A free thread takes all that has
gathered, up to a bound: alone a request goes out at once, under load transactions get larger, not later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Final, NamedTuple

from connectors.kafka.errors import AppendFailed, AppendRefused
from connectors.kafka.slot import ProducerSlot
from schemas.topics import EVENT_BYTES_MAX, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions

TopicName = str
Append = tuple[TopicName, bytes, bytes | None, int | None]
"""Topic (full name, with prefix), key, value (None = tombstone), partition (None = murmur2 of the key)."""

_BATCH_RECORDS_MAX: Final = 4_000  # four full requests
_BATCH_BYTES_MAX: Final = 4 * MIB  # the same in bytes


class Offset(NamedTuple):
    """Where a record stands."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class AppenderOptions:
    """Bounds of an appender."""

    producers: int = 4
    """Transactions in flight: enough to hide a broker's round trips, few enough to fill each."""
    waiting_requests_max: int = 1_000
    waiting_bytes_max: int = 64 * MIB
    wait_ms_max: int = 2_000
    """A request that no producer has taken by then is refused as overloaded."""
    transaction_timeout_ms: int = 10_000
    record_bytes_max: int = EVENT_BYTES_MAX


@dataclass(slots=True, eq=False)
class Request:
    """One caller's records, and the future that it waits on."""

    records: Sequence[Append]
    size_bytes: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Offset]]

    def succeed(self, offsets: list[Offset]) -> None:
        """Answer the caller, from any thread."""
        self._tell(offsets)

    def fail(self, error: AppendFailed) -> None:
        """Refuse the caller, from any thread."""
        self._tell(error)

    def _settle(self, outcome: list[Offset] | AppendFailed) -> None:
        if self.future.done():
            return  # the caller was cancelled
        if isinstance(outcome, AppendFailed):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def _tell(self, outcome: list[Offset] | AppendFailed) -> None:
        try:
            self.loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:
            return  # the caller's loop has closed: nobody waits any more


class Appender:
    """A bounded pool of transactional producers for callers on an event loop."""

    def __init__(self, options: KafkaOptions, bounds: AppenderOptions | None = None) -> None:
        """Start the threads; they connect at once, so that the first caller does not wait for it."""
        self._bounds = bounds or AppenderOptions()
        self._waiting: deque[Request] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        name = f"{options.topic_prefix}sluicegate.append.{token_hex(6)}"
        self._threads = [
            threading.Thread(
                target=self._serve,
                args=(ProducerSlot(options, f"{name}.{slot}", self._bounds.transaction_timeout_ms),),
                name=f"append-{slot}",
                daemon=True,
            )
            for slot in range(self._bounds.producers)
        ]
        for thread in self._threads:
            thread.start()

    async def append_transaction(self, records: Sequence[Append]) -> list[Offset]:
        """Append all of the records or none, and return where each stands, in their order.

        A caller that is cancelled no longer learns the outcome; what it sent may still be appended.

        Raises:
            AppendRefused: a record is larger than a topic takes; nothing was tried.
            AppendFailed: nothing was appended, or nobody knows; safe to repeat with the same ``event_id``.
        """
        size_bytes = self._measured(records)
        if not records:
            return []
        loop = asyncio.get_running_loop()
        request = Request(records, size_bytes, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise AppendFailed("this process is stopping")
            self._refuse_when_full(size_bytes)
            self._waiting.append(request)
            self._waiting_bytes += size_bytes
            self._changed.notify()
        overdue = loop.call_later(self._bounds.wait_ms_max / 1_000, self._refuse_if_waiting, request)
        try:
            return await request.future
        finally:
            overdue.cancel()

    async def close(self, timeout_s: float = 15.0) -> None:
        """Take no more, append what waits, and stop; what is left after ``timeout_s`` is refused."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
        with self._changed:
            left, self._waiting = list(self._waiting), deque()
        for request in left:
            request.fail(AppendFailed("this process stopped before it could be appended"))

    def _measured(self, records: Sequence[Append]) -> int:
        total = 0
        for topic, key, value, _ in records:
            size_bytes = len(key) + len(value or b"")
            if size_bytes > self._bounds.record_bytes_max:
                raise AppendRefused(topic, key, size_bytes)
            total += size_bytes
        return total

    def _refuse_when_full(self, size_bytes: int) -> None:
        bounds = self._bounds
        if (
            len(self._waiting) >= bounds.waiting_requests_max
            or self._waiting_bytes + size_bytes > bounds.waiting_bytes_max
        ):
            raise AppendFailed(
                f"overloaded: {len(self._waiting)} requests of {self._waiting_bytes} bytes wait already",
                overloaded=True,
            )

    def _refuse_if_waiting(self, request: Request) -> None:
        with self._changed:
            try:
                self._waiting.remove(request)
            except ValueError:
                return  # in flight: its transaction settles it
            self._waiting_bytes -= request.size_bytes
        request.fail(
            AppendFailed(f"overloaded: waited {self._bounds.wait_ms_max} ms for a producer", overloaded=True)
        )

    def _serve(self, slot: ProducerSlot) -> None:
        slot.connect()
        while batch := self._next_batch():
            try:
                offsets = iter(slot.append([record for request in batch for record in request.records]))
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting for ever
                overloaded = isinstance(error, AppendFailed) and error.overloaded
                problem = error.problem if isinstance(error, AppendFailed) else repr(error)
                # A new error each: one that callers hold would hold, by its traceback, the producer that
                # failed with its threads and sockets.
                for request in batch:
                    request.fail(AppendFailed(problem, overloaded=overloaded))
                continue
            for request in batch:
                request.succeed([Offset(*next(offsets)) for _ in request.records])
        slot.close()

    def _next_batch(self) -> list[Request]:
        """Wait for requests and take as many as one transaction may hold; empty = stop."""
        with self._changed:
            while True:
                batch = self._take()
                if batch or self._closing:
                    return batch
                self._changed.wait()

    def _take(self) -> list[Request]:
        batch: list[Request] = []
        records = size_bytes = 0
        while self._waiting:
            request = self._waiting[0]
            records += len(request.records)
            size_bytes += request.size_bytes
            if batch and (records > _BATCH_RECORDS_MAX or size_bytes > _BATCH_BYTES_MAX):
                break
            self._waiting.popleft()
            self._waiting_bytes -= request.size_bytes
            if not request.future.cancelled():
                batch.append(request)
        return batch
