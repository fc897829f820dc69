"""The machinery of ``make bench-edge`` on real parts, as small as it goes: checks must be able to fail."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks.edge import fanout, resume, stalled
from benchmarks.edge.asked import Asked
from benchmarks.edge.bench import EdgeBench
from benchmarks.edge.generator import Clients, NoGo, program
from benchmarks.edge.kinds.policies import KINDS
from benchmarks.edge.servers import CONTENDERS, Edge
from benchmarks.edge.steady import Load

if TYPE_CHECKING:
    from ops.settings import Settings


@pytest.fixture(scope="module")
def settings(stack_settings, tmp_path_factory) -> Settings:
    """Settings whose load generator is built."""
    settings = stack_settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("bench-edge")})
    try:
        program(settings)
    except NoGo as error:
        pytest.skip(str(error))
    return settings


@pytest.fixture
def bench(stack, settings) -> EdgeBench:
    """A call with a hundredth of the clients and of the history, and a second of load."""
    return EdgeBench(stack, settings, Asked(seconds=1, size=0.01))


def test_a_load_is_counted_event_by_event_at_each_client_of_the_edge(bench):
    edge = CONTENDERS[0]
    with edge.make(bench, edge.name, edge.slug) as server:
        line = fanout.at(bench, server, "at a rate", subscribers=20, rate=50, p99_ms_max=10_000)
    assert (line.verified, line.note) == (True, "")
    assert line.row()["events_per_s"] == pytest.approx(50, rel=0.3)
    assert line.delivered_per_s == pytest.approx(20 * line.row()["events_per_s"], rel=0.2)
    # Ours counts its writes itself: each client's reads are as many, or fewer where two came in one.
    assert line.writes_per_s >= line.row()["reads_per_s"] > 0
    assert {"name", "work", "subscribers", "writes_per_s", "p50_ms", "p99_ms", "rss_kb_per_connection"} < set(
        line.row()
    )


def test_an_event_that_is_missing_is_found(bench):
    edge = CONTENDERS[0]
    with (
        edge.make(bench, edge.name, edge.slug) as server,
        Clients(bench.settings, server.port, server.path, 5, first_seq=0) as clients,
    ):
        clients.ready(30)
        load = Load(server, clients)
        assert load.settle()
        assert load.hold(20, 0.5).complete

        send = server.send
        server.send = lambda stream, seq: None if seq == 15 else send(stream, seq)
        held = load.hold(20, 0.5)
    assert not held.complete
    # The edge finds the hole by seq, and tells each client of it.
    assert held.found.declared + held.found.gaps == 5


def test_clients_that_come_back_into_a_long_history_lose_nothing_and_share_the_reads(bench, monkeypatch):
    bench = replace(bench, asked=Asked(seconds=1, size=0.02))
    monkeypatch.setattr(resume, "BEHIND", 400_000)  # 8,000 of 20,000: more than an edge reads at its start
    line = resume.measure(bench)
    assert line.verified
    assert line.delivered_per_s > 0
    assert 0 < line.row()["kafka_reads"] <= line.row()["kafka_reads_max"]
    assert 0 < line.row()["first_byte_ms"]["p50"] <= line.row()["first_byte_ms"]["p99"]
    monkeypatch.setattr(resume, "READS_A_SPAN_MAX", 0)
    assert not resume.measure(bench).verified, "more reads than may be were not found"


def test_each_policy_counts_what_its_clients_were_told_and_one_that_counts_otherwise_is_found(
    bench, monkeypatch
):
    monkeypatch.setattr(stalled, "RATE", 1_000.0)
    monkeypatch.setattr(stalled, "WARM_S", 0.2)
    planted = replace(KINDS[0], backpressure=KINDS[1].backpressure)  # it is said to be drop_new, and is not
    monkeypatch.setattr(stalled, "KINDS", (*KINDS, planted))
    with Edge(bench, "edge", "stalled", kinds=[kind.name for kind in stalled.KINDS]) as server:
        for number, kind in enumerate(KINDS):
            alone, beside = stalled.of_policy(bench, server, number)
            assert (alone.verified, beside.verified, beside.note) == (True, True, ""), kind.name
            assert {"p99_ratio", "rss_growth_mb", "rss_growth_mb_max", "counters"} < set(beside.row())
        _, beside = stalled.of_policy(bench, server, len(KINDS))
    assert not beside.verified
    assert 'policy="drop_new"' in beside.note


ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"d\r\nretry: 1000\n\n\r\n"
)
FIRST = b'id: a\ndata: {"type":"log","seq":0,"line":"@1 x"}\n\n'
TWICE = b'data: {"type":"log","seq":0,"line":"@1 x"}\r\n\r\n'
LATER = b'data: {"type":"log","seq":2,"line":"@1 x"}\n\n'


def test_the_clients_take_answers_apart_wherever_they_are_cut(settings):
    wire = ANSWER + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in (FIRST, TWICE, LATER))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        done = threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(4_096)
                for place in range(len(wire)):
                    connection.sendall(wire[place : place + 1])
                done.wait(30)

        threading.Thread(target=serve, daemon=True).start()
        with Clients(settings, port, "/", 1, first_seq=0) as clients:
            found = clients.until(lambda found: found.next_min == 3, 30)
            done.set()
    assert (found.events, found.gaps, found.doubles, found.ready) == (2, 1, 1, 1)
    assert not found.contiguous
