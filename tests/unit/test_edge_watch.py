"""One connection at work, with a writer in place of a socket: signs of life, its end, being sent away."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
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
        self.at_s: list[float] = []

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        self.at_s.append(asyncio.get_running_loop().time())


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
    heartbeat_s = 0.2

    async def play() -> tuple[list[float], list[bytes], list[float]]:
        desk = Desk(heartbeat_ms=int(heartbeat_s * 1_000))
        began_s = asyncio.get_running_loop().time()
        running = asyncio.create_task(desk.watch.run(desk.socket))
        while len(desk.socket.written) < 4:  # noqa: ASYNC110  # nobody tells what a connection writes
            await asyncio.sleep(0.01)
        assert set(desk.socket.written) == {b":\n\n"}
        idle_s = [began_s, *desk.socket.at_s]
        desk.socket.written.clear()
        desk.socket.at_s.clear()
        for seq in range(100):
            desk.emit(seq)
            await asyncio.sleep(0.01)
        desk.emit(100, "end")
        assert await running == "end"
        return idle_s, desk.socket.written, desk.socket.at_s

    # A busy machine makes each of them late, and none early.
    idle_s, written, busy_s = asyncio.run(asyncio.wait_for(play(), 60))
    assert all(after - before >= 0.9 * heartbeat_s for before, after in pairwise(idle_s))
    for data, (before, after) in zip(written[1:], pairwise(busy_s), strict=True):
        assert data != b":\n\n" or after - before >= 0.9 * heartbeat_s
    assert written.count(b":\n\n") < 50


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
        assert time.monotonic() - started < 5
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
        assert 0.23 <= time.monotonic() - started < 20
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
