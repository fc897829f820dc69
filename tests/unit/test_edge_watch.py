"""One connection at work, with a writer in place of a socket: signs of life, its end, being sent away."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from edge.core import EdgeCore
from edge.frame import declared
from edge.history import SharedHistory
from edge.join import Joined
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.watch import Watch
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec

if TYPE_CHECKING:
    from edge.frame import Frame


class Socket:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.written.append(data)


class Desk:
    """A core over a log in memory, and one connection to stream ``s``."""

    def __init__(self, **policy: int) -> None:
        options = EdgeOptions()
        self.core = EdgeCore(options, PayloadCodec(LocalSchemas()), topic_version=1)
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        joined = self.core.joiner.join("default", "s", None, "test")
        assert isinstance(joined, Joined)
        self.subscriber = joined.subscriber
        self.socket = Socket()
        limits = {
            "heartbeat_ms": 10_000,
            "retry_ms": 1_000,
            "write_bytes_max": 1 << 20,
            "life_ms_max": 60_000,
        }
        self.watch = Watch(joined, self.core.replay, self.core.sse, self.core.metrics, **(limits | policy))

    def emit(self, seq: int, type_name: str = "log") -> None:
        def make(offset: int) -> Frame:
            return declared(type_name, {"seq": seq}, cursor=f"c{seq}", seq=seq, offset=offset)

        self.core.hub.publish([(b"default/s", self.log.append(b"default/s", make))])

    @property
    def data(self) -> bytes:
        return b"".join(self.socket.written)


def test_an_idle_connection_gets_a_comment_each_heartbeat_and_a_busy_one_none():
    async def play() -> tuple[int, int]:
        desk = Desk(heartbeat_ms=60)
        running = asyncio.create_task(desk.watch.run(desk.socket))
        await asyncio.sleep(0.4)
        idle = desk.socket.written.count(b":\n\n")
        desk.socket.written.clear()
        for seq in range(40):
            desk.emit(seq)
            await asyncio.sleep(0.01)
        busy = desk.socket.written.count(b":\n\n")
        desk.emit(40, "end")
        assert await running == "end"
        return idle, busy

    idle, busy = asyncio.run(play())
    assert 4 <= idle <= 7
    assert busy == 0


def test_what_came_in_one_batch_goes_out_in_one_write():
    async def play() -> list[bytes]:
        desk = Desk()
        running = asyncio.create_task(desk.watch.run(desk.socket))
        await asyncio.sleep(0.02)
        for seq in range(20):
            desk.emit(seq, "end" if seq == 19 else "log")
        assert await running == "end"
        return desk.socket.written

    written = asyncio.run(play())
    assert len(written) == 1
    assert written[0].count(b"\ndata: ") == 20


@pytest.mark.parametrize("reason", ["drain", "overload"])
def test_who_is_sent_away_is_told_to_come_back_and_when(reason):
    async def play() -> bytes:
        desk = Desk()
        running = asyncio.create_task(desk.watch.run(desk.socket))
        await asyncio.sleep(0.02)
        desk.emit(0)
        await asyncio.sleep(0.02)
        started = time.monotonic()
        desk.subscriber.close(reason)
        assert await running == reason
        assert time.monotonic() - started < 0.5
        return desk.socket.written[-1]

    last = asyncio.run(play())
    assert last.startswith(b"retry: ")
    assert b'"type":"reconnect"' in last
    assert b"id:" not in last, "the client keeps the cursor that it has"


def test_a_connection_that_is_as_old_as_its_kind_allows_is_sent_away():
    async def play() -> bytes:
        desk = Desk(life_ms_max=300)
        started = time.monotonic()
        assert await desk.watch.run(desk.socket) == "life"
        assert 0.23 <= time.monotonic() - started < 2
        return desk.data

    assert b'"reason":"life"' in asyncio.run(play())


def test_a_client_that_is_gone_is_not_written_to():
    async def play() -> bytes:
        desk = Desk()
        running = asyncio.create_task(desk.watch.run(desk.socket))
        await asyncio.sleep(0.02)
        desk.subscriber.close("gone")
        assert await running == "gone"
        return desk.data

    assert asyncio.run(play()) == b""
