"""Several edges on one address, as ``sluicegate edge --processes`` runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.support.edge_process import ROOT
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from tests.support.ingest_twin import IngestTwin

DRAIN_MS = 2_000


@pytest.fixture
def edges(
    request: pytest.FixtureRequest,
    kafka_options: KafkaOptions,
    registered_schemas: str,
    twin: IngestTwin,
    tmp_path: Path,
) -> Iterator[EdgeProcesses]:
    made = EdgeProcesses(kafka_options, registered_schemas, tmp_path, getattr(request, "param", {}))
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


class EdgeProcesses:
    """Two of them, and the parent that starts and restarts them."""

    def __init__(
        self, kafka: KafkaOptions, registry_url: str, folder: Path, settings: Mapping[str, str]
    ) -> None:
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
            "SLUICEGATE_EDGE__DRAIN_MS": str(DRAIN_MS),
            "SLUICEGATE_DATA_DIR": str(folder / "data"),
            **settings,
        }
        command = [sys.executable, "-m", "ops", "edge", "--port", str(self.port), "--processes", "2"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)

    @property
    def grpc_port(self) -> int:
        """The port of its gRPC, once it said so."""
        found = re.search(r"gRPC at \S+:(\d+);", self.log.read_text())
        assert found
        return int(found[1])

    def wait_until_said(self, text: str, times: int = 1) -> None:
        """Wait for the parent's word."""
        deadline = time.monotonic() + 120
        while self.log.read_text().count(text) < times:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def get(self, path: str) -> httpx2.Response:
        """Ask one of them, whichever it is."""
        return httpx2.get(self.url + path, trust_env=False, verify=False, timeout=30)

    def connections(self, transport: str = r"\w+") -> Counter[str]:
        """Open connections by process."""
        line = rf'sluicegate_edge_connections\{{process="(\d)",transport="{transport}"\}} (\S+)'
        found: Counter[str] = Counter()
        for process, value in re.findall(line, self.get("/metrics").text):
            found[process] += int(float(value))
        return found
