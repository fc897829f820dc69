"""Kafka or the registry goes away under a running edge: clients stay, and lose nothing."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import psutil
import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry
from ops.settings import KafkaSettings, PostgresSettings, RegistrySettings, Settings, StackSettings
from ops.stack.down import down
from ops.stack.state import read_state
from ops.stack.up import ensure_up
from tests.support.edge_fixtures import EDGE_TOPICS
from tests.support.edge_process import EdgeProcess
from tests.support.ingest_twin import IngestTwin
from tests.support.ports import free_port
from tests.support.sse_client import Seen, read_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory) -> Iterator[Settings]:
    """Kafka and a registry of this module's own, that may be killed."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("own-stack"),
        kafka=KafkaSettings(),
        registry=RegistrySettings(),
        postgres=PostgresSettings(dsn="postgresql://none"),  # given, so none is started
        stack=StackSettings(kafka_port=free_port(), registry_port=free_port()),
    )
    ensure_up(settings)
    yield settings
    down(settings)


@pytest.fixture
def running(own_stack, topic_prefix, tmp_path) -> Iterator[tuple[EdgeProcess, IngestTwin]]:
    addresses = ensure_up(own_stack)
    kafka = KafkaOptions(addresses.kafka, topic_prefix)
    ensure_topics(kafka, EDGE_TOPICS)
    registry = Registry(addresses.registry_url)
    registry.register_all()
    twin = IngestTwin(kafka, registry)
    edge = EdgeProcess(
        kafka, addresses.registry_url, tmp_path / "edge.log",
        {"tail_recent_records": 0, "ring_events_max": 5, "idle_heartbeat_ms": 400},
    )  # fmt: skip
    edge.start()
    yield edge, twin
    edge.stop()
    twin.close()


def kill_part(settings: Settings, part: str) -> None:
    process = psutil.Process(read_state(settings.data_dir.absolute())[part].process.pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=20)


def publish(edge: EdgeProcess, event: dict[str, Any]) -> httpx2.Response:
    url = f"{edge.url}/v1/streams/s/events?kind=log"
    return httpx2.post(url, json=event, trust_env=False, verify=False, timeout=60)


def test_clients_stay_through_an_outage_of_kafka_and_get_everything_after_it(own_stack, running):
    edge, twin = running
    stream = twin.open("s")
    twin.logs(stream, 200)
    url = f"{edge.url}/v1/streams/s/events"
    cursors = read_stream(url, until=lambda seen: len(seen.events) == 201).ids
    with ThreadPoolExecutor(3) as pool:
        live = pool.submit(read_stream, url, last_id=cursors[-1], timeout_s=200)
        idle = pool.submit(
            read_stream, f"{edge.url}/v1/streams/unborn/events", until=lambda seen: bool(seen.events),
            timeout_s=200,
        )  # fmt: skip
        while edge.metric("sluicegate_edge_connections") < 2:
            time.sleep(0.05)
        kill_part(own_stack, "kafka")
        not_ready = edge.wait_for("/readyz", 503)
        causes = not_ready.json()["causes"]
        assert causes[0]["cause"] == "source"
        assert "Kafka at" in causes[0]["detail"]
        assert edge.wait_for("/healthz").status_code == 200
        # Who comes now is not turned away either, though what it asks for cannot be read yet.
        comes = pool.submit(read_stream, url, last_id=cursors[20], timeout_s=200)
        refused = publish(edge, {"type": "log", "payload": {"line": "x"}})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "Send the same request again" in refused.json()["remedy"]
        time.sleep(2)
        assert not any(one.done() for one in (live, idle, comes))
        assert edge.metric("sluicegate_edge_connections") == 3
        ensure_up(own_stack)
        edge.wait_for("/readyz", timeout_s=60)
        twin.logs(stream, 50)
        twin.end(stream)
        twin.end(twin.open("unborn"))
        assert live.result().seqs == list(range(201, 252))
        assert comes.result().seqs == list(range(21, 252))
        waited: Seen = idle.result()
    assert waited.comments >= 5, "an idle connection is kept alive through the outage"
    assert publish(edge, {"type": "log", "payload": {"line": "x"}}).status_code == 202
    assert edge.metric("sluicegate_edge_gaps_total") == 0


def test_with_the_registry_away_known_types_flow_and_what_is_new_waits_for_it(own_stack, running):
    edge, twin = running
    url = f"{edge.url}/v1/streams/s/events"
    stream = twin.open("s")
    twin.logs(stream, 1)
    kill_part(own_stack, "registry")
    twin.logs(stream, 5)
    assert read_stream(url, until=lambda seen: len(seen.events) == 7).seqs == list(range(7))
    assert (
        publish(edge, {"type": "state", "payload": {"name": "phase", "value_json": "1"}}).status_code == 202
    )
    refused = publish(edge, {"type": "brandnew", "payload": {}})
    assert refused.status_code == 503
    assert "registry" in refused.json()["detail"]
    assert "nothing was appended" in refused.json()["detail"]
    assert edge.wait_for("/readyz").status_code == 200, "it does without the registry once it is warm"
    # An edge that starts now knows no schema: it says so, turns nobody away for good, and mends itself.
    edge.kill()
    edge.start(ready=False)
    causes = edge.wait_for("/readyz", 503).json()["causes"]
    assert "registry" in [one["cause"] for one in causes]
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(read_stream, url, until=lambda seen: len(seen.events) == 7)
        ensure_up(own_stack)
        edge.wait_for("/readyz", timeout_s=60)
        told = early.result()
    assert told.seqs == list(range(7)) or told.events[-1]["reason"] == "unready"
    assert read_stream(url, until=lambda seen: len(seen.events) == 7).seqs == list(range(7))
    assert publish(edge, {"type": "brandnew", "payload": {}}).status_code == 422
