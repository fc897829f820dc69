"""Events on their way to the edge: in order, in batches, each under one id however often it is sent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from ops.client import REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX
from ops.errors import OpsError
from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

# What is read from the command but not yet taken by the edge. At 10,000 lines or 8 MiB the command
# waits, as it would for a slow terminal; that is some seconds of a chatty build.
WAITING_EVENTS_MAX: Final = 10_000
WAITING_BYTES_MAX: Final = 8 * 1024 * 1024
_BATCH_BYTES_MAX: Final = REQUEST_BYTES_MAX - 64 * 1024  # room for the newlines between the events


class Outbox:
    """Takes events of one stream and sends them in order; ``send`` repeats a batch until it is taken.

    An event that finds nothing in flight is sent at once and alone; what comes meanwhile goes with
    the next request. When ``send`` raises, the outbox gives up: it sends nothing more, since the
    stream would have a hole, calls ``on_failure`` once and only counts what comes. Nothing raises out
    of ``put``: the command goes on whatever happens to its stream.
    """

    def __init__(
        self,
        send: Callable[[list[bytes]], Awaitable[object]],
        *,
        source: str,
        run_id: str,
        on_failure: Callable[[SluicegateError], None] | None = None,
    ) -> None:
        self._send = send
        self._on_failure = on_failure or (lambda _: None)
        self._source = source
        self._run_id = run_id
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._in_flight: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._closed = False
        self.seq_next = 0
        self.lines_undelivered = 0
        """Lines that were read but may not have reached the stream, once the outbox gave up."""
        self.failure: SluicegateError | None = None

    async def put(self, event_type: str, payload: Mapping[str, object]) -> None:
        """Take one event; waits while the outbox is full. Gives it the next ``seq``."""
        while not self._space.is_set():
            await self._space.wait()
        is_line = event_type == "log"
        if self.failure is not None or self._closed:
            self.lines_undelivered += is_line
            return
        body = self.encode(event_type, payload)
        self._waiting.append(_Waiting(body, is_line))
        self._waiting_bytes += len(body)
        if len(self._waiting) >= WAITING_EVENTS_MAX or self._waiting_bytes >= WAITING_BYTES_MAX:
            self._space.clear()
        self._changed.set()

    def encode(self, event_type: str, payload: Mapping[str, object]) -> bytes:
        """Make the JSON of the stream's next event, as the edge takes it."""
        seq = self.seq_next
        self.seq_next += 1
        return orjson.dumps(
            {
                "event_id": f"{self._run_id}-{seq}",
                "seq": seq,
                "type": event_type,
                "time": time.time_ns() // 1_000,
                "source": self._source,
                "payload": payload,
            }
        )

    async def run(self) -> None:
        """Send until `close` was called and all is sent, or until the outbox gives up."""
        while self.failure is None:
            self._in_flight = self._take()
            if not self._in_flight:
                if self._closed:
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                await self._send([waiting.body for waiting in self._in_flight])
            except SluicegateError as error:
                self.give_up(error)
            except Exception as error:
                self.give_up(OpsError(f"{type(error).__name__}: {error}"))
                raise
            self._in_flight = []

    def give_up(self, error: SluicegateError) -> None:
        """Send nothing more, and count what waits or was in flight as undelivered."""
        if self.failure is not None:
            return
        self.failure = error
        self.lines_undelivered += sum(waiting.is_line for waiting in (*self._in_flight, *self._waiting))
        self._in_flight = []
        self._waiting.clear()
        self._waiting_bytes = 0
        self._space.set()
        self._changed.set()
        self._on_failure(error)

    def close(self) -> None:
        """Say that nothing more comes; `run` returns when the rest is sent."""
        self._closed = True
        self._changed.set()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < REQUEST_EVENTS_MAX:
            size += len(self._waiting[0].body) + 1
            if batch and size > _BATCH_BYTES_MAX:
                break
            batch.append(self._waiting.popleft())
            self._waiting_bytes -= len(batch[-1].body)
        if len(self._waiting) < WAITING_EVENTS_MAX and self._waiting_bytes < WAITING_BYTES_MAX:
            self._space.set()
        return batch


class _Waiting(NamedTuple):
    body: bytes
    is_line: bool
