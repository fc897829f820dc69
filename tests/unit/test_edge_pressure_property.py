"""Whatever clients do, and their kind says of it: what each is shown is contiguous or declared (I9)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import slowing
from tests.unit.support_pressure import KEY, Scene, backpressure, cursor_of, play, said, until

if TYPE_CHECKING:
    from tests.support.fake_transport import FakeTransport

CLIENTS = 3
somebody = st.integers(0, CLIENTS - 1)
some = st.integers(1, 40)
steps_taken = st.lists(
    st.one_of(
        st.tuples(st.just("fall_behind"), somebody, some),
        st.tuples(st.just("fall_behind"), somebody, some),
        st.tuples(
            st.sampled_from(["stall", "read_on", "kill", "come", "wait", "drain"]), somebody, st.just(0)
        ),
        st.tuples(st.just("emit"), st.just(0), some),
    ),
    min_size=5,
    max_size=40,
)


class Client:
    """Somebody who comes back with the cursor of what they took last, as often as it takes."""

    def __init__(self, edge: Scene) -> None:
        self._edge = edge
        self.outs: list[FakeTransport] = []
        self._counted = 0
        self.taken = b""
        self.come()

    @property
    def out(self) -> FakeTransport:
        return self.outs[-1]

    @property
    def has_end(self) -> bool:
        return any(one["type"] == "end" for one in said(self.taken + self._now()))

    def come(self) -> None:
        if self.outs and not self.out.is_closing():
            return
        self.taken += self._now()
        self._counted = len(self.outs)
        out = self._edge.connect(cursor_of(self.taken))
        if out is not None:
            self.outs.append(out)

    def is_through(self) -> bool:
        """Read on, and come back if need be; say whether there is nothing more to come."""
        self.read_on()
        self.come()
        return self.has_end and self.out.is_closing()

    def stall(self) -> None:
        """Read nothing more."""
        self.out.full = True

    def kill(self) -> None:
        """Gone in mid-stream: what was not taken yet is lost."""
        self.out.lose()

    def read_on(self) -> None:
        """Take what waits, and what comes."""
        if not self.out.is_closing():
            self.out.drain()

    def _now(self) -> bytes:
        """What was taken of this connection, without the piece of an event that the end left of it."""
        if self._counted == len(self.outs):
            return b""
        data = self.out.data
        took = data[: len(data) - self.out.get_write_buffer_size()]
        return took[: took.rfind(b"\n\n") + 2]


def check(client: Client, total: int) -> None:
    expected = 0
    for one in said(client.taken):
        if one["type"] == "gap":
            assert one["from_seq"] == expected
            assert one["count"] == one["to_seq"] + 1 - expected > 0
            assert one["reason"] == "slow"
            expected = one["to_seq"] + 1
        elif "seq" in one:
            assert one["seq"] == expected
            expected += 1
    assert expected == total


async def do(edge: Scene, clients: list[Client], name: str, number: int, count: int) -> None:
    """Take one step."""
    if name == "emit":
        edge.emit(count)
    elif name == "fall_behind":
        clients[number].come()
        await asyncio.sleep(0.006)
        clients[number].stall()
        edge.emit()
        await asyncio.sleep(0.006)  # a tick: it is written to, and takes nothing of it
        edge.emit(count)
    elif name == "wait":
        await asyncio.sleep(0.03)
    elif name == "drain":
        for connection in tuple(edge.core.clients):
            connection.send_away("drain")
    else:
        getattr(clients[number], name)()
    await asyncio.sleep(0)


def check_counters(edge: Scene, outs: list[FakeTransport]) -> None:
    """What was counted, and told to the topic, is what was written to all connections together."""
    shown = [one for out in outs for one in said(out.data)]
    missed = sum(one["count"] for one in shown if one["type"] == "gap")
    assert missed == edge.counted("slow_dropped_events_total")
    let_go = [one for one in shown if (one["type"], one.get("reason")) == ("reconnect", "slow")]
    assert len(let_go) <= edge.counted("slow_closed_total")
    told = edge.told.of("edge.connections.v1")
    assert sum(one["action"] in ("opened", "resumed") for one in told) == len(outs)
    assert sum(one["action"] == "closed" for one in told) == len(outs)
    assert sum(one["count"] for one in told if one["action"] == "gap") == missed
    assert edge.core.hub.followers == 0
    channel = edge.core.hub.get(KEY)
    assert channel is not None
    assert not channel.laggards


@pytest.mark.parametrize("policy", ["drop_old", "drop_new", "terminate", "slow_producer"])
def test_each_view_is_contiguous_or_declared_and_the_counters_say_what_was_told(policy):
    acted = []

    @settings(max_examples=30, deadline=None, derandomize=True)
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
        names = ("slow_dropped_events_total", "slow_closed_total", "slowed_streams_total")
        acted.append(any(edge.counted(name) for name in names))

    with patch.object(slowing, "TICK_S", 0.005), patch.object(slowing, "SETTLE_S", 0.005):
        holds()
    assert any(acted), "the policy was never tried"


async def performed(declared: Any, options: dict[str, int], steps: list[tuple[str, int, int]]) -> Scene:
    """Take the steps, have everybody read to the end, and check what they saw."""
    edge = Scene(declared, **options)
    edge.emit()
    clients = [Client(edge) for _ in range(CLIENTS)]
    for name, number, count in steps:
        await do(edge, clients, name, number, count)
    edge.emit(end=True)
    await until(lambda: sum(client.is_through() for client in clients) == CLIENTS)
    for client in clients:
        client.come()
        check(client, edge.next_seq)
    check_counters(edge, [out for client in clients for out in client.outs])
    return edge
