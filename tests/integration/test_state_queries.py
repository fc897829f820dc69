"""State read by HTTP from two real workers: a key of the other one is found through either."""

from __future__ import annotations

import time

import httpx2
import pytest

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.owners import Owners
from schemas.payloads import PayloadCodec
from schemas.topics import INPUT, OUTPUT, partition_of
from schemas.wire import WireCodec
from tests.support.plain_streams import PlainStreams
from tests.support.ports import consecutive_ports
from tests.support.read_topic import read_committed
from tests.support.worker_process import WorkerProcess

STREAMS = 24
LINES = 3


def ask(port, store, key, *, follow=True, **query):
    quoted = key.replace("%", "%25").replace("/", "%2F")
    url = f"http://127.0.0.1:{port}/state/{store}/{quoted}"
    return httpx2.get(url, params=query, follow_redirects=follow, trust_env=False, verify=False, timeout=20)


def until(holds, what):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture
def workers(stack, kafka_options, topics, tmp_path):
    topics()
    first = consecutive_ports(4)
    started, ports = [], (first, first + 2)
    try:
        for number, port in enumerate(ports):
            folder = tmp_path / f"worker-{number}"
            worker = WorkerProcess(
                stack,
                kafka_options,
                folder,
                roles="ingest,aggregate",
                SLUICEGATE_WORKER__WEB_PORT=str(port),
            )
            started.append(worker)
        owners = Owners(kafka_options, f"{kafka_options.topic_prefix}sluicegate.ingest")
        everywhere = {f"127.0.0.1:{port}" for port in ports}

        def shared():
            found = {owners.of(source_of(kafka_options, partition)) for partition in range(INPUT.partitions)}
            return found == everywhere

        until(shared, "each worker has some partitions")
        for port in ports:
            until(lambda port=port: ready(port) and ready(port + 1), "both roles of both are ready")
        yield ports
    finally:
        for worker in started:
            worker.kill()


def source_of(kafka, partition):
    return SourcePartition(INPUT.named(kafka.topic_prefix), partition)


def ready(port):
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, verify=False).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.timeout(400)
def test_every_key_is_found_through_either_worker(kafka_options, registry, workers):
    codec, payloads = WireCodec(registry), PayloadCodec(registry)
    streams = PlainStreams(kafka_options, codec, payloads, streams=STREAMS)
    streams.open()
    streams.lines(LINES)
    streams.publish("usage", [{"provider": "north", "model": "m", "calls": 1}])
    assert len(read_committed(kafka_options, OUTPUT, STREAMS * (LINES + 2))) == STREAMS * (LINES + 2)

    sent_on = dict.fromkeys(workers, 0)
    for port in workers:
        for number in range(STREAMS):
            key = f"{streams.tenant}/s-{number}"
            answer = ask(port, "ingest", key)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert found["value"]["next_seq"] == LINES + 2
            assert (found["value"]["status"], found["key"]) == ("open", key)
            assert found["partition"] == partition_of(key.encode(), INPUT.partitions)
            sent_on[port] += bool(answer.history)
            if answer.history:
                plain = ask(port, "ingest", key, follow=False)
                assert plain.status_code == 307
                assert "redirected=1" in plain.headers["location"]
    assert sum(sent_on.values()) == STREAMS, "each key is one worker's own, and the other's to send on"
    assert all(sent_on.values())

    group = f"{streams.tenant}/log/north/m"

    def calls(port):
        windows = ask(port + 1, "usage_merge", group).json().get("value", [])
        return sum(window["calls"] for window in windows)

    for port in workers:
        until(lambda port=port: calls(port) == STREAMS, "the usage of all partitions is counted")

    one, _ = workers
    absent = ask(one, "ingest", "nobody/knows")
    assert (absent.status_code, absent.json()["error"]) == (404, "nothing is stored under that key")
    unknown = ask(one, "usage_merge", group)
    assert (unknown.status_code, unknown.json()["stores"]) == (404, ["ingest"])
    wrong = ask(one + 1, "usage_merge", "no-group")
    assert wrong.status_code == 400
    for path in ("ingest/%ff", "ingest/x%2Fy%C3", "%fe/x"):
        url = f"http://127.0.0.1:{one}/state/{path}"
        assert httpx2.get(url, trust_env=False, verify=False).status_code == 400, path
    host = {"host": "evil.example"}
    rebound = httpx2.get(
        f"http://127.0.0.1:{one}/state/ingest/x", headers=host, trust_env=False, verify=False
    )
    assert rebound.status_code == 421
