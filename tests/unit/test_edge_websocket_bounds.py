"""How fast and how much is heard of a WebSocket's client, and how long it may be silent."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import orjson
from websockets.frames import Opcode

from edge.access.identity import ANYBODY, Names
from edge.access.options import AccessOptions
from tests.unit.support_websocket import Message, Peer, Room, connect, gone, masked, play, until


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


def test_what_a_client_asked_for_before_it_left_counts_until_it_is_done_and_bounds_those_who_come():
    async def scene() -> None:
        room = Room(websocket_held_bytes_max=100_000)
        publish = {"type": "publish", "stream": "s", "events": [{"line": "x" * 30_000}]}
        for _ in range(3):
            peer = room.connect()
            peer.say(publish)
            await until(lambda peer=peer: peer.connection._conversation.under_way)
            peer.out.lose()
        assert room.share.held_bytes > 90_000
        late = room.connect()
        late.say(publish)
        assert late.close_code() == 1013
        room.publisher.gate.set()
        await until(lambda: room.share.held_bytes == 0)
        assert len(room.publisher.taken) == 4

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


def test_all_connections_together_follow_no_more_streams_than_there_are_places_for():
    async def scene() -> None:
        room = Room(websocket_streams_max=2)
        one, other = room.connect(), room.connect()
        one.say({"type": "subscribe", "stream": "s"})
        other.say({"type": "subscribe", "stream": "s"})
        await until(lambda: "subscribed" in one.types() and "subscribed" in other.types())
        one.say({"type": "subscribe", "id": 1, "stream": "t"})
        await until(lambda: "error" in one.types())
        refused = one.messages()[-1]
        assert (refused["code"], refused["status"], refused["id"]) == ("too_many_subscriptions", 503, 1)
        assert refused["retry_ms"] == 2_000
        assert room.core.metrics.limited.labels("subscriptions", "")._value.get() == 1
        other.connection.abort("gone")
        await gone(other)
        one.say({"type": "subscribe", "stream": "t"})
        await until(lambda: one.types().count("subscribed") == 2)

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


def test_a_client_that_sends_one_large_message_after_the_other_without_a_pause_is_in_time():
    """Whatever is read ends in the middle of a message: each has its own time, and not all of them one."""

    async def scene() -> None:
        peer = Room(request_read_ms_max=300).connect(heartbeat_ms=50)
        data = masked(Opcode.TEXT, orjson.dumps({"type": "ping", "id": "x" * 60}) + b" " * 12_000)
        peer.send(data[:6_000])
        for _ in range(10):
            await asyncio.sleep(0.1)
            peer.send(data[6_000:] + data[:6_000])
        assert not peer.out.half_closed
        assert peer.types().count("pong") == 10
        await until(lambda: peer.out.half_closed)
        assert peer.close_code() == 1008

    play(scene())
