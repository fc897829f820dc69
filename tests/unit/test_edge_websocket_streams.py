"""Streams over one WebSocket: the same bytes for all who stand together, turns, and none left behind."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from websockets.protocol import CLIENT, Protocol

from edge.core import EdgeCore
from edge.frame import declared
from edge.messages import WebSocketEncoder
from edge.options import EdgeOptions
from edge.websocket import WebSocketConnection
from schemas.catalog import LocalSchemas
from schemas.cursor import Cursor
from schemas.payloads import PayloadCodec
from tests.unit.support_websocket import Room, gone, play, until


def test_connections_abreast_are_written_the_same_bytes_though_each_has_its_own_streams():
    async def scene() -> None:
        room = Room()
        peers = [room.connect() for _ in range(3)]
        for number, peer in enumerate(peers):
            peer.say({"type": "subscribe", "stream": "s"}, {"type": "subscribe", "stream": f"own{number}"})
        await until(lambda: all(peer.types().count("subscribed") == 2 for peer in peers))
        room.emit("s", range(20))
        await until(lambda: all(peer.seqs("s") == list(range(20)) for peer in peers))
        last = [peer.out.written[-1] for peer in peers]
        assert all(data is last[0] for data in last)

    play(scene())


@pytest.mark.parametrize("ring_events_max", [10_000, 4], ids=["from the ring", "from the past"])
def test_after_a_pause_each_stream_has_its_turn(ring_events_max):
    """A client that takes one write at a time: no stream waits until another has caught up."""

    async def scene() -> None:
        room = Room(ring_events_max=ring_events_max, write_bytes_max=1)
        peer = room.connect()
        streams = ["a", "b", "c"]
        peer.say(*({"type": "subscribe", "stream": stream} for stream in streams))
        await until(lambda: peer.types().count("subscribed") == 3)
        for stream in streams:
            room.emit(stream, range(1))
        await until(lambda: all(peer.seqs(stream) == [0] for stream in streams))
        peer.out.full = True
        for stream in streams:
            room.emit(stream, range(1, 30))
        counts = [1, 1, 1]
        rounds_of = [0, 0, 0]
        while counts != [30, 30, 30]:
            written = len(peer.out.written)
            if peer.connection.paused:
                peer.out.drain(full=True)
            await asyncio.sleep(0.001)
            assert len(peer.out.written) - written <= 1  # what is not taken pins one write
            now = [len(peer.seqs(stream)) for stream in streams]
            for number, (before, after) in enumerate(zip(counts, now, strict=True)):
                waits = before == after < 30 and now != counts
                rounds_of[number] = rounds_of[number] + 1 if waits else 0
            counts = now
            assert max(rounds_of) <= 4, counts
        for stream in streams:
            assert peer.seqs(stream) == list(range(30))

    play(scene())


def test_a_stream_out_of_the_past_has_its_turn_beside_one_that_is_busy_and_one_write_is_pinned_at_most():
    async def scene() -> None:
        room = Room(read_s=0.003, ring_events_max=4, write_bytes_max=1)
        old = ["o1", "o2", "o3"]
        for stream in old:
            room.open(stream)
            room.emit(stream, range(20))
        peer = room.connect()
        peer.say({"type": "subscribe", "stream": "busy"})
        room.emit("busy", range(1))
        await until(lambda: peer.seqs("busy") == [0])
        peer.out.full = True
        peer.say(*({"type": "subscribe", "stream": stream} for stream in old))
        seq = 1
        while any(peer.seqs(stream)[-1:] != [19] for stream in old):
            assert seq < 600, {stream: peer.seqs(stream) for stream in old}
            room.emit("busy", range(seq, seq + 1))
            seq += 1
            events = peer.types().count("event")
            if peer.connection.paused:
                peer.out.drain(full=True)
            await asyncio.sleep(0.002)
            assert peer.types().count("event") - events <= 1
            assert sum(bool(each._first) for each in peer.connection.deliveries) <= 1  # kept for its turn
        for stream in old:
            assert peer.seqs(stream) == list(range(20))

    play(scene())


def test_who_leaves_while_a_stream_is_looked_for_leaves_nothing_behind():
    async def scene() -> None:
        room = Room()
        peer = room.connect()
        peer.say({"type": "subscribe", "stream": "s"}, {"type": "unsubscribe", "stream": "s", "id": 1})
        await until(lambda: not peer.connection._conversation.under_way)
        assert peer.types() == ["connected", "unsubscribed"]
        peer.say({"type": "subscribe", "stream": "s"})
        peer.connection.abort("gone")
        await gone(peer)
        await until(lambda: not peer.connection._conversation.under_way)
        assert room.core.hub.followers == 0

    play(scene())


def test_who_changes_the_place_before_the_first_was_found_is_given_the_stream_from_the_second_on():
    async def scene() -> None:
        room = Room()
        room.open("s")
        room.emit("s", range(9))
        peer = room.connect()
        later = Cursor(1, 0, 5, 5).encode("default", "s")
        peer.say(
            {"type": "subscribe", "stream": "s", "id": "from the start"},
            {"type": "unsubscribe", "stream": "s"},
            {"type": "subscribe", "stream": "s", "id": "later", "cursor": later},
        )
        await until(lambda: peer.seqs("s")[-1:] == [8])
        assert peer.seqs("s") == [6, 7, 8]
        answered = [message.get("id") for message in peer.messages() if message["type"] == "subscribed"]
        assert answered == ["later"]
        assert room.core.hub.followers == 1

    play(scene())


def test_a_connection_that_is_gone_is_not_kept_by_anything():
    async def scene() -> None:
        room = Room()
        for _ in range(20):
            peer = room.connect()
            peer.say({"type": "subscribe", "stream": "s"}, {"type": "ping"})
            await until(lambda peer=peer: "subscribed" in peer.types())
            peer.connection.abort("gone")
            await gone(peer)
        del peer
        await asyncio.sleep(0.3)  # the wheel turns
        gc.collect()
        left = [each for each in gc.get_objects() if type(each) is WebSocketConnection]
        assert len(left) <= 1

    play(scene())


def test_an_event_names_its_stream_and_stands_in_a_wrapper_of_its_own():
    frame = declared("log", {"seq": 3, "tenant": "evil"}, cursor="c3", seq=3, offset=9)
    core = EdgeCore(EdgeOptions(), PayloadCodec(LocalSchemas()), topic_version=1)
    reader = Protocol(CLIENT, max_size=None)
    reader.receive_data(WebSocketEncoder(core.json, "acme", "s-1").encode([frame]))
    (message,) = [json.loads(each.data) for each in reader.events_received()]
    assert message == {
        "type": "event", "tenant": "acme", "stream": "s-1", "cursor": "c3",
        "event": {"type": "log", "seq": 3, "tenant": "evil"},
    }  # fmt: skip
