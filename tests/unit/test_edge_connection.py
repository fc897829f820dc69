"""Connections at work over a transport in memory: shared writes, signs of life, stalls, being sent away."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import pytest

from edge.access.identity import ANYBODY
from edge.core import EdgeCore
from edge.frame import declared
from edge.history import SharedHistory
from edge.join import Joined
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.sse import HEADERS, SseConnection
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from tests.support.fake_transport import LIMITS, FakeTransport

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from edge.frame import Frame

HEARTBEAT = b":\n\n"


class Desk:
    """A core over a log in memory, and connections to stream ``s``."""

    def __init__(self, **options: Any) -> None:
        self.core = EdgeCore(EdgeOptions(**options), PayloadCodec(LocalSchemas()), topic_version=1)
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        self.core.start()

    def connect(self, *, chunked: bool = False, unsent: int = 0, **limits: int) -> FakeTransport:
        joined = self.core.joiner.join("default", "s", None, "test")
        assert isinstance(joined, Joined)
        its = replace(LIMITS, **limits)
        connection = SseConnection(self.core, joined, its, head=HEADERS, chunked=chunked)
        return FakeTransport(unsent=unsent).serve(connection)

    def emit(self, seq: int, type_name: str = "log") -> None:
        self.core.hub.publish([self._made(seq, type_name)])

    def emit_together(self, seqs: range) -> None:
        self.core.hub.publish([self._made(seq, "log") for seq in seqs])

    def _made(self, seq: int, type_name: str) -> tuple[bytes, Frame]:
        def make(offset: int) -> Frame:
            return declared(type_name, {"seq": seq}, cursor=f"c{seq}", seq=seq, offset=offset)

        return b"default/s", self.log.append(b"default/s", make)


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


def seqs_of(data: bytes) -> list[int]:
    return [int(seq) for seq in re.findall(rb'"seq":(\d+)', data)]


async def until(done: Any) -> None:
    while not done():  # noqa: ASYNC110  # nobody tells what a connection writes
        await asyncio.sleep(0.005)


def test_an_idle_connection_gets_a_comment_each_heartbeat_and_a_busy_one_none():
    heartbeat_s = 0.3

    async def scene() -> tuple[list[float], list[tuple[bytes, float]]]:
        desk = Desk()
        began_s = asyncio.get_running_loop().time()
        out = desk.connect(heartbeat_ms=int(heartbeat_s * 1_000))
        head = len(out.written)
        await until(lambda: len(out.written) >= head + 4)
        assert set(out.written[head:]) == {HEARTBEAT}
        idle_s = [began_s, *out.at_s[head:]]
        busy_from = len(out.written)
        for seq in range(100):
            desk.emit(seq)
            await asyncio.sleep(0.01)
        desk.emit(100, "end")
        await until(out.is_closing)
        return idle_s, list(zip(out.written, out.at_s, strict=True))[busy_from:]

    # A busy machine makes each of them late, and none early.
    idle_s, busy = play(scene())
    assert all(after - before >= 0.9 * heartbeat_s for before, after in pairwise(idle_s))
    for (_, before_s), (data, after_s) in pairwise(busy):
        assert data != HEARTBEAT or after_s - before_s >= 0.9 * heartbeat_s


def test_what_came_in_one_batch_goes_out_in_one_write_and_is_the_same_object_for_all():
    async def scene() -> list[FakeTransport]:
        desk = Desk()
        desk.emit(0, "open")
        outs = [desk.connect() for _ in range(3)]
        await until(lambda: all(seqs_of(out.data) == [0] for out in outs))
        desk.emit_together(range(1, 20))
        await until(lambda: all(seqs_of(out.data) == list(range(20)) for out in outs))
        return outs

    outs = play(scene())
    last = [out.written[-1] for out in outs]
    assert last[0].count(b"\ndata: ") == 19
    assert all(data is last[0] for data in last)


def test_many_events_within_a_tick_are_few_writes():
    async def scene() -> FakeTransport:
        desk = Desk()
        out = desk.connect()
        for seq in range(2_000):
            desk.emit(seq)
            if seq % 20 == 0:
                await asyncio.sleep(0)
        await until(lambda: seqs_of(out.data) == list(range(2_000)))
        return out

    assert len(play(scene()).written) < 500


def test_one_that_takes_nothing_is_not_written_to_and_goes_on_from_its_own_place_while_others_flow():
    async def scene() -> tuple[FakeTransport, FakeTransport]:
        desk = Desk()
        slow, quick = desk.connect(), desk.connect()
        desk.emit(0)
        await until(lambda: seqs_of(quick.data) == [0])
        slow.full = True
        for seq in range(1, 50):
            desk.emit(seq)
            await asyncio.sleep(0.01)
        await until(lambda: seqs_of(quick.data) == list(range(50)))
        assert 0 < len(seqs_of(slow.data)) < 25  # what it was given when it stopped, and no more
        slow.drain()
        await until(lambda: seqs_of(slow.data) == list(range(50)))
        desk.emit(50)
        await until(lambda: seqs_of(slow.data) == list(range(51)))
        return slow, quick

    slow, quick = play(scene())
    assert slow.written[-1] is quick.written[-1]


def test_one_that_has_not_taken_the_answer_before_its_stream_is_given_no_more_until_it_has():
    async def scene() -> FakeTransport:
        desk = Desk()
        for seq in range(3):
            desk.emit(seq)
        out = desk.connect(unsent=100_000)
        desk.emit(3)
        await asyncio.sleep(0.05)
        assert seqs_of(out.data) == []
        assert [client.paused for client in desk.core.clients] == [True]
        out.drain()
        await until(lambda: len(seqs_of(out.data)) == 4)
        desk.emit(4)
        await until(lambda: len(seqs_of(out.data)) == 5)
        return out

    assert seqs_of(play(scene()).data) == [0, 1, 2, 3, 4]


def test_one_that_the_ring_has_passed_by_reads_the_past_and_comes_back_to_the_others():
    async def scene() -> FakeTransport:
        desk = Desk(ring_events_max=10)
        slow, quick = desk.connect(), desk.connect()
        desk.emit(0)
        await until(lambda: seqs_of(slow.data) == [0])
        slow.full = True
        for seq in range(1, 100):
            desk.emit(seq)
        await until(lambda: seqs_of(quick.data) == list(range(100)))
        slow.drain()
        desk.emit(100)
        await until(lambda: seqs_of(slow.data) == list(range(101)))
        return slow

    play(scene())


def test_a_burst_larger_than_the_ring_reaches_who_keeps_up_out_of_the_ring():
    async def scene() -> None:
        desk = Desk(ring_events_max=10)
        out = desk.connect()
        desk.emit(0)
        await until(lambda: seqs_of(out.data) == [0])
        desk.emit_together(range(1, 200))
        await until(lambda: seqs_of(out.data) == list(range(200)))
        assert desk.core.history.reads == 0

    play(scene())


def test_a_hole_in_the_log_is_declared_to_those_who_are_abreast():
    async def scene() -> bytes:
        desk = Desk()
        out = desk.connect()
        desk.emit(0)
        await until(lambda: seqs_of(out.data) == [0])
        desk.emit(3)
        await until(lambda: seqs_of(out.data)[-1] == 3)
        return out.data

    assert b'"type":"gap","seq":2' in play(scene())


@pytest.mark.parametrize("reason", ["drain", "overload"])
def test_who_is_sent_away_is_told_to_come_back_and_when(reason):
    async def scene() -> bytes:
        desk = Desk(drain_ms=100)
        out = desk.connect()
        desk.emit(0)
        await until(lambda: seqs_of(out.data) == [0])
        await desk.core.drain(reason)
        assert out.is_closing()
        return out.written[-1]

    last = play(scene())
    assert last.startswith(b"retry: ")
    assert b'"type":"reconnect","reason":"%b"' % reason.encode() in last
    assert b"id:" not in last, "the client keeps the cursor that it has"


def test_a_connection_that_is_as_old_as_its_kind_allows_is_sent_away():
    async def scene() -> bytes:
        desk, started = Desk(), time.monotonic()
        out = desk.connect(life_ms_max=300)
        await until(out.is_closing)
        assert 0.23 <= time.monotonic() - started < 20
        return out.data

    assert b'"reason":"life"' in play(scene())


def test_one_that_takes_nothing_for_too_long_is_aborted_and_one_that_is_slow_is_not():
    async def scene() -> None:
        desk = Desk(write_stall_ms_max=400)
        deaf, slow = desk.connect(), desk.connect()
        deaf.full = slow.full = True
        desk.emit(0)
        for seq in range(1, 20):
            await asyncio.sleep(0.1)
            slow.drain()
            slow.full = True
            desk.emit(seq)
        assert deaf.aborted
        assert not slow.is_closing()
        assert desk.core.connections == 1

    play(scene())


def test_one_that_is_always_a_little_behind_is_warned_of_its_tokens_end_and_sent_away_at_its_own():
    async def scene() -> bytes:
        desk = Desk()
        out = desk.connect(life_ms_max=2_000)
        (client,) = desk.core.clients
        out.full = True
        desk.emit(0)
        await until(lambda: client.paused)
        client.authorise(replace(ANYBODY, expires_s=time.time() + 30))  # within the time of its warning
        for seq in count(1):
            desk.emit(seq)
            out.drain(full=True)
            if out.is_closing():
                return out.data
            assert client.paused, "it has something to take whenever the wheel looks at it"
            await asyncio.sleep(0.01)
        raise AssertionError

    said = play(scene())
    assert said.count(b'"type":"expiring"') == 1
    assert b'"reason":"life"' in said


def test_an_end_closes_the_connection_and_a_chunked_answer_is_ended():
    async def scene() -> tuple[bytes, bytes]:
        desk = Desk()
        plain, chunked = desk.connect(), desk.connect(chunked=True)
        desk.emit(0)
        desk.emit(1, "end")
        await until(lambda: plain.is_closing() and chunked.is_closing())
        await until(lambda: desk.core.connections == 0)
        assert desk.core.hub.followers == 0
        return plain.data, chunked.data

    plain, chunked = play(scene())
    assert chunked.endswith(b"\r\n0\r\n\r\n")
    assert b"transfer-encoding: chunked" in chunked
    body = b"".join(part for part in re.split(rb"\r\n[0-9a-f]+\r\n", chunked.partition(b"\r\n\r\n")[2]))
    assert seqs_of(body) == seqs_of(plain) == [0, 1]


def test_a_client_that_is_gone_leaves_nothing_behind():
    async def scene() -> None:
        desk = Desk()
        out = desk.connect()
        desk.emit(0)
        out.close()
        await until(lambda: desk.core.connections == 0)
        assert desk.core.hub.followers == 0
        assert len(desk.core.wheel) == 0
        desk.emit(1)

    play(scene())
