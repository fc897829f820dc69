"""An edge with keys in a process, its issuer, and what tests of access ask of it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx2
import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry
from schemas.topics import AUDIT
from tests.support.edge_fixtures import EDGE_TOPICS
from tests.support.edge_process import EdgeProcess
from tests.support.ingest_twin import IngestTwin
from tests.support.ports import free_port
from tests.support.tokens import ALL, ISSUER, Issuer, keys_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ops.stack.addresses import Addresses


@dataclass
class World:
    """One edge with keys, for all tests that need no other: each has streams and tenants of its own."""

    edge: EdgeProcess
    twin: IngestTwin
    issuer: Issuer
    kafka: KafkaOptions

    @property
    def grpc_target(self) -> str:
        """Where its gRPC is."""
        return f"127.0.0.1:{self.edge.options['grpc_port']}"


@pytest.fixture(scope="module")
def world(
    stack: Addresses, registered_schemas: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    kafka = KafkaOptions(stack.kafka, topic_prefix=f"t{uuid4().hex[:10]}.", client_id="test-access")
    ensure_topics(kafka, (*EDGE_TOPICS, AUDIT))
    issuer, folder = Issuer(), tmp_path_factory.mktemp("access")
    with closing(IngestTwin(kafka, Registry(registered_schemas))) as twin:
        access = {
            "keys_file": str(keys_file(folder, issuer)),
            "issuer": ISSUER,
            "leeway_ms": 0,
            "expiry_warning_ms": 1_500,
            "cookie": "sluice",
        }
        options = {
            "access": access,
            "cors_origins": ["https://app.test"],
            "header_read_ms_max": 1_500,
            "grpc_port": free_port(),
        }
        edge = EdgeProcess(kafka, registered_schemas, folder / "edge.log", options, token=issuer.token(**ALL))
        try:
            yield World(edge.start(), twin, issuer, kafka)
        finally:
            edge.stop()
        log = edge.log.read_text()
        assert issuer.made
        assert not [token for token in issuer.made if any(part in log for part in token.split(".")[1:])]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def get(edge: EdgeProcess, path: str, token: str = "", **headers: str) -> httpx2.Response:
    sent = {**({} if not token else bearer(token)), **{n.replace("_", "-"): v for n, v in headers.items()}}
    return httpx2.get(edge.url + path, trust_env=False, verify=False, headers=sent)


def post(edge: EdgeProcess, path: str, token: str = "", **headers: str) -> httpx2.Response:
    body = "{}" if path.partition("?")[0].endswith("/cancel") else '{"type": "open", "payload": {}}'
    sent = {"content-type": "application/json", **({} if not token else bearer(token)), **headers}
    return httpx2.post(edge.url + path, content=body, headers=sent, trust_env=False, verify=False)


def wait_for_connections(edge: EdgeProcess, count: int) -> None:
    deadline = time.monotonic() + 30
    while edge.metric("sluicegate_edge_connections") != count:
        assert time.monotonic() < deadline, "the connections did not come, or did not go"
        time.sleep(0.05)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
