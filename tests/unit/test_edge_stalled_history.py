"""Clients that stall while they are written the past, or the end: what they pin, and what they are told."""

from __future__ import annotations

import asyncio
import re
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from edge.grpc_messages import WatchEncoder
from edge.history import writes_of
from edge.sse import SseEncoder
from tests.unit.support_pressure import Scene, backpressure, gaps_of, play, said, seqs_of, until
from tests.unit.support_websocket import connect

if TYPE_CHECKING:
    from tests.support.fake_transport import FakeTransport

BYTES_MAX = 4_096


async def read_slowly(out: FakeTransport, events: int, *, most: int) -> None:
    """Take one write at a time, until all events have come; none is larger than it may be."""
    out.full = True
    while len(seqs_of(out.data)) < events:
        assert out.get_write_buffer_size() <= most
        out.drain(full=True)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("line_bytes", [10, 1_000, 3 * BYTES_MAX], ids=["small", "large", "one a write"])
def test_a_client_that_stalls_in_its_history_pins_a_bounded_write_and_misses_nothing(line_bytes: int) -> None:
    async def scene() -> bytes:
        edge = Scene(backpressure("drop_old"), write_bytes_max=BYTES_MAX, ring_events_max=4)
        for _ in range(30):
            edge.emit(10, size_bytes=line_bytes)
        slow = edge.connect()
        assert slow is not None
        await read_slowly(slow, 300, most=max(BYTES_MAX, line_bytes + 1_000))
        return slow.data

    data = play(scene())
    assert seqs_of(data) == list(range(300))
    assert not [one for one in said(data) if one["type"] == "gap"]


def test_clients_that_come_back_amid_a_span_and_stall_hold_a_write_each_and_not_the_span() -> None:
    clients, line_bytes, bytes_max = 20, 2_000, 64_000

    async def scene() -> int:
        edge = Scene(backpressure("drop_old"), write_bytes_max=bytes_max, ring_events_max=4)
        for _ in range(40):
            edge.emit(10, size_bytes=line_bytes)
        whole = await edge.reader()
        cursor = re.findall(rb"^id: (.*)$", whole.data, re.MULTILINE)[4].decode()
        whole.abort()
        tracemalloc.start()
        before, slow = tracemalloc.get_traced_memory()[0], []
        for _ in range(clients):
            slow.append(edge.connect(cursor))
            slow[-1].full = True
        await until(lambda: all(out.get_write_buffer_size() > 0 for out in slow))
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for out in slow:
            out.drain()
        await until(lambda: all(b'"seq":399,' in out.data for out in slow))
        assert all(seqs_of(out.data) == list(range(5, 400)) for out in slow)
        return grown

    try:
        assert play(scene()) < clients * 2 * bytes_max  # the span is 800 kB
    finally:
        tracemalloc.stop()


def test_a_span_is_given_back_by_who_stalls_and_read_again_and_all_is_given_and_counted_once() -> None:
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), write_bytes_max=BYTES_MAX, ring_events_max=4)
        for stream in ("s", "t"):
            edge.open(stream, "log")
            edge.emit(1_500, size_bytes=100, stream=stream)
        slow, peer = edge.connect(), connect(edge.share)
        assert slow is not None
        slow.full = True
        peer.say(*({"type": "subscribe", "stream": stream} for stream in ("s", "t")))
        peer.out.full = True
        connections = tuple(edge.core.clients)
        await until(lambda: all(one.paused for one in connections))
        deliveries = [delivery for one in connections for delivery in one.deliveries]
        await until(lambda: any(one._held for one in deliveries))
        await until(lambda: not any(one._held or one._first for one in deliveries))
        assert all(one.paused for one in connections)
        shown = len(seqs_of(slow.data))
        assert [one.events for one in deliveries if one.transport_name == "sse"] == [shown]
        assert 0 < shown < 1_000
        slow.drain()
        peer.out.drain()
        await until(lambda: all(one.subscriber.live for one in deliveries))
        assert seqs_of(slow.data) == list(range(1_500))
        assert peer.seqs("s") == peer.seqs("t") == list(range(1_500))
        assert edge.counted("delivered_events_total") == 3 * 1_500

    play(scene())


def test_a_stalled_client_that_was_written_the_end_is_told_of_no_stream_that_has_its_name_since() -> None:
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit()
        slow = await edge.reader()
        slow.full = True
        edge.reopen("s")
        await until(lambda: slow.get_write_buffer_size() > 0)
        edge.emit(12)
        await asyncio.sleep(0.02)
        slow.drain()
        await until(slow.is_closing)
        assert [one["type"] for one in said(slow.data)] == ["log", "end"]

    play(scene())


def test_drop_new_tells_nothing_as_lost_that_the_log_has_when_the_stream_is_over_before_its_gap() -> None:
    """It was given what its bound allows out of a span that has more; then nothing is dropped any more."""

    async def scene() -> None:
        edge = Scene(backpressure("drop_new"), ring_events_max=4)
        edge.emit()
        slow = await edge.stalled()
        edge.emit(50)
        slow.drain(full=True)
        await until(lambda: slow.get_write_buffer_size() > 0)  # what it was owed
        (subscriber,) = edge.core.hub.subscribers
        assert subscriber.at_bound
        edge.reopen("s")
        slow.drain()
        await until(slow.is_closing)
        assert seqs_of(slow.data) == list(range(53))
        assert gaps_of(slow.data) == []
        assert edge.counted("slow_dropped_events_total") == 0

    play(scene())


def test_writes_are_cut_between_events_and_their_bytes_are_those_of_one_write() -> None:
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit(40, size_bytes=500)
        frames = edge.core.hub.channel(b"default/s").ring.span(0, 1 << 20)
        for encoder in (SseEncoder(edge.core.json, chunked=False), WatchEncoder(edge.core.json)):
            writes = writes_of(frames, encoder, BYTES_MAX)
            assert len(writes) > 4
            assert max(len(write.data) for write in writes) <= BYTES_MAX
            assert b"".join(write.data for write in writes) == encoder.encode(frames)
            assert writes[-1].cursor == frames[-1].cursor

    play(scene())
