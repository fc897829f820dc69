"""Several edges on one address: one that is killed is started anew, and its clients come back."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.support.edge_processes import edges
from tests.support.swarm import Swarm

if TYPE_CHECKING:
    from tests.support.edge_processes import EdgeProcesses
    from tests.support.ingest_twin import IngestTwin

__all__ = ["edges"]  # a fixture
CLIENTS = 20


def test_a_process_that_is_killed_is_started_anew_and_its_clients_come_back(
    edges: EdgeProcesses, twin: IngestTwin
):
    edges.wait_until_said("2 processes")
    stream = twin.open("kept")
    with Swarm([edges.port], ["kept"], CLIENTS) as swarm:
        swarm.until(lambda: swarm.have(1) == CLIENTS, "all of them connected")
        children = subprocess.run(
            ["pgrep", "-P", str(edges.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        subprocess.run(["kill", "-9", children[0]], check=True)
        edges.wait_until_said("is started anew")
        twin.end(stream)
        swarm.until(lambda: all(client.ended for client in swarm.clients), "the end seen by all of them")
        assert swarm.wrong() == {"holes": 0, "doubles": 0}
