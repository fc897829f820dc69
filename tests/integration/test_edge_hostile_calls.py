"""Calls of gRPC by the hundred that a client never finishes, or never reads: memory is level, and given back.

gRPC's own core holds what it was sent and what it was given to send, so the process is looked at as a whole:
in the first rounds it comes to what it may hold, and in those after them no further. What was held goes back
to the allocator, and serves the next flood: all are at one process.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from schemas.proto.sluicegate.v1.stream_pb2 import WatchRequest
from tests.support.http2_client import Http2Client, message
from tests.support.ports import free_port
from tests.support.shown_edge import ShownEdge, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
ROUNDS, PLATEAU = 6, 3  # level by the sixth of 14 rounds: what the allocator keeps of the first
CONNECTIONS = 2
SERVICE = "/sluicegate.v1.StreamService"
PUBLISHING_MAX = 16  # of which one connection has a quarter
CALLS = 150
UNREAD = message(WatchRequest(stream_id="one").SerializeToString())
HELD_BYTES_MAX = 80 * MIB
"""A third of what is sent, or may be sent, in a round."""
LEVEL_BYTES = 16 * MIB
"""By how much later rounds may be above the first: what waits for a collection, and leftovers."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Iterator[ShownEdge]:
    log = tmp_path_factory.mktemp("calls") / "edge.log"
    options = {"grpc_port": free_port(), "write_stall_ms_max": 1_000, "publishing_max": PUBLISHING_MAX}
    with ShownEdge(log, options, lines=400) as running:
        assert is_serving(running)
        yield running


def is_serving(edge: ShownEdge) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{edge.options['grpc_port']}") as channel:
        asked = health_pb2.HealthCheckRequest(service=SERVICE.removeprefix("/"))
        answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=60)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def counted(edge: ShownEdge, metric: str) -> float:
    said = edge.said(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").decode()
    found = [line for line in said.splitlines() if line.startswith(metric + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def never_whole(clients: Sequence[Http2Client], method: str) -> None:
    """All but the last byte of a mebibyte, to each of many calls."""
    begun = message(bytes(MIB - 1), size=MIB)
    for client in clients:
        for _ in range(CALLS):
            client.call(method, begun)
        client.send()


def never_read(edge: ShownEdge, clients: Sequence[Http2Client]) -> None:
    """Watches whose window is closed; they are given up, and yet their clients stay."""
    given_up = 'sluicegate_edge_connections_closed_total{reason="stalled",transport="grpc"}'
    before = counted(edge, given_up)
    for client in clients:
        for _ in range(CALLS):
            client.call(f"{SERVICE}/Watch", UNREAD, whole=True)
    until(lambda: counted(edge, given_up) == before + CALLS * len(clients), "all of them given up")


FLOODS: dict[str, Callable[[ShownEdge, Sequence[Http2Client]], None]] = {
    "requests that are never whole": lambda _, clients: never_whole(clients, f"{SERVICE}/Publish"),
    "checks that are never whole": lambda _, clients: never_whole(clients, "/grpc.health.v1.Health/Check"),
    "answers that are never read": never_read,
}


@contextmanager
def highest(edge: ShownEdge) -> Iterator[list[int]]:
    """Bytes of the process at their highest, in one item, once it is over."""
    over, found = threading.Event(), [edge.rss_bytes]

    def look() -> None:
        while not over.wait(0.02):
            found[0] = max(found[0], edge.rss_bytes)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    yield found
    over.set()
    looking.join()


@pytest.mark.parametrize("what", FLOODS)
def test_calls_without_an_end_are_held_within_a_bound_and_cost_no_more_from_round_to_round(edge, what):
    before_bytes, held = edge.rss_bytes, list[int]()
    for _ in range(ROUNDS):
        clients = [Http2Client(edge.options["grpc_port"], window=0) for _ in range(CONNECTIONS)]
        with highest(edge) as found:
            FLOODS[what](edge, clients)
            assert is_serving(edge), "others are answered meanwhile"
        held.append(found[0] - before_bytes)
        for client in clients:
            client.close()
        until(lambda: edge.sockets == 0, "every connection let go of")
    assert max(held) < HELD_BYTES_MAX, held
    assert max(held[PLATEAU:]) - max(held[:PLATEAU]) < LEVEL_BYTES, held
    log = edge.log.read_text()
    assert "Traceback" not in log, log[-3_000:]
    assert "call_failed" not in log, log[-3_000:]
