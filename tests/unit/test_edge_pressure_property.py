"""Whatever clients do, and their kind says of it: what each is shown is contiguous or declared (I9)."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import slowing
from tests.unit.support_pressure import Scene, backpressure, key_of, play, until
from tests.unit.support_views import START, GrpcClient, Place, SseClient, View, strangers
from tests.unit.support_views_websocket import WebSocketClient

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.unit.support_views import Client

STREAMS = ("s", "t")
CLIENTS = 3
somebody = st.integers(0, CLIENTS - 1)
some = st.integers(1, 40)
steps_taken = st.lists(
    st.one_of(
        st.tuples(st.just("fall_behind"), somebody, some),
        st.tuples(st.just("fall_behind"), somebody, some),
        st.tuples(
            st.sampled_from(["stall", "read_on", "kill", "come", "wait", "drain", "give_back"]),
            somebody,
            st.just(0),
        ),
        st.tuples(st.sampled_from(["go_back", "lie"]), somebody, st.integers(0, 1_000)),
        st.tuples(st.just("emit"), st.integers(0, len(STREAMS) - 1), some),
        st.tuples(st.just("reopen"), st.integers(0, len(STREAMS) - 1), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


class Crowd:
    """One client a transport: two follow a stream, the third follows it and another one."""

    def __init__(self, edge: Scene) -> None:
        self.edge = edge
        self.seen: dict[str, list[Place]] = {stream: [] for stream in STREAMS}
        """Places of everybody who was shown a stream, for anybody to come back to."""
        self.clients: Sequence[Client] = (
            SseClient(edge, self._view("s")),
            GrpcClient(edge, self._view("s")),
            WebSocketClient(edge, [self._view(stream) for stream in STREAMS]),
        )

    def _view(self, stream: str) -> View:
        return View(stream, self.seen[stream], self.edge.lives)

    async def do(self, name: str, number: int, count: int) -> None:
        """Take one step."""
        client = self.clients[number]
        if name in ("emit", "reopen"):
            self._emit(name, STREAMS[number], count)
        elif name == "fall_behind":
            await self._fall_behind(client, count)
        elif name == "wait":
            await asyncio.sleep(0.03)
        elif name in ("drain", "give_back"):
            getattr(self, f"_{name}")()
        elif name == "come":
            await client.come()
        elif name == "go_back":
            view = client.views[count % len(client.views)]
            places = [START, *self.seen[view.stream]]
            await client.go_to(view, places[count % len(places)])
        elif name == "lie":
            stream = client.views[0].stream
            lies = strangers(self.seen[stream][0].cursor) if self.seen[stream] else ["nonsense"]
            await client.lie(stream, lies[count % len(lies)])
        else:
            getattr(client, name)()
        await asyncio.sleep(0)
        for each in self.clients:
            each.take()

    def _emit(self, name: str, stream: str, count: int) -> None:
        if name == "emit":
            self.edge.emit(count, stream=stream)
        else:
            self.edge.reopen(stream)

    def _drain(self) -> None:
        for connection in tuple(self.edge.core.clients):
            connection.send_away("drain")

    def _give_back(self) -> None:
        for connection in self.edge.core.clients:
            for delivery in connection.deliveries if connection.paused else ():
                delivery.give_back()

    async def _fall_behind(self, client: Client, count: int) -> None:
        await client.come()
        await asyncio.sleep(0.006)
        client.stall()
        for times in (1, count):
            for view in client.views:
                self.edge.emit(times, stream=view.stream)
            await asyncio.sleep(0.006)  # a tick: it is written to, and takes nothing of it

    async def read_to_the_end(self) -> None:
        """Have everybody read on, and come back if need be, until there is nothing more to come."""
        behind = list(self.clients)
        while behind:
            for client in behind:
                client.read_on()
                client.take()
            behind = [client for client in behind if not client.through]
            for client in behind:
                await client.come()
            await asyncio.sleep(0.005)
        for client in self.clients:
            for view in client.views:
                assert view.place.next_seq == self.edge.next_seqs[view.stream]
            await client.comes_in_vain()
        await until(lambda: not self.edge.core.clients)


CAME, GONE = ("opened", "resumed"), ("closed",)


def _is(told: Mapping[str, Any], via: str, *actions: str) -> bool:
    return told["transport"] == via and told["action"] in actions


def check_counters(edge: Scene, clients: Sequence[Client]) -> None:
    """What was counted, and told to the topic, is what was written to all connections together."""
    told = edge.told.of("edge.connections.v1")
    for client in clients:
        via, shown = client.transport, client.written()
        missed = sum(one["count"] for one in shown if one["type"] == "gap" and one["reason"] == "slow")
        dropped = edge.counted("slow_dropped_events_total", transport=via)
        # A call that is cancelled may take a gap with it that gRPC never had.
        assert missed <= dropped if via == "grpc" else missed == dropped
        gaps = [one for one in told if _is(one, via, "gap") and one["reason"] == "slow"]
        assert sum(one["count"] for one in gaps) == dropped
        let_go = [one for one in shown if (one["type"], one.get("reason")) == ("reconnect", "slow")]
        assert len(let_go) <= edge.counted("slow_closed_total", transport=via)
        came, gone = (sum(_is(one, via, *actions) for one in told) for actions in (CAME, GONE))
        assert came == gone > 0
    assert edge.core.hub.followers == 0
    for stream in STREAMS:
        channel = edge.core.hub.get(key_of(stream))
        assert channel is None or not channel.laggards


@pytest.mark.parametrize("policy", ["drop_old", "drop_new", "terminate", "slow_producer"])
def test_each_view_is_contiguous_or_declared_and_the_counters_say_what_was_told(policy):
    acted = Counter()

    @settings(max_examples=60, deadline=None)
    @given(
        then=st.sampled_from(["drop_old", "drop_new", "terminate"]),
        by_bytes=st.booleans(),
        ring=st.sampled_from([1, 3, 30, 1_000]),
        write_bytes=st.sampled_from([1, 20_000]),
        steps=steps_taken,
    )
    def holds(then, by_bytes, ring, write_bytes, steps) -> None:
        bounds = {"behind_events_max": 10_000, "behind_bytes_max": 100} if by_bytes else {}
        declared = backpressure(policy, then=then, stall_ms_max=20, **bounds)
        options = {"ring_events_max": ring, "write_bytes_max": write_bytes}
        edge = play(performed(declared, options, steps))
        for name in ("slow_dropped_events_total", "slow_closed_total"):
            acted.update(via for via in ("sse", "grpc", "websocket") if edge.counted(name, transport=via))
        acted["slowed"] += edge.counted("slowed_streams_total") > 0

    with patch.object(slowing, "TICK_S", 0.005), patch.object(slowing, "SETTLE_S", 0.005):
        holds()
    tried = ["slowed"] if policy == "slow_producer" else ["sse", "grpc", "websocket"]
    assert all(acted[name] for name in tried), f"the policy was never tried: {acted}"


async def performed(declared: Any, options: dict[str, int], steps: list[tuple[str, int, int]]) -> Scene:
    """Take the steps, have everybody read to the end, and check what they saw."""
    edge = Scene(declared, websocket_messages_per_s_max=1_000_000, **options)
    edge.open("t", "job")
    crowd = Crowd(edge)
    for stream in STREAMS:
        edge.emit(stream=stream)
    for client in crowd.clients:
        await client.come()
    for name, number, count in steps:
        await crowd.do(name, number, count)
    for stream in STREAMS:
        edge.emit(end=True, stream=stream)
    await crowd.read_to_the_end()
    check_counters(edge, crowd.clients)
    return edge
