"""What comes over a WebSocket, well formed or not: read in any pieces, answered by code, held no longer."""

from __future__ import annotations

import asyncio
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Opcode
from websockets.protocol import CLIENT, Protocol

from edge.messages import text_frame
from tests.unit.support_websocket import Peer, Room, gone, masked, play, until


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


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_frames_of_any_size_are_read_by_a_client(size):
    reader = Protocol(CLIENT, max_size=None)
    reader.receive_data(text_frame(b"x" * size) + text_frame(b"after"))
    assert [len(frame.data) for frame in reader.events_received()] == [size, 5]


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
