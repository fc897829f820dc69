"""Several edges on one address: clients are spread, metrics are told together, restarts lose nobody."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.support.edge_process import ROOT, free_port
from tests.support.grpc_client import follow as follow_by_grpc
from tests.support.sse_client import read_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.ingest_twin import IngestTwin

CLIENTS = 24
GRPC_CLIENTS = 8


class Edges:
    def __init__(self, kafka, registry_url, folder):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "edges.log"
        env = {
            "PATH": "/usr/bin:/bin",
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
            "SLUICEGATE_KAFKA__CREATE_TOPICS": "false",
            "SLUICEGATE_REGISTRY__URL": registry_url,
            "SLUICEGATE_REGISTRY__REGISTER_SCHEMAS": "false",
            "SLUICEGATE_EDGE__DRAIN_MS": "1500",
            "SLUICEGATE_DATA_DIR": str(folder / "data"),
        }
        command = [sys.executable, "-m", "ops", "edge", "--port", str(self.port), "--processes", "2"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)

    @property
    def grpc_address(self) -> str:
        found = re.search(r"gRPC at (\S+?);", self.log.read_text())
        assert found
        return found[1]

    def wait_until_said(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 120
        while self.log.read_text().count(text) < times:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def metrics(self) -> str:
        return httpx2.get(f"{self.url}/metrics", trust_env=False, verify=False, timeout=30).text

    def connections(self) -> dict[str, float]:
        """Open connections by process."""
        found = re.findall(
            r'sluicegate_edge_connections\{process="(\d)",transport="sse"\} (\S+)', self.metrics()
        )
        return {process: float(value) for process, value in found}


@pytest.fixture
def edges(kafka_options, registered_schemas, twin, tmp_path) -> Iterator[Edges]:
    made = Edges(kafka_options, registered_schemas, tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def follow(edges: Edges, stream_id: str, seen: list[int], trouble: list[str]) -> None:
    """A client that comes back with its cursor until the stream has ended; notes each seq that it sees."""
    url, last_id = f"{edges.url}/v1/streams/{stream_id}/events", ""
    while edges.process.poll() is None:  # or a test that failed would leave it knocking for ever
        try:
            one = read_stream(url, last_id=last_id, timeout_s=120)
        except httpx2.TransportError as error:
            trouble.append(type(error).__name__)
            time.sleep(0.05)
            continue
        for event in one.events:
            if event["type"] == "gap":
                trouble.append("gap")
            if "seq" in event:
                seen.append(event["seq"])
        last_id = one.last_id or last_id
        if one.status == 204 or (seen and one.events and one.events[-1]["type"] == "end"):
            return
        time.sleep(0.05)


def test_a_rolling_restart_loses_and_doubles_nothing(edges: Edges, twin: IngestTwin):
    edges.wait_until_said("2 processes")
    stream = twin.open("rolled")
    views: list[list[int]] = [[] for _ in range(CLIENTS)]
    trouble: list[str] = []
    threads = [
        threading.Thread(target=follow, args=(edges, "rolled", view, trouble), daemon=True) for view in views
    ]
    over_grpc: list[list[int]] = [[] for _ in range(GRPC_CLIENTS)]
    sent_away: list[str] = []
    for view in over_grpc:
        args = (edges.grpc_address, "rolled", view, sent_away)
        threads.append(threading.Thread(target=follow_by_grpc, args=args, daemon=True))
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while sum((shares := edges.connections()).values()) < CLIENTS:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert set(shares) == {"0", "1"}
    assert all(shares.values()), f"the kernel gave all to one: {shares}"
    named = httpx2.get(f"{edges.url}/v1/connections", trust_env=False, verify=False, timeout=30).json()
    assert named["total"] == len(named["connections"])
    assert len({one["peer"] for one in named["connections"] if one["transport"] == "sse"}) == CLIENTS
    stop = threading.Event()
    count = [1]

    def publish() -> None:
        while not stop.is_set():
            twin.logs(stream, 1)
            count[0] += 1
            time.sleep(0.05)

    publishing = threading.Thread(target=publish, daemon=True)
    publishing.start()
    edges.process.send_signal(signal.SIGUSR1)
    edges.wait_until_said("is restarted", times=2)
    deadline = time.monotonic() + 120
    while sum(edges.connections().values()) < CLIENTS or len(edges.connections()) < 2:
        assert time.monotonic() < deadline, edges.log.read_text()
        time.sleep(0.2)
    stop.set()
    publishing.join()
    twin.end(stream)
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert all(view == list(range(count[0] + 1)) for view in views), trouble
    assert all(view == list(range(count[0] + 1)) for view in over_grpc), sent_away
    assert len(sent_away) >= GRPC_CLIENTS, "each process was restarted, so each of them was sent away"
    assert {told for told in sent_away if "(drain)" not in told} == set()
    assert "gap" not in trouble
    edges.process.send_signal(signal.SIGTERM)
    assert edges.process.wait(60) == 0


def test_a_process_that_is_killed_is_started_anew_and_its_clients_come_back(edges: Edges, twin: IngestTwin):
    edges.wait_until_said("2 processes")
    children = subprocess.run(
        ["pgrep", "-P", str(edges.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["kill", "-9", children[0]], check=True)
    edges.wait_until_said("is started anew")
    twin.end(twin.open("kept"))
    seen: list[int] = []
    follow(edges, "kept", seen, [])
    assert seen == [0, 1]
