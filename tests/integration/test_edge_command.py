"""`sluicegate edge` as a process: what it refuses, how it is found, how it lets its clients go."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import takewhile
from typing import TYPE_CHECKING

import httpx2
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from schemas.topics import INPUT, PRESSURE, REJECTS, TOPICS
from tests.support.sse_client import read_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connectors.kafka.options import KafkaOptions

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def environment(stack, topic_prefix, tmp_path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")},
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": stack.kafka,
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "SLUICEGATE_REGISTRY__URL": stack.registry_url,
        "SLUICEGATE_DATA_DIR": str(tmp_path / "data"),
        "SLUICEGATE_EDGE__PORT": "0",
    }


def sluicegate(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ops", *words],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def edge(environment, tmp_path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = sluicegate(environment, "edge")
    file = tmp_path / "data" / "edge.json"
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            url = json.loads(file.read_text())["url"]
            if httpx2.get(f"{url}/readyz", trust_env=False, verify=False).status_code == 200:
                break
        except (OSError, httpx2.TransportError):
            pass
        time.sleep(0.1)
    yield process, url
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_one_that_makes_no_topics_does_not_start_without_them_and_names_all(
    environment: dict[str, str], topics: Callable[..., object], topic_prefix: str, registered_schemas: str
):
    topics(*(spec for spec in TOPICS if spec not in (REJECTS, PRESSURE)))
    told = {"SLUICEGATE_KAFKA__CREATE_TOPICS": "false", "SLUICEGATE_REGISTRY__REGISTER_SCHEMAS": "false"}
    process = sluicegate(environment | told, "edge")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    names = ", ".join(sorted(spec.named(topic_prefix) for spec in (REJECTS, PRESSURE)))
    assert f"there is no topic {names}" in said
    assert "sluicegate topics create" in said


def test_one_that_makes_topics_tells_which_are_not_as_they_are_declared(
    environment: dict[str, str], kafka_options: KafkaOptions
):
    name = REJECTS.named(kafka_options.topic_prefix)
    other = NewTopic(name, REJECTS.partitions, config=REJECTS.config() | {"retention.ms": "3600000"})
    admin = AdminClient(kafka_options.client_config())
    admin.create_topics([other])[name].result(20)
    process = sluicegate(environment, "edge")
    assert process.stderr is not None
    said = takewhile(lambda line: "edge at" not in line, process.stderr)
    told = [json.loads(line)["what"] for line in said if "topic differs from its declaration" in line]
    process.kill()
    process.communicate()
    assert len(told) == 1
    assert told[0].startswith(f"topic {name} has retention.ms=3600000")


def test_it_leaves_its_address_where_commands_find_it_and_takes_it_away(edge, environment, tmp_path):
    process, url = edge
    file = tmp_path / "data" / "edge.json"
    left = json.loads(file.read_text())
    grpc_address = left.pop("grpc")
    assert left == {"url": url, "pid": process.pid}
    assert url.startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGUSR1)  # a rolling restart, which one process alone cannot have
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not file.exists()
    _, said = process.communicate()
    assert "a rolling restart needs several processes: sluicegate edge --processes 2" in said
    assert f"edge at {url}/console, gRPC at {grpc_address}" in said


@pytest.mark.parametrize(
    ("changed", "words", "code", "said"),
    [
        ({}, ("--host", "0.0.0.0"), 1, "the edge does not bind 0.0.0.0"),
        ({"SLUICEGATE_EDGE__HOST": "::"}, (), 1, "the edge does not bind ::"),
        ({"SLUICEGATE_EDGE__PORT": "99999"}, (), 2, "SLUICEGATE_EDGE__PORT"),
        (
            {"SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"},
            (),
            3,
            "Kafka at 127.0.0.1:1 cannot be reached",
        ),
        (
            {"SLUICEGATE_REGISTRY__URL": "http://127.0.0.1:1/x"},
            (),
            3,
            "registry at http://127.0.0.1:1/x cannot",
        ),
        ({"SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": ""}, (), 3, "no local stack runs"),
    ],
)
def test_what_is_wrong_at_start_is_named_once_with_what_to_do(
    environment, tmp_path, changed, words, code, said
):
    settings = {name: value for name, value in {**environment, **changed}.items() if value}
    process = sluicegate(settings, "edge", *words)
    _, text = process.communicate(timeout=60)
    assert (process.returncode, said in text) == (code, True), text
    assert "→" in text
    assert "Traceback" not in text
    assert not (tmp_path / "data" / "edge.json").exists()


def test_a_port_in_use_is_named_and_the_one_that_has_it_keeps_its_address(edge, environment, tmp_path):
    _, url = edge
    left = json.loads((tmp_path / "data" / "edge.json").read_text())
    ports = {"--port": url.rpartition(":")[2], "--grpc-port": left["grpc"].rpartition(":")[2]}
    for option, port in ports.items():
        second = sluicegate(environment, "edge", option, port)
        _, text = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in text
        assert f"choose another ({option}," in text
    assert json.loads((tmp_path / "data" / "edge.json").read_text())["url"] == url


def test_at_sigterm_clients_are_sent_away_spread_out_and_the_process_ends_with_0(make_edge, twin):
    stream = twin.open("long", kind="job")
    twin.logs(stream, 5)
    edge = make_edge(drain_ms=8_000)
    left: list[float] = []

    def watch(_: int) -> object:
        seen = read_stream(f"{edge.url}/v1/streams/long/events")
        left.append(time.monotonic())
        return seen

    with ThreadPoolExecutor(31) as pool:
        watching = [pool.submit(watch, n) for n in range(30)]
        deadline = time.monotonic() + 30
        while edge.metric("sluicegate_edge_connections") < 30 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert edge.process is not None
        edge.process.send_signal(signal.SIGTERM)
        not_ready = edge.wait_for("/readyz", 503)
        late = read_stream(f"{edge.url}/v1/streams/long/events")
        assert edge.process.wait(60) == 0
        seen = [one.result() for one in watching]
    assert not_ready.json()["causes"][0]["cause"] == "draining"
    assert (late.status, late.events[0]["type"], late.ids) == (200, "reconnect", [""])
    for one in seen:
        assert [event["type"] for event in one.events] == ["open", *["log"] * 5, "reconnect"]
        assert (one.events[-1]["reason"], one.ids[-1], one.closed) == ("drain", "", True)
        assert 1_000 <= one.retries[-1] <= 2_000
    assert len({one.retries[-1] for one in seen}) > 20
    assert max(left) - min(left) > 0.5
    # With another edge in its place they come back with the cursor they had, to nothing lost or doubled.
    twin.end(stream)
    edge.start()
    assert read_stream(f"{edge.url}/v1/streams/long/events", last_id=seen[0].last_id).seqs == [6]


def test_a_second_signal_ends_it_at_once(make_edge, twin):
    twin.open("long", kind="job")
    edge = make_edge(drain_ms=60_000)
    with ExitStack() as clients:
        for _ in range(20):  # one alone may be sent away before the second signal comes, and with it all
            idle = clients.enter_context(socket.create_connection(("127.0.0.1", edge.port)))
            idle.sendall(b"GET /v1/streams/long/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in idle.recv(1_000)
        assert edge.process is not None
        edge.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert edge.process.poll() is None
        started = time.monotonic()
        assert edge.terminate() == 0
    assert time.monotonic() - started < 30
    assert "Traceback" not in edge.log.read_text()


def test_a_client_that_leaves_is_noticed_and_costs_nothing_more(make_edge, twin):
    twin.open("quiet", kind="job")
    edge = make_edge()
    for _ in range(20):
        read_stream(f"{edge.url}/v1/streams/quiet/events", until=lambda seen: len(seen.events) == 1)
    deadline = time.monotonic() + 30
    while edge.metric("sluicegate_edge_connections") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert edge.metric("sluicegate_edge_connections") == 0
    text = httpx2.get(f"{edge.url}/metrics", trust_env=False, verify=False).text
    assert 'sluicegate_edge_connections_closed_total{reason="gone",transport="sse"} 20.0' in text
    assert twin.records(INPUT) == [], "who leaves cancels nothing"


def test_a_client_over_the_limit_is_asked_to_come_back_in_words_that_a_browser_survives(make_edge, twin):
    twin.open("full", kind="job")
    edge = make_edge(connections_max=2)
    url = f"{edge.url}/v1/streams/full/events"
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(read_stream, url, until=lambda seen: len(seen.events) == 2) for _ in range(2)]
        while edge.metric("sluicegate_edge_connections") < 2:
            time.sleep(0.02)
        refused = read_stream(url)
        twin.end(twin.stream("full"))
        for one in held:
            assert len(one.result().events) == 2
    assert (refused.status, refused.events[0]["type"], refused.events[0]["reason"]) == (
        200,
        "reconnect",
        "overload",
    )
    assert refused.retries[0] >= 2_000


def test_metrics_are_of_this_edge_alone_and_named_after_it(make_edge, twin):
    stream = twin.open("m", kind="job")
    twin.end(stream)
    edge = make_edge()
    read_stream(f"{edge.url}/v1/streams/m/events")
    text = httpx2.get(f"{edge.url}/metrics", trust_env=False, verify=False).text
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and line[0] != "#"}
    assert all(name.startswith("sluicegate_edge_") for name in names)
    assert edge.metric("sluicegate_edge_delivered_events_total") == 2
    assert edge.metric("sluicegate_edge_ready") == 1
    deadline = time.monotonic() + 60
    while edge.metric("sluicegate_edge_tail_lag_records"):  # as of the latest look, which comes each second
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_client_that_stops_reading_is_given_up_after_the_stall_bound_and_others_are_not_held_up(
    make_edge, twin
):
    edge = make_edge(write_stall_ms_max=1_000)
    stream = twin.open("heavy")
    with socket.create_connection(("127.0.0.1", edge.port)) as deaf, ThreadPoolExecutor(1) as pool:
        deaf.sendall(b"GET /v1/streams/heavy/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        good = pool.submit(read_stream, f"{edge.url}/v1/streams/heavy/events")
        for _ in range(20):
            twin.write(stream, [("log", {"line": "x" * 8_000}) for _ in range(100)])
        twin.end(stream)
        assert good.result().seqs == list(range(2_002))
        deadline = time.monotonic() + 60
        while edge.metric("sluicegate_edge_connections") and time.monotonic() < deadline:
            time.sleep(0.05)
        text = httpx2.get(f"{edge.url}/metrics", trust_env=False, verify=False).text
    assert 'sluicegate_edge_connections_closed_total{reason="stalled",transport="sse"} 1.0' in text
    assert edge.metric("sluicegate_edge_connections") == 0
