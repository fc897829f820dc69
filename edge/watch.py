"""One connection at work: frames out of the ring or the past, heartbeats when idle, and a clean way out."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Protocol

import structlog

from edge.errors import HistoryUnavailable
from edge.sse import HEARTBEAT, jittered, said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.frame import Frame
    from edge.join import Joined
    from edge.metrics import EdgeMetrics
    from edge.replay import Replay
    from edge.sse import SseEncoder

log = structlog.get_logger(__name__)
_AGAIN_S = 0.5
"""Pause before the past is asked for again, when Kafka did not give it."""


class Writer(Protocol):
    """Where bytes of one connection go; returns when there is room for more."""

    async def write(self, data: bytes) -> None:
        """Write. Raises ConnectionError if the client is gone, TimeoutError if it takes nothing."""
        ...


class Watch:
    """Serves one subscriber until its stream ends, its client goes, or the edge sends it away."""

    def __init__(
        self,
        joined: Joined,
        replay: Replay,
        encoder: SseEncoder,
        metrics: EdgeMetrics,
        *,
        heartbeat_ms: int,
        retry_ms: int,
        write_bytes_max: int,
        life_ms_max: int,
    ) -> None:
        self._subscriber = joined.subscriber
        self._partition = joined.partition
        self._first = joined.first
        self._replay = replay
        self._encoder = encoder
        self._metrics = metrics
        self._heartbeat_s = heartbeat_ms / 1_000
        self._retry_ms = retry_ms
        self._write_bytes_max = write_bytes_max
        # Spread over a fifth, so that what was opened together does not end together.
        self._life_s = life_ms_max / 1_000 * (0.8 + 0.2 * random.random())  # noqa: S311
        self._loop = asyncio.get_running_loop()
        self._idle_since = self._loop.time()

    async def run(self, out: Writer) -> str:
        """Serve; give why it is over: ``end``, ``drain``, ``overload``, ``life`` or ``gone``.

        Raises what ``out.write`` raises.
        """
        ends_at = self._loop.time() + self._life_s
        await self._write(out, self._first, from_ring=False)
        subscriber = self._subscriber
        while not subscriber.finished:
            if subscriber.closing is not None or self._loop.time() >= ends_at:
                reason = subscriber.closing or "life"
                await self._say_goodbye(out, reason)
                return reason
            frames = subscriber.take(self._write_bytes_max)
            if frames:
                await self._write(out, frames, from_ring=True)
            elif subscriber.behind:
                await self._from_the_past(out)
            else:
                await self._wait(out, min(self._heartbeat_s, ends_at - self._loop.time()))
        return "end"

    async def _from_the_past(self, out: Writer) -> None:
        try:
            frames = await self._replay.next_frames(self._subscriber, self._partition)
        except HistoryUnavailable:
            frames = []
            await self._pause(out)
        if frames:
            await self._write(out, frames, from_ring=False)
        elif self._subscriber.behind:
            await self._beat_if_idle(out)

    async def _write(self, out: Writer, frames: Sequence[Frame], *, from_ring: bool) -> None:
        if not frames:
            return
        if from_ring:
            data = self._encoder.ring_bytes(self._subscriber.channel, frames)
        else:
            data = self._encoder.bytes_of(frames)
        await out.write(data)
        self._idle_since = self._loop.time()
        self._metrics.delivered(frames, len(data), from_ring=from_ring)

    async def _wait(self, out: Writer, wait_s: float) -> None:
        """Sleep until something comes, or it is time for a sign of life."""
        subscriber = self._subscriber
        woken: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(max(wait_s, 0.001), _resolve, woken)
        subscriber.on_next(lambda: _resolve(woken))
        try:
            await woken
        finally:
            timer.cancel()
            subscriber.give_up_waiting()
        await self._beat_if_idle(out)

    async def _pause(self, out: Writer) -> None:
        await asyncio.sleep(_AGAIN_S)
        await self._beat_if_idle(out)

    async def _beat_if_idle(self, out: Writer) -> None:
        now = self._loop.time()
        if now - self._idle_since >= self._heartbeat_s * 0.95:
            self._idle_since = now
            await out.write(HEARTBEAT)
            self._metrics.heartbeats.inc()

    async def _say_goodbye(self, out: Writer, reason: str) -> None:
        if reason == "gone":
            return
        retry_ms = jittered(self._retry_ms)
        text = b"retry: %d\n" % retry_ms
        await out.write(text + said({"type": "reconnect", "reason": reason, "retry_ms": retry_ms}))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
