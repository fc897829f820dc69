"""The policies of backpressure over a WebSocket, whose socket many streams share."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Protocol

from edge import slowing
from tests.unit.support_pressure import BOUND, KEY, Scene, backpressure, play, until
from tests.unit.support_websocket import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.support_websocket import Message, Peer

POLICIES = ["drop_old", "drop_new", "terminate", "slow_producer"]
STREAMS = ("s", "t")
MANY = 30


@asynccontextmanager
async def stalled(edge: Scene) -> AsyncIterator[Peer]:
    """A client that had all there was of ``s`` and of ``t``, and takes nothing more."""
    edge.open("t", "log")
    for stream in STREAMS:
        edge.emit(stream=stream)
    peer = await edge.follow(*STREAMS)
    peer.out.full = True
    edge.emit()
    await until(lambda: peer.connection.paused)
    yield peer
    peer.connection.abort("gone")
    await until(lambda: edge.core.connections == edge.core.hub.followers == 0)


def spans(peer: Peer, stream: str) -> list[tuple[int, int]]:
    """Each event that was written as the span of seqs that it stands for."""
    return [span_of(one["event"]) for one in events(peer, stream)]


def span_of(event: Message) -> tuple[int, int]:
    return (event["from_seq"], event["to_seq"]) if event["type"] == "gap" else (event["seq"], event["seq"])


def events(peer: Peer, stream: str) -> list[Message]:
    return [one for one in peer.messages() if one["type"] == "event" and one["stream"] == stream]


def gaps(peer: Peer, stream: str) -> list[tuple[int, int, str]]:
    found = [one["event"] for one in events(peer, stream) if one["event"]["type"] == "gap"]
    return [(gap["from_seq"], gap["to_seq"], gap["reason"]) for gap in found]


def contiguous(shown: list[tuple[int, int]], upto: int) -> bool:
    """Whether spans follow on each other from 0 on, to ``upto`` inclusive."""
    starts, ends = [first for first, _ in shown], [last for _, last in shown]
    return starts == [0, *(last + 1 for last in ends[:-1])] and ends[-1:] == [upto]


def told(peer: Peer) -> list[Message]:
    return [one for one in peer.messages() if one["type"] == "reconnect"]


@pytest.mark.parametrize("ring", [4, 1_000])
@pytest.mark.parametrize("policy", ["drop_old", "drop_new"])
def test_one_that_falls_behind_in_a_stream_is_told_what_it_missed_of_that_one_alone(policy, ring):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=ring)
        async with stalled(edge) as peer:
            edge.emit(50)
            edge.emit(MANY, stream="t")
            present = edge.next_seq
            peer.out.drain()
            await until(lambda: gaps(peer, "s"))
            edge.emit()
            await until(lambda: contiguous(spans(peer, "s"), present))
            await until(lambda: peer.seqs("t") == list(range(MANY + 1)))
            missed = (2, present - BOUND - 1) if policy == "drop_old" else (2 + BOUND, present - 1)
            assert gaps(peer, "s") == [(*missed, "slow")]
            of_it = {"policy": policy, "kind": "job", "transport": "websocket"}
            dropped = edge.counted("slow_dropped_events_total", **of_it)
            assert dropped == present - BOUND - 2 == edge.counted("slow_dropped_events_total")

    play(scene())


@pytest.mark.parametrize("policy", POLICIES)
def test_one_within_its_bound_misses_nothing(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=4)
        async with stalled(edge) as peer:
            edge.emit(BOUND)
            edge.emit(MANY, stream="t")
            peer.out.drain()
            await until(lambda: peer.seqs("s") == list(range(edge.next_seq)))
            await until(lambda: peer.seqs("t") == list(range(MANY + 1)))
            assert told(peer) == []

    play(scene())


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_stalled_client_pins_is_one_write_however_much_comes(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=4)
        async with stalled(edge) as peer:
            pinned, writes = peer.out.get_write_buffer_size(), len(peer.out.written)
            for stream in STREAMS:
                edge.emit(5_000, stream=stream)
            assert (peer.out.get_write_buffer_size(), len(peer.out.written)) == (pinned, writes)

    play(scene())


def test_terminate_ends_one_subscription_and_the_others_flow_on():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"), ring_events_max=4)
        async with stalled(edge) as peer:
            edge.emit(BOUND)
            assert edge.counted("slow_closed_total") == 0
            edge.emit()
            assert edge.counted("slow_closed_total", kind="job", transport="websocket") == 1
            assert edge.core.hub.followers == 1, "what is let go costs nothing more"
            (closed,) = edge.told.of("edge.connections.v1", action="closed")
            assert (closed["stream_id"], closed["reason"], closed["seq"]) == ("s", "slow", 1)
            edge.emit(MANY, stream="t")
            peer.out.drain()
            await until(lambda: peer.seqs("t") == list(range(MANY + 1)))
            (away,) = told(peer)
            assert {**away, "retry_ms": 0} == {
                "type": "reconnect", "tenant": "default", "stream": "s", "reason": "slow", "retry_ms": 0,
                "cursor": events(peer, "s")[-1]["cursor"],
            }  # fmt: skip
            said = peer.messages()
            assert said.index(away) < said.index(events(peer, "t")[1]), "it is told first"
            peer.say({"type": "subscribe", "stream": "s", "cursor": away["cursor"]})
            await until(lambda: peer.seqs("s") == list(range(edge.next_seq)))
            edge.emit()
            await until(lambda: peer.seqs("s") == list(range(edge.next_seq)))
            assert edge.told.of("edge.connections.v1", action="resumed", stream_id="s")

    play(scene())


def test_a_subscription_that_was_given_nothing_begins_anew_at_the_first_event():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"))
        edge.open("t", "log")
        peer = await edge.follow(*STREAMS)
        peer.out.full = True
        edge.emit(stream="t")
        await until(lambda: peer.connection.paused)
        edge.emit(BOUND + 1)
        peer.out.drain()
        (away,) = told(peer)
        assert "cursor" not in away
        peer.say({"type": "subscribe", "stream": "s"})
        await until(lambda: peer.seqs("s") == list(range(BOUND + 1)))

    play(scene())


def test_a_tenant_has_its_place_back_when_its_only_stream_was_let_go():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"), tenant_connections_max=1)
        edge.emit()
        peer = await edge.follow("s")
        assert edge.core.quotas.is_full("default")
        peer.out.full = True
        edge.emit()
        await until(lambda: peer.connection.paused)
        edge.emit(BOUND + 1)
        peer.out.drain()
        assert [one["stream"] for one in told(peer)] == ["s"]
        assert not edge.core.quotas.is_full("default")

    play(scene())


def test_one_that_never_reads_is_aborted_with_all_of_its_streams_as_it_was_let_go_from_one():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"), write_stall_ms_max=300)
        async with stalled(edge) as peer:
            edge.emit(BOUND + 1)
            await until(peer.out.is_closing)
            await until(lambda: edge.core.connections == 0)
            assert peer.out.aborted
            assert edge.core.metrics.closed.labels("websocket", "slow")._value.get() == 1
            closed = edge.told.of("edge.connections.v1", action="closed")
            assert {one["stream_id"]: one["reason"] for one in closed} == {"s": "slow", "t": "slow"}

    play(scene())


def test_an_edge_that_stops_sends_away_the_connection_and_tells_of_none_of_its_streams():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"))
        async with stalled(edge) as peer:
            edge.emit(BOUND + 1)
            peer.connection.send_away("drain")
            peer.out.drain()
            assert [("stream" in one, one["reason"]) for one in told(peer)] == [(False, "drain")]

    play(scene())


@pytest.mark.parametrize("then", ["drop_old", "drop_new", "terminate"])
def test_after_its_longest_stall_the_producer_goes_on_and_who_is_behind_is_dealt_with(then, monkeypatch):
    monkeypatch.setattr(slowing, "TICK_S", 0.01)
    monkeypatch.setattr(slowing, "SETTLE_S", 0.05)

    async def scene() -> None:
        edge = Scene(backpressure("slow_producer", stall_ms_max=100, then=then), ring_events_max=4)
        async with stalled(edge) as peer:
            edge.emit(5 * BOUND)
            await until(lambda: edge.core.slowing.of(KEY) is not None)
            await until(lambda: edge.core.slowing.of(KEY) is None)
            edge.emit(MANY, stream="t")
            peer.out.drain()
            await until(lambda: peer.seqs("t") == list(range(MANY + 1)))
            if then == "terminate":
                assert [one["stream"] for one in told(peer)] == ["s"]
                assert edge.counted("slow_closed_total", policy=then, transport="websocket") == 1
                return
            await until(lambda: gaps(peer, "s"))
            owed, first = 4 * BOUND, 2 if then == "drop_old" else 2 + BOUND
            assert gaps(peer, "s") == [(first, first + owed - 1, "slow")]
            assert edge.counted("slow_dropped_events_total", policy=then, transport="websocket") == owed

    play(scene())


class Client:
    """Follows both streams, and comes back for each with the cursor of what it took of it last."""

    def __init__(self, edge: Scene) -> None:
        self._edge = edge
        self.shown: dict[str, list[tuple[int, int]]] = {stream: [] for stream in STREAMS}
        self._cursors = dict.fromkeys(STREAMS, "")
        self.come()

    def come(self) -> None:
        """Connect, and subscribe to all."""
        self.peer = connect(self._edge.share)
        self._reader, self._taken = Protocol(CLIENT, max_size=None), 0
        self._unasked = set(STREAMS)

    async def leave(self) -> None:
        """Gone in mid-stream: what was not taken yet is lost."""
        self.take()
        self.peer.out.abort()
        await until(lambda: self.peer.connection not in self._edge.core.clients)
        self.come()

    def take(self) -> None:
        """Take what waits, and ask for the streams that are not given any more."""
        out = self.peer.out
        taken = len(out.data) - out.get_write_buffer_size()
        self._reader.receive_data(out.data[self._taken : taken])
        self._taken = taken
        for frame in self._reader.events_received():
            if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
                self._hear(json.loads(frame.data))
        if out.reading and self._unasked:
            ask = [{"type": "subscribe", "stream": one, "cursor": self._cursors[one]} for one in STREAMS]
            self.peer.say(*(one for one in ask if one["stream"] in self._unasked))
            self._unasked.clear()

    def _hear(self, message: Message) -> None:
        stream = message.get("stream", "")
        if message["type"] == "event":
            assert stream not in self._unasked, "nothing of a stream comes after its subscription was ended"
            self.shown[stream].append(span_of(message["event"]))
            self._cursors[stream] = message["cursor"]
        elif message["type"] == "reconnect":
            assert message.get("cursor", "") == self._cursors[stream]
            self._unasked.add(stream)
        else:
            assert message["type"] in ("connected", "subscribed"), message


somewhere = st.sampled_from(STREAMS)


@pytest.mark.parametrize("policy", POLICIES)
def test_whatever_a_client_does_its_view_of_each_stream_is_contiguous_or_declared(policy):
    acted = []

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(
        then=st.sampled_from(["drop_old", "drop_new", "terminate"]),
        steps=st.lists(
            st.one_of(
                st.tuples(st.just("emit"), somewhere, st.integers(1, 40)),
                st.tuples(st.just("fall_behind"), somewhere, st.integers(1, 40)),
                st.tuples(st.sampled_from(["stall", "read", "leave", "wait"]), st.just(""), st.just(0)),
            ),
            min_size=5,
            max_size=30,
        ),
    )
    def holds(then: str, steps: list[tuple[str, str, int]]) -> None:
        edge = play(performed(backpressure(policy, then=then, stall_ms_max=20), steps))
        names = ("slow_dropped_events_total", "slow_closed_total", "slowed_streams_total")
        acted.append(any(edge.counted(name) for name in names))

    with patch.object(slowing, "TICK_S", 0.005), patch.object(slowing, "SETTLE_S", 0.005):
        holds()
    assert any(acted), "the policy was never tried"


async def performed(declared: Any, steps: list[tuple[str, str, int]]) -> Scene:
    """Take the steps, read to the end, and check what was seen."""
    edge = Scene(declared, ring_events_max=6, websocket_messages_per_s_max=100_000)
    edge.open("t", "job")
    client = Client(edge)
    for name, stream, count in steps:
        client.take()
        if name == "emit":
            edge.emit(count, stream=stream)
        elif name == "fall_behind":
            await asyncio.sleep(0.006)
            client.peer.out.full = True
            edge.emit(stream=stream)
            await asyncio.sleep(0.006)  # a tick: it is written to, and takes nothing of it
            edge.emit(count, stream=stream)
        elif name == "stall":
            client.peer.out.full = True
        elif name == "read":
            client.peer.out.drain()
        elif name == "leave":
            await client.leave()
        await asyncio.sleep(0.03 if name == "wait" else 0.001)
    for stream in STREAMS:
        edge.emit(stream=stream)

    def has_all() -> bool:
        client.peer.out.drain()
        client.take()
        return all(contiguous(client.shown[one], edge.next_seqs[one] - 1) for one in STREAMS)

    await until(has_all)
    client.peer.connection.abort("gone")
    await until(lambda: edge.core.hub.followers == 0)
    return edge
