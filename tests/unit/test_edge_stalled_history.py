"""Clients that stall while they are written the past, or the end: what they pin, and what they are told."""

from __future__ import annotations

import asyncio
import re
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from edge.connections import shown
from edge.grpc_messages import WatchEncoder
from edge.history import writes_of
from edge.sse import SseEncoder
from tests.unit.support_pressure import Scene, backpressure, gaps_of, play, said, seqs_of, until
from tests.unit.support_websocket import connect

if TYPE_CHECKING:
    from edge.history import Span, SpanAsked
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
            assert (writes[-1].next_seq, writes[-1].next_offset) == (40, frames[-1].offset + 1)

    play(scene())


def give_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.connection.GIVE_BACK_S", 0.1)


def ahead(edge: Scene) -> int:
    """Bytes that are held for all clients, beside what was written to them."""
    return sum(one.bytes_ahead for client in edge.core.clients for one in client.deliveries)


async def amid_the_past(edge: Scene) -> FakeTransport:
    """A client that takes nothing any more, and has one write of the past."""
    out = edge.connect()
    assert out is not None
    out.full = True
    await until(lambda: out.get_write_buffer_size() > 0 and ahead(edge) > 0)
    return out


@pytest.mark.parametrize("holds", ["the end", "what nobody can read", "what a laggard missed", "its own cut"])
def test_whatever_a_span_holds_it_is_given_back_and_told_and_counted_once(holds, monkeypatch):
    give_back_soon(monkeypatch)

    async def scene() -> None:
        edge = Scene(backpressure("slow_producer"), write_bytes_max=BYTES_MAX, ring_events_max=4)
        if holds == "what a laggard missed":
            edge.emit()
            slow = await edge.stalled()
            edge.emit(298, size_bytes=100)
            slow.drain(full=True)
            await until(lambda: ahead(edge) > 0)
            (follower,) = edge.core.hub.subscribers
            assert follower.live
        else:
            edge.emit(100, size_bytes=100)
            if holds == "what nobody can read":
                edge.emit_unreadable()
            edge.emit(300 - edge.next_seq, size_bytes=100)
            if holds == "the end":
                edge.emit(end=True)
            if holds == "its own cut":
                whole = await edge.reader()
                slow = edge.connect(re.findall(rb"^id: (.*)$", whole.data, re.MULTILINE)[4].decode())
                whole.close()
                slow.full = True
                await until(lambda: ahead(edge) > 0)
            else:
                slow = await amid_the_past(edge)
        await until(lambda: ahead(edge) == 0)
        assert slow.get_write_buffer_size() > 0, "it still takes nothing"
        gaps_before = edge.counted("gaps_total")
        slow.drain()
        begins, ends = (5 if holds == "its own cut" else 0), edge.next_seq
        await until(lambda: (ends - 1) in seqs_of(slow.data))
        expected = [seq for seq in range(begins, ends) if (holds, seq) != ("what nobody can read", 100)]
        assert seqs_of(slow.data) == expected
        gaps = [(100, 100, "unreadable")] if holds == "what nobody can read" else []
        assert gaps_of(slow.data) == gaps
        assert (gaps_before, edge.counted("gaps_total")) == (0, len(gaps))
        assert slow.is_closing() == (holds == "the end")
        before = 300 if holds == "its own cut" else 0  # what the first client was given
        assert edge.counted("delivered_events_total") - before == ends - begins

    play(scene())


@pytest.mark.parametrize("reads", ["soon", "when it has stalled for long"])
def test_a_span_that_comes_while_nothing_is_taken_is_given_back_too(reads, monkeypatch):
    give_back_soon(monkeypatch)

    async def scene() -> None:
        edge, read_on = Scene(backpressure("drop_old"), ring_events_max=4), asyncio.Event()
        read = edge.core.history._read

        async def slowly(asked: SpanAsked) -> Span:
            await read_on.wait()
            return await read(asked)

        edge.core.history._read = slowly
        edge.emit(300)
        slow = edge.connect()
        assert slow is not None
        await until(lambda: edge.core.history.reads)
        (client,) = edge.core.clients
        (delivery,) = client.deliveries
        slow.full = True
        client.beat()
        assert client.paused
        if reads == "soon":
            read_on.set()
            await until(lambda: ahead(edge) > 0)
        else:
            await asyncio.sleep(0.4)  # it was looked at, and nothing was there yet
            read_on.set()
            await until(lambda: delivery._task is None)
        await until(lambda: ahead(edge) == 0)
        assert seqs_of(slow.data) == []
        slow.drain()
        await until(lambda: 299 in seqs_of(slow.data))
        assert seqs_of(slow.data) == list(range(300))
        assert gaps_of(slow.data) == []

    play(scene())


@pytest.mark.parametrize("given_back", ["before", "after"])
def test_who_gave_its_end_back_is_told_of_no_stream_that_has_its_name_since(given_back, monkeypatch):
    give_back_soon(monkeypatch)

    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), write_bytes_max=BYTES_MAX, ring_events_max=4)
        edge.emit(300, size_bytes=100)
        edge.emit(end=True)
        slow = await amid_the_past(edge)
        if given_back == "before":
            await until(lambda: ahead(edge) == 0)
        edge.begin_anew("s")
        edge.emit(12)
        await until(lambda: ahead(edge) == 0)
        slow.drain()
        await until(slow.is_closing)
        assert seqs_of(slow.data) == list(range(301))
        assert [one["type"] for one in said(slow.data)] == [*["log"] * 300, "end"]

    play(scene())


def test_of_who_is_gone_amid_a_span_it_is_told_how_far_it_was_written_and_not_what_was_read():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), write_bytes_max=BYTES_MAX, ring_events_max=4)
        edge.emit(300, size_bytes=100)
        slow = await amid_the_past(edge)
        (client,) = edge.core.clients
        (view,) = [shown(edge.core, client, one) for one in client.deliveries]
        seqs = seqs_of(slow.data)
        assert (view["seq"], view["events"], view["events_behind"]) == (seqs[-1], len(seqs), 299 - seqs[-1])
        slow.lose()
        (closed,) = edge.told.of("edge.connections.v1", action="closed")
        assert (closed["seq"], closed["events"]) == (seqs[-1], len(seqs))
        assert 0 < len(seqs) < 300

    play(scene())


def test_who_is_let_go_of_amid_a_span_holds_nothing_of_it_and_comes_back_for_the_rest():
    async def scene() -> None:
        edge = Scene(
            backpressure("terminate", behind_events_max=400), write_bytes_max=BYTES_MAX, ring_events_max=4
        )
        edge.emit()
        slow = await edge.stalled()
        edge.emit(298, size_bytes=100)
        slow.drain(full=True)
        await until(lambda: ahead(edge) > 0)
        edge.emit(450)
        (client,) = edge.core.clients
        (delivery,) = client.deliveries
        assert delivery.too_slow
        assert ahead(edge) == 0
        slow.drain()
        await until(slow.is_closing)
        assert said(slow.data)[-1]["reason"] == "slow"
        back = edge.connect(delivery.cursor)
        assert back is not None
        await until(lambda: edge.next_seq - 1 in seqs_of(back.data))
        assert seqs_of(slow.data) + seqs_of(back.data) == list(range(edge.next_seq))

    play(scene())


def test_a_stream_that_has_its_turn_while_nothing_is_taken_is_not_read_before_it_is(monkeypatch):
    give_back_soon(monkeypatch)

    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), write_bytes_max=BYTES_MAX, ring_events_max=4)
        for stream in ("s", "t"):
            edge.open(stream, "log")
            edge.emit(300, size_bytes=100, stream=stream)
        peer = connect(edge.share)
        peer.out.full = True
        peer.say(*({"type": "subscribe", "stream": stream} for stream in ("s", "t")))
        await until(lambda: peer.types().count("subscribed") == 2)
        peer.out.drain(full=True)
        await until(lambda: ahead(edge) > 0)
        first, second = sorted(peer.connection.deliveries, key=lambda one: -one.bytes_ahead)
        await until(lambda: peer.connection.stalled)
        reads = edge.core.history.reads
        first.stop("left")
        await until(lambda: second._task is None)
        assert (ahead(edge), edge.core.history.reads) == (0, reads)
        peer.out.drain()
        stream = second.subscriber.channel.stream_id
        await until(lambda: peer.seqs(stream) == list(range(300)))

    play(scene())


def test_who_has_read_its_past_holds_nothing_of_it():
    clients, bytes_max = 20, 64_000

    async def scene() -> int:
        edge = Scene(backpressure("drop_old"), write_bytes_max=bytes_max, ring_events_max=4)
        edge.emit(400, size_bytes=2_000)
        whole = await edge.reader()
        cursor = re.findall(rb"^id: (.*)$", whole.data, re.MULTILINE)[4].decode()
        whole.abort()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(clients):
            out = edge.connect(cursor)
            assert out is not None
            await until(lambda out=out: b'"seq":399,' in out.data)
            out.written.clear()
        return tracemalloc.get_traced_memory()[0] - before

    try:
        assert play(scene()) < clients * bytes_max / 4
    finally:
        tracemalloc.stop()
