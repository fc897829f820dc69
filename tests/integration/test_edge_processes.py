"""Several edges on one address: one that is killed is started anew, and its clients come back."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.edge_processes import edges
from tests.support.swarm import Swarm

if TYPE_CHECKING:
    from tests.support.edge_processes import EdgeProcesses
    from tests.support.ingest_twin import IngestTwin

__all__ = ["edges"]  # a fixture
CLIENTS = 20
BOUND = {"SLUICEGATE_EDGE__TENANT_CONNECTIONS_MAX": str(2 * CLIENTS)}


def taken(edges: EdgeProcesses, coming: int) -> int:
    """How many of so many more clients are given the stream, and not told to come back."""
    count = 0
    with ExitStack() as sockets:
        for _ in range(coming):
            client = sockets.enter_context(socket.create_connection(("127.0.0.1", edges.port), 30))
            client.sendall(b"GET /v1/streams/kept/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said = b""
            while not (b'"type":"open"' in said or b'"reason":"overload"' in said):
                data = client.recv(65_536)
                assert data, said
                said += data
            count += b'"type":"open"' in said
    return count


@pytest.mark.parametrize("edges", [BOUND], indirect=True, ids=["bounded"])
def test_a_process_that_is_killed_is_started_anew_and_its_clients_come_back(
    edges: EdgeProcesses, twin: IngestTwin
):
    edges.wait_until_said("2 processes")
    stream = twin.open("kept")
    with Swarm([edges.port], ["kept"], CLIENTS) as swarm:
        swarm.until(lambda: swarm.have(1) == CLIENTS, "all of them connected")
        assert taken(edges, 4 * CLIENTS) == CLIENTS, "both together give the tenant its bound, and no more"
        children = subprocess.run(
            ["pgrep", "-P", str(edges.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        subprocess.run(["kill", "-USR1", children[1]], check=True)
        edges.wait_until_said("send it to the parent of these processes")
        subprocess.run(["kill", "-9", children[0]], check=True)
        edges.wait_until_said("is started anew")
        twin.end(stream)
        swarm.until(lambda: all(client.ended for client in swarm.clients), "the end seen by all of them")
        assert swarm.wrong() == {"holes": 0, "doubles": 0}
