"""A rolling restart of two edges under 2,000 clients: nothing lost or doubled, and they come back spread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.edge_fixtures import make_edge, twin
from tests.support.swarm import Swarm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import IngestTwin

__all__ = ["make_edge", "twin"]
STREAMS = 2
CLIENTS = 2_000
DRAIN_MS = 2_000

pytestmark = pytest.mark.timeout(300)


def test_a_rolling_restart_loses_and_doubles_nothing_and_spreads_who_comes_back(
    make_edge: Callable[..., EdgeProcess], twin: IngestTwin
):
    edges = [make_edge(drain_ms=DRAIN_MS) for _ in range(2)]
    streams = [twin.open(f"s-{number}") for number in range(STREAMS)]
    paths = [f"/v1/streams/{stream.stream_id}/events" for stream in streams]
    stopping = threading.Event()

    def publish() -> None:
        while not stopping.wait(0.1):
            for stream in streams:
                twin.logs(stream, 3)

    publishing = threading.Thread(target=publish, daemon=True)
    with Swarm([edge.port for edge in edges], paths, CLIENTS) as swarm:
        swarm.until(lambda: swarm.connected == CLIENTS, "all of them connected")
        shares = [edge.metric("sluicegate_edge_connections") for edge in edges]
        assert min(shares) > CLIENTS / 4, "both edges have clients"
        publishing.start()
        sent_away = 0
        for edge, other in (edges, edges[::-1]):
            sent_away += int(edge.metric("sluicegate_edge_connections"))
            before = len(swarm.came_since(0))
            assert edge.terminate() == 0
            edge.start()
            swarm.until(lambda: swarm.connected == CLIENTS, "all of them back")
            came_s = swarm.came_since(0)[before:]
            assert len(came_s) >= CLIENTS / 4
            assert most_within(came_s, 0.5) < 0.6 * len(came_s), "they came back at one moment"
            assert other.metric("sluicegate_edge_connections") > 0
        stopping.set()
        publishing.join()
        for stream in streams:
            twin.end(stream)
        swarm.until(lambda: all(client.ended for client in swarm.clients), "the end seen by all of them")
        assert swarm.wrong() == {"holes": 0, "doubles": 0}
        assert sum(client.gaps for client in swarm.clients) == 0
        lengths = {stream.stream_id: stream.next_seq for stream in streams}
        assert all(client.expect == lengths[client.path.split("/")[3]] for client in swarm.clients)
        # No client was thrown out a second time: each restart moves its own clients once.
        assert sum(len(client.came_s) for client in swarm.clients) == CLIENTS + sent_away


def most_within(times_s: Sequence[float], window_s: float) -> int:
    """The largest number of these that lie within a window."""
    return max(sum(start <= at < start + window_s for at in times_s) for start in times_s)


def test_a_swarm_notices_what_it_is_there_to_notice():
    """The checker itself: a hole, a double and a gap, in bytes as an edge writes them."""
    from tests.support.swarm import Client, _Follower  # noqa: PLC0415

    def frame(seq: int, more: bytes = b"", type_name: bytes = b"log") -> bytes:
        return b'2a\r\nid: c%d\ndata: {"type":"%b","seq":%d%b}\n\n\r\n' % (seq, type_name, seq, more)

    client = Client("/")
    follower = _Follower(None, client)  # type: ignore[arg-type]  # it does not come back
    data = frame(0) + frame(1) + frame(1) + frame(4) + frame(9, b',"from_seq":5', b"gap") + frame(10)
    for at in range(len(data)):
        follower.data_received(data[at : at + 1])
    assert (client.holes, client.doubles, client.gaps) == (2, 1, 1)
    assert (client.expect, client.cursor) == (11, b"c10")
