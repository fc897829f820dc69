"""An edge in a process of its own, which a test can kill: ``python -m tests.support.edge_process JSON``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import structlog

from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry
from edge.access.options import AccessOptions
from edge.app import create_app
from edge.options import EdgeOptions
from edge.server import bind, run
from pipelines.extension import load
from schemas.kinds import JOB, KindTable
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class EdgeProcess:
    """Starts, kills and restarts one edge on one port."""

    kafka: KafkaOptions
    registry_url: str
    log: Path
    options: dict[str, Any] = field(default_factory=dict)
    """Those of the edge; ``kinds`` are some beside the built-in ones, by name: what differs from ``job``;
    ``pipelines`` is the folder of a user's agents, whose kinds it knows, too."""
    port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    token: str = ""
    """Brought along where the edge itself is looked at."""

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_address(self) -> str:
        """Host and port of its gRPC."""
        return f"127.0.0.1:{self.grpc_port}"

    def start(self, *, ready: bool = True) -> EdgeProcess:
        """Start it; wait until it answers, and until it is ready unless told otherwise."""
        arguments = {
            "bootstrap": self.kafka.bootstrap_servers,
            "prefix": self.kafka.topic_prefix,
            "registry": self.registry_url,
            "options": {"port": self.port, "grpc_port": self.grpc_port, **self.options},
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.edge_process", json.dumps(arguments)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self.wait_for("/readyz" if ready else "/healthz")
        return self

    def wait_for(self, path: str, status: int = 200, timeout_s: float = 60.0) -> httpx2.Response:
        """Ask until the answer has the status."""
        deadline = time.monotonic() + timeout_s
        last: object = "no answer"
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, f"the edge ended:\n{self.log.read_text()[-3000:]}"
            try:
                response = httpx2.get(self.url + path, trust_env=False, verify=False, timeout=10.0)
                if response.status_code == status:
                    return response
                last = response.text
            except httpx2.TransportError as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status}: {last}\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; give the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """End it whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def wait_for_low_offset(self, offset: int) -> None:
        """Wait until the edge knows that a partition of the output begins there: it looks once a second."""
        deadline = time.monotonic() + 30
        while self.metric("sluicegate_edge_tail_low_offset") < offset:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        text = httpx2.get(f"{self.url}/metrics", trust_env=False, verify=False, headers=headers).text
        found = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        assert found, f"no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in found)


def main() -> None:
    """Be the process."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    given = json.loads(sys.argv[1])
    access = {name: Path(value) if name.endswith("_file") else value
              for name, value in given["options"].pop("access", {}).items()}  # fmt: skip
    pipelines = given["options"].pop("pipelines", None)  # a folder with kinds of a user's own
    changed = given["options"].pop("kinds", {})
    kinds = with_changed(load(Path(pipelines) if pipelines else None).all_kinds(), changed)
    options = EdgeOptions(**given["options"], access=AccessOptions(**access)).checked()
    kafka = KafkaOptions(bootstrap_servers=given["bootstrap"], topic_prefix=given["prefix"])
    listening = bind(options.host, options.port)
    run(create_app(options, kafka, Registry(given["registry"]), kinds), listening)


def with_changed(kinds: KindTable, given: dict[str, dict[str, dict[str, Any]]]) -> KindTable:
    """Some kinds, and those that are ``job`` with other fields of some policies."""
    made = [
        replace(
            JOB,
            name=name,
            **{policy: replace(getattr(JOB, policy), **fields) for policy, fields in policies.items()},
        )
        for name, policies in given.items()
    ]
    return KindTable([*kinds, *made])


if __name__ == "__main__":
    main()
