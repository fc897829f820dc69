"""A rolling restart under clients of every transport: nothing lost or doubled, and they go spread."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.edge_fixtures import make_edge, twin
from tests.support.edge_processes import DRAIN_MS, edges
from tests.support.swarm import Client, Swarm, View
from tests.support.swarm_followers import SocketFollower, SseFollower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.edge_process import EdgeProcess
    from tests.support.edge_processes import EdgeProcesses
    from tests.support.ingest_twin import IngestTwin, TwinStream
    from tests.support.swarm import Transport

__all__ = ["edges", "make_edge", "twin"]  # fixtures
STREAMS = 2
MANY: Mapping[Transport, int] = {"sse": 2_000, "websocket": 300, "grpc": 100}
FEWER: Mapping[Transport, int] = {"sse": 600, "websocket": 150, "grpc": 50}

pytestmark = pytest.mark.timeout(300)


def opened(twin: IngestTwin) -> list[TwinStream]:
    return [twin.open(f"s-{number}") for number in range(STREAMS)]


@contextmanager
def flowing(twin: IngestTwin, streams: Sequence[TwinStream]) -> Iterator[None]:
    """Events come all the time."""
    stopping = threading.Event()

    def publish() -> None:
        while not stopping.wait(0.2):
            for stream in streams:
                twin.logs(stream, 3)

    publishing = threading.Thread(target=publish, daemon=True)
    publishing.start()
    try:
        yield
    finally:
        stopping.set()
        publishing.join()


@contextmanager
def swarm_at(
    ports: Sequence[int],
    grpc_ports: Sequence[int],
    streams: Sequence[TwinStream],
    counts: Mapping[Transport, int],
) -> Iterator[Swarm]:
    """Clients of every transport, all of them connected and shown something."""
    names = [stream.stream_id for stream in streams]
    sockets, watchers = counts["websocket"], counts["grpc"]
    with Swarm(
        ports, names, counts["sse"], sockets=sockets, watchers=watchers, grpc_ports=grpc_ports
    ) as swarm:
        swarm.until(lambda: swarm.have(1) == len(swarm.clients), "all of them connected")
        yield swarm


def check_spread(swarm: Swarm, since_s: float, until_s: float, counts: Mapping[Transport, int]) -> None:
    """Those whom a restart sent away went one after the other, whatever they were connected over.

    An edge says goodbye within the first 0.6 of its ``drain_ms``: so four fifths of its clients take 0.48 of
    it to go, and those who are told at one moment no time. When they come back is their own dice, too.
    """
    for transport, count in counts.items():
        left_s = swarm.left_between(since_s, until_s, transport)
        assert len(left_s) >= count / 5, f"{transport}: few were sent away"
        tenth = len(left_s) // 10
        took_s = left_s[-1 - tenth] - left_s[tenth]
        assert took_s >= 0.3 * DRAIN_MS / 1_000, f"{transport}: sent away at one moment, in {took_s:.2f} s"


def check_views(swarm: Swarm, twin: IngestTwin, streams: Sequence[TwinStream]) -> None:
    """Each has seen each event of its streams once, and no gap had to be declared."""
    for stream in streams:
        twin.end(stream)
    swarm.until(lambda: all(client.ended for client in swarm.clients), "the end seen by all of them")
    assert swarm.wrong() == {"holes": 0, "doubles": 0}
    assert sum(view.gaps for view in swarm.views) == 0
    assert [client.trouble for client in swarm.clients if client.trouble] == []
    lengths = {stream.stream_id: stream.next_seq for stream in streams}
    assert all(view.expect == lengths[view.stream] for view in swarm.views)


def test_two_edges_restarted_in_turn_lose_and_double_nothing_and_spread_who_goes(
    make_edge: Callable[..., EdgeProcess], twin: IngestTwin
):
    pair = [make_edge(drain_ms=DRAIN_MS) for _ in range(2)]
    streams = opened(twin)
    ports, grpc_ports = [edge.port for edge in pair], [edge.grpc_port for edge in pair]
    with swarm_at(ports, grpc_ports, streams, MANY) as swarm:
        clients = len(swarm.clients)
        with flowing(twin, streams):
            shares = [edge.metric("sluicegate_edge_connections") for edge in pair]
            assert min(shares) > clients / 4, "both edges have clients"
            sent_away = 0
            for edge, other in (pair, pair[::-1]):
                sent_away += int(edge.metric("sluicegate_edge_connections"))
                since_s = time.monotonic()
                assert edge.terminate() == 0
                edge.start()
                swarm.until(lambda: swarm.connected == clients, "all of them back")
                check_spread(swarm, since_s, time.monotonic(), MANY)
                assert other.metric("sluicegate_edge_connections") > 0
        check_views(swarm, twin, streams)
        # No client was thrown out a second time: each restart moves its own clients once.
        assert sum(len(client.came_s) for client in swarm.clients) == clients + sent_away


def test_two_processes_of_one_address_restarted_in_turn_do_the_same(edges: EdgeProcesses, twin: IngestTwin):
    edges.wait_until_said("2 processes")
    streams = opened(twin)
    with swarm_at([edges.port], [edges.grpc_port], streams, FEWER) as swarm:
        clients = len(swarm.clients)
        with flowing(twin, streams):
            for transport in FEWER:
                shares = edges.connections(transport)
                assert set(shares) == {"0", "1"}
                assert all(shares.values()), f"the kernel gave all of {transport} to one: {shares}"
            named = edges.get("/v1/connections?limit=1000").json()
            assert named["total"] == clients + FEWER["websocket"] * (STREAMS - 1)
            peers = {one["peer"] for one in named["connections"] if one["transport"] == "sse"}
            assert len(peers) == sum(one["transport"] == "sse" for one in named["connections"]) > 0
            first_s = time.monotonic()
            edges.process.send_signal(signal.SIGUSR1)
            edges.wait_until_said("is restarted", times=2)
            second_s = time.monotonic()
            check_spread(swarm, first_s, second_s, FEWER)
            swarm.until(lambda: edges.connections().total() == clients, "all of them with the first")
            swarm.until(lambda: len(edges.connections()) == 2, "the second process there again")
            swarm.until(lambda: swarm.connected == clients, "all of them back")
            check_spread(swarm, second_s, time.monotonic(), FEWER)
        check_views(swarm, twin, streams)
        assert max(len(client.came_s) for client in swarm.clients) <= 3, "more than once a restart"
    edges.process.send_signal(signal.SIGTERM)
    assert edges.process.wait(60) == 0


def test_a_swarm_notices_what_it_is_there_to_notice():
    """The checker itself: a hole, a double and a gap, in bytes as an edge writes them."""

    def fields(seq: int, more: bytes, type_name: bytes) -> bytes:
        return b'{"type":"%b","seq":%d%b}' % (type_name, seq, more)

    def frame(seq: int, more: bytes = b"", type_name: bytes = b"log") -> bytes:
        return b"2a\r\nid: c%d\ndata: %b\n\n\r\n" % (seq, fields(seq, more, type_name))

    def message(seq: int, more: bytes = b"", type_name: bytes = b"log") -> bytes:
        event = fields(seq, more + b',"line":"%b"' % (b"x" * 200), type_name)
        text = b'{"type":"event","tenant":"default","stream":"s","cursor":"c%d","event":%b}' % (seq, event)
        return b"\x81\x7e" + len(text).to_bytes(2) + text

    upgraded = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    for follow, make, head in ((SseFollower, frame, b""), (SocketFollower, message, upgraded)):
        view = View("s")
        follower = follow(None, Client("sse", [view]))  # type: ignore[arg-type]  # it does not come back
        told = make(0) + make(1) + make(1) + make(4) + make(9, b',"from_seq":5', b"gap") + make(10)
        for byte in head + told:
            follower.data_received(bytes([byte]))
        assert (view.holes, view.doubles, view.gaps) == (2, 1, 1)
        assert (view.expect, view.cursor) == (11, b"c10")
