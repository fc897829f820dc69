"""A WebSocket over a transport in memory: what is heard of a client, how fast, how much; whose turn it is."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Opcode
from websockets.protocol import CLIENT, Protocol

from edge.access.identity import ANYBODY, Names
from edge.access.options import AccessOptions
from edge.core import EdgeCore
from edge.frame import declared
from edge.history import SharedHistory, Span
from edge.index import IndexEntry
from edge.messages import WebSocketEncoder, text_frame
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.upgrade import WebSocketShare
from edge.websocket import WebSocketConnection
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from tests.unit.support_websocket import Message, Peer, connect, masked

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from edge.frame import Frame as Event
    from edge.history import SpanAsked
    from edge.publish import PublishRequest


class SlowPublisher:
    """Takes events, and acknowledges none before it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.gate = asyncio.Event()

    async def publish_values(self, request: PublishRequest, values: list[object]) -> Message:
        assert request.transport == "websocket"
        self.taken.append((request.stream_id, len(values)))
        await self.gate.wait()
        return {"appended": len(values)}


class Room:
    """A core over a log in memory, and WebSocket connections to it."""

    def __init__(self, *, read_s: float = 0.0, **options: Any) -> None:
        self.core = EdgeCore(EdgeOptions(**options), PayloadCodec(LocalSchemas()), topic_version=1)
        self.log = MemoryLog()
        self.read_s = read_s
        """How long the past takes to be read."""
        self.core.feed_from(self.log, SharedHistory(self._read, 1))
        self.core.start()
        self.publisher = SlowPublisher()
        self.share = WebSocketShare(self.core, self.publisher)  # type: ignore[arg-type]  # a twin

    def connect(self, **limits: int) -> Peer:
        return connect(self.share, **limits)

    async def _read(self, asked: SpanAsked) -> Span:
        await asyncio.sleep(self.read_s)
        span = await self.log.read(asked)
        return Span(span.frames[:1], span.frames[0].offset + 1) if span.frames else span

    def open(self, stream: str) -> None:
        """Have the index know that a stream begins here."""
        entry = IndexEntry(
            tenant="default", stream_id=stream, kind="log", title="", labels={}, partition=0,
            topic_version=1, opened_us=0, open_offset=self.log.position(0), mark_seqs=[], mark_offsets=[],
            last_seq=-1, updated_us=0,
        )  # fmt: skip
        self.core.index.put(f"default/{stream}".encode(), entry)

    def emit(self, stream: str, seqs: range, size: int = 1) -> None:
        key = f"default/{stream}".encode()
        self.core.hub.publish([(key, self._made(key, seq, size)) for seq in seqs])

    def _made(self, key: bytes, seq: int, size: int) -> Event:
        def make(offset: int) -> Event:
            fields = {"seq": seq, "line": "x" * size}
            return declared("log", fields, cursor=f"c{seq}", seq=seq, offset=offset)

        return self.log.append(key, make)


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


async def until(done: Callable[[], object]) -> None:
    while not done():  # noqa: ASYNC110  # nobody tells what a connection writes
        await asyncio.sleep(0.005)


async def gone(peer: Peer) -> None:
    await until(lambda: peer.connection not in peer.connection._core.clients)


# -- protocol ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (masked(Opcode.TEXT, b"hi").replace(b"\x81", b"\xf1", 1), 1002),  # reserved bits
        (b"\x83\x80\x00\x00\x00\x00", 1002),  # an opcode that there is not
        (masked(Opcode.CONT, b"hi"), 1002),  # the rest of nothing
        (masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.TEXT, b"b"), 1002),
        (b"\x89\xfe\x00\x80" + bytes(132), 1002),  # a ping that is too long
        (masked(Opcode.BINARY, b"{}"), 1003),
        (masked(Opcode.TEXT, b'{"type": "\xff"}'), 1007),
        (masked(Opcode.TEXT, b'{"type": "pi', fin=False) + masked(Opcode.CONT, b'\xed\xa0\x80"}'), 1007),
        (b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"mask", 1009),
        (masked(Opcode.TEXT, bytes(600), fin=False) + masked(Opcode.CONT, bytes(600)), 1009),
    ],
)  # fmt: skip
def test_who_breaks_the_protocol_is_told_by_the_code_and_let_go(bad, code):
    async def scene() -> Peer:
        peer = Room(request_bytes_max=1_000).connect()
        peer.send(bad + masked(Opcode.TEXT, b'{"type": "ping"}'))
        assert peer.close_code() == code
        assert peer.types() == ["connected"]  # nothing that came after is listened to
        assert peer.out.half_closed
        assert not peer.out.is_closing()  # or the client might not be given the code
        peer.connection.eof_received()
        peer.out.close()
        await gone(peer)
        assert peer.connection._share.held_bytes == 0
        return peer

    play(scene())


def test_a_client_that_closes_is_answered_and_closed_and_one_that_does_not_answer_is_cut(monkeypatch):
    monkeypatch.setattr("edge.websocket._LINGER_S", 0.2)

    async def scene() -> None:
        room = Room()
        polite, rude = room.connect(), room.connect()
        polite.send(masked(Opcode.CLOSE, Close(1000, "bye").serialize()))
        assert polite.close_code() == 1000
        assert polite.out.is_closing()
        rude.connection.send_away("drain")
        assert rude.types() == ["connected", "reconnect"]
        assert rude.close_code() == 1012
        rude.say({"type": "ping"})  # too late
        assert rude.types() == ["connected", "reconnect"]
        await gone(rude)
        assert rude.out.aborted

    play(scene())


def test_a_message_in_pieces_is_one_message_and_a_ping_between_them_is_answered():
    async def scene() -> None:
        peer = Room().connect()
        whole = json.dumps({"type": "ping", "id": "grün"}, ensure_ascii=False).encode()
        data = b"".join(
            masked(Opcode.CONT if place else Opcode.TEXT, whole[place : place + 1], fin=False)
            + (masked(Opcode.PING, b"there?") if place == 5 else b"")
            for place in range(len(whole))
        ) + masked(Opcode.CONT, b"")
        for place in range(0, len(data), 3):
            peer.send(data[place : place + 3])
        assert peer.messages()[1:] == [{"type": "pong", "id": "grün"}]
        assert [bytes(frame.data) for frame in peer.heard() if frame.opcode is Opcode.PONG] == [b"there?"]

    play(scene())


_STEPS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        masked,
        st.sampled_from(list(Opcode)),
        st.one_of(
            st.binary(max_size=60),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["type", "id", "stream", "tenant", "cursor", "events", "wait", "x"]),
                        inner
                        | st.sampled_from(["subscribe", "unsubscribe", "publish", "ping", "chat", "auth"]),
                        max_size=5,
                    )
                ),
            ).map(lambda value: json.dumps(value).encode()),
        ),
        fin=st.booleans(),
    ),
)


@settings(max_examples=150)
@given(st.lists(_STEPS, max_size=12), st.integers(1, 97))
def test_whatever_bytes_come_nothing_is_raised_and_nothing_is_held_in_the_end(steps, cut):
    async def scene() -> None:
        room = Room(request_bytes_max=2_000, websocket_messages_per_s_max=100_000)
        room.publisher.gate.set()
        peer = room.connect()
        data = b"".join(steps)
        for place in range(0, len(data), cut):
            await until(lambda: peer.out.reading)
            peer.send(data[place : place + cut])
        await asyncio.sleep(0)
        assert peer.types()[0] == "connected"
        peer.connection.abort("gone")
        await gone(peer)
        await until(lambda: not peer.connection._conversation.under_way)
        assert room.share.held_bytes == 0
        assert room.core.hub.followers == 0
        await room.core.stop()

    play(scene())


# -- bounds -----------------------------------------------------------------------------------------------


def test_messages_beyond_the_rate_wait_and_none_is_lost():
    async def scene() -> None:
        peer = Room(websocket_messages_per_s_max=50).connect()
        peer.say(*({"type": "ping", "id": number} for number in range(80)))
        assert 50 <= len(peer.messages()) - 1 < 80
        assert not peer.out.reading
        await until(lambda: len(peer.messages()) == 81)
        assert [message["id"] for message in peer.messages()[1:]] == list(range(80))
        assert peer.out.reading

    play(scene())


def test_no_more_requests_are_under_way_than_there_is_room_for_and_the_rest_is_not_read():
    async def scene() -> None:
        room = Room(websocket_requests_max=4)
        peer = room.connect()
        peer.say(*({"type": "publish", "id": n, "stream": f"s{n}", "events": [{}]} for n in range(10)))
        await until(lambda: len(room.publisher.taken) == 4)
        await asyncio.sleep(0.02)
        assert len(room.publisher.taken) == 4
        assert not peer.out.reading
        room.publisher.gate.set()
        await until(lambda: peer.types().count("publish_ack") == 10)
        assert peer.out.reading
        assert room.share.held_bytes == 0

    play(scene())


def test_writes_to_one_stream_are_done_one_after_the_other_and_those_to_others_beside_them():
    async def scene() -> None:
        room = Room()
        peer = room.connect()
        asked = [("a", 1), ("a", 2), ("b", 1), ("a", 3)]
        peer.say(*({"type": "publish", "stream": s, "events": [{}] * n, "id": f"{s}{n}"} for s, n in asked))
        await until(lambda: len(room.publisher.taken) == 2)
        await asyncio.sleep(0.02)
        assert room.publisher.taken == [("a", 1), ("b", 1)]
        room.publisher.gate.set()
        await until(lambda: peer.types().count("publish_ack") == 4)
        assert [place for place in room.publisher.taken if place[0] == "a"] == [("a", 1), ("a", 2), ("a", 3)]

    play(scene())


def test_what_all_clients_have_sent_and_is_not_dealt_with_is_bounded_and_the_small_are_spared():
    async def scene() -> None:
        room = Room(websocket_held_bytes_max=200_000)
        small = room.connect()
        small.send(masked(Opcode.TEXT, bytes(10_000), fin=False))
        large = [room.connect() for _ in range(4)]
        for peer in large:
            peer.send(masked(Opcode.TEXT, bytes(60_000), fin=False))
        assert [peer.out.half_closed for peer in large] == [False, False, False, True]
        assert large[-1].close_code() == 1013
        assert room.share.held_bytes <= 200_000
        small.send(masked(Opcode.CONT, b"", fin=True))
        assert small.messages()[-1]["code"] == "not_json"
        for peer in (small, *large):
            peer.connection.abort("gone")
            await gone(peer)
        assert room.share.held_bytes == 0

    play(scene())


def test_a_message_that_does_not_come_in_its_time_ends_the_connection():
    async def scene() -> None:
        peer = Room(request_read_ms_max=200).connect(heartbeat_ms=50)
        peer.send(masked(Opcode.TEXT, b"{", fin=False))
        while not peer.out.half_closed:
            peer.send(masked(Opcode.PONG, b""))
            await asyncio.sleep(0.02)
        assert peer.close_code() == 1008

    play(scene())


def test_a_client_that_reads_nothing_is_not_listened_to_either():
    async def scene() -> None:
        peer = Room().connect()
        peer.out.full = True
        peer.say(*({"type": "ping", "id": number} for number in range(30)))
        assert len(peer.messages()) == 2  # the one that stopped it
        assert not peer.out.reading
        peer.out.drain()
        await until(lambda: len(peer.messages()) == 31)
        assert peer.out.reading

    play(scene())


# -- bounds of a tenant -----------------------------------------------------------------------------------


def test_a_connection_counts_once_to_each_tenant_of_which_it_follows_a_stream_and_no_longer_than_it_does():
    def asked(type_name: str, number: int, stream: str, tenant: str) -> Message:
        return {"type": type_name, "id": number, "stream": stream, "tenant": tenant}

    async def answer(peer: Peer, number: int) -> Message:
        await until(lambda: [one for one in peer.messages() if one.get("id") == number])
        (said,) = [one for one in peer.messages() if one.get("id") == number]
        return said

    async def scene() -> None:
        room = Room(tenant_connections_max=1)
        one, other = room.connect(), room.connect()
        one.say(asked("subscribe", 1, "s", "acme"), asked("subscribe", 2, "t", "acme"))
        assert [(await answer(one, number))["type"] for number in (1, 2)] == ["subscribed"] * 2
        other.say(asked("subscribe", 3, "s", "acme"), asked("subscribe", 4, "s", "umbrella"))
        refused = await answer(other, 3)
        assert (refused["type"], refused["code"], refused["status"]) == ("error", "too_many_connections", 503)
        assert refused["retry_ms"] == 2_000
        assert (await answer(other, 4))["type"] == "subscribed"

        one.say(asked("unsubscribe", 5, "s", "acme"))
        other.say(asked("subscribe", 6, "s", "acme"))
        assert (await answer(other, 6))["status"] == 503
        one.say(asked("unsubscribe", 7, "t", "acme"))
        other.say(asked("subscribe", 8, "s", "acme"))
        assert (await answer(other, 8))["type"] == "subscribed"

        other.connection.abort("gone")
        await gone(other)
        one.say(*(asked("subscribe", number, "s", name) for number, name in ((9, "acme"), (10, "umbrella"))))
        assert [(await answer(one, number))["type"] for number in (9, 10)] == ["subscribed"] * 2

    play(scene())


def test_a_connection_of_one_tenant_alone_counts_from_its_start_and_once():
    async def scene() -> None:
        room = Room(tenant_connections_max=1)
        only = replace(ANYBODY, tenants=Names(("acme",)))
        peer = connect(room.share, only)
        assert room.core.quotas.is_full("acme")
        peer.say({"type": "subscribe", "stream": "s", "tenant": "acme"})
        await until(lambda: "subscribed" in peer.types())
        peer.say({"type": "unsubscribe", "stream": "s", "tenant": "acme"})
        await until(lambda: "unsubscribed" in peer.types())
        assert room.core.quotas.is_full("acme")
        peer.connection.abort("gone")
        await gone(peer)
        assert not room.core.quotas.is_full("acme")

    play(scene())


# -- time -------------------------------------------------------------------------------------------------


def test_a_silent_client_is_pinged_and_cut_off_if_it_does_not_answer_though_it_is_written_to():
    async def scene() -> None:
        room = Room(websocket_pong_ms_max=500)
        living, dead = room.connect(heartbeat_ms=150), room.connect(heartbeat_ms=150)
        for peer in (living, dead):
            peer.say({"type": "subscribe", "stream": "s"})
        answered, seq = 0, 0
        while not dead.out.aborted:
            room.emit("s", range(seq, seq + 1))
            seq += 1
            pings = sum(frame.opcode is Opcode.PING for frame in living.heard())
            if pings > answered:
                answered = pings
                living.send(masked(Opcode.PONG, b""))
            await asyncio.sleep(0.02)
        assert answered >= 1
        await gone(dead)
        assert living.connection in room.core.clients

    play(scene())


def test_a_client_is_warned_before_its_token_ends_and_sent_away_when_it_does():
    async def scene() -> None:
        room = Room(access=AccessOptions(expiry_warning_ms=1_000))
        peer = room.connect()
        peer.say({"type": "subscribe", "stream": "s"})
        peer.connection.authorise(replace(ANYBODY, expires_s=time.time() + 2))
        await until(lambda: peer.out.half_closed or "reconnect" in peer.types())
        assert peer.types() == ["connected", "subscribed", "expiring", "reconnect"]
        assert peer.messages()[-1]["reason"] == "expired"
        assert peer.close_code() == 1008

    play(scene())


# -- events -----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_frames_of_any_size_are_read_by_a_client(size):
    reader = Protocol(CLIENT, max_size=None)
    reader.receive_data(text_frame(b"x" * size) + text_frame(b"after"))
    assert [len(frame.data) for frame in reader.events_received()] == [size, 5]


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
