"""Real sockets that stop reading, at real edges on Kafka: who is named, what is dropped, who is slowed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psutil
import pytest

from schemas.topics import CONNECTIONS
from schemas.wire import WireCodec
from tests.conftest import need_program
from tests.e2e.runbook_page import Page
from tests.integration.test_docs_pages import DOCS, run
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed
from tests.support.slow_clients import SlowSse, connections_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import IngestTwin, TwinStream

pytestmark = pytest.mark.timeout(240)
LINE_BYTES = 20_000
# They are to be found slow before they are given up as gone.
PATIENT = {"write_stall_ms_max": 200_000}


class Reader(SlowSse):
    """One client that reads when it is told to; what it does not read, the kernel holds little of."""

    def read_until(self, seq: int) -> list[dict[str, Any]]:
        """Read until an event of that seq has come; give all so far."""
        while (b'"seq":%d,' % seq) not in self.data[-20 * LINE_BYTES :] or not self.data.endswith(b"\n\n"):
            data = self.socket.recv(1 << 18)
            assert data, "the edge closed the connection"
            self.data += data
        return [json.loads(one) for one in re.findall(rb"^data: (.*)\n\n", self.data, re.MULTILINE)]


@pytest.fixture
def readers() -> Iterator[Callable[[EdgeProcess, str], Reader]]:
    made: list[Reader] = []

    def make(edge: EdgeProcess, stream_id: str) -> Reader:
        made.append(Reader(edge, stream_id))
        made[-1].read_until(0)
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


def write(twin: IngestTwin, stream: TwinStream, count: int, *readers: Reader) -> None:
    """Write events; who is to keep up reads along."""
    for _ in range(0, count, 50):
        twin.write(stream, [("log", {"line": "x" * LINE_BYTES})] * 50)
        for one in readers:
            one.read_until(stream.next_seq - 1)


def slow_at(edge: EdgeProcess) -> list[dict[str, Any]]:
    return connections_of(edge, "?slow=true")


@pytest.fixture
def line(stack, kafka_options, tmp_path) -> Iterator[CommandLine]:
    """Who looks after the edge, at a terminal."""
    need_program("curl")
    with CommandLine(tmp_path, stack, kafka_options) as line:
        line.environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        yield line


def shown_as_the_page_says(
    edge: EdgeProcess, slow: Sequence[Reader], quick: Reader, line: CommandLine
) -> None:
    """Who is slow stands first, and with ``--slow`` alone, as docs/backpressure.md shows it."""
    line.environment |= {"SLUICEGATE_EDGE__URL": edge.url, "EDGE": edge.url}
    page = Page("backpressure", (DOCS / "backpressure.md").read_text())
    shown = run(line, page.blocks["slow"])
    assert quick.peer not in shown
    assert all(shown.count(one.peer) == 2 for one in slow)  # by the command, and by the edge's own answer

    code, out, err = line.run("connections")
    assert (code, err) == (0, "")
    rows = [row.split()[0] for row in out.splitlines()[1:]]
    assert (set(rows[:3]), rows[3:]) == ({one.peer for one in slow}, [quick.peer])
    code, out, err = line.run("connections", "--limit", "1", "--json")
    (first,) = json.loads(out)["connections"]
    assert (code, err, first["peer"] in rows[:3], json.loads(out)["total"]) == (0, "", True, 4)


def post(edge: EdgeProcess, stream_id: str) -> httpx2.Response:
    return httpx2.post(
        f"{edge.url}/v1/streams/{stream_id}/events?kind=job",
        json={"type": "log", "payload": {"line": "one more"}},
        trust_env=False,
        verify=False,
        timeout=30,
    )


def test_who_stops_reading_is_named_costs_no_memory_and_is_told_what_it_missed(
    make_edge, twin, readers, kafka_options, registry, line
):
    stream = twin.open("session", kind="chat")  # drop_new, at most 1,000 events or 1 MiB behind
    edge = make_edge(**PATIENT)
    quick, *slow = (readers(edge, "session") for _ in range(4))

    write(twin, stream, 200, quick)
    assert [one["seq"] for one in quick.read_until(200)] == list(range(201))
    found = until(lambda: len(slow_at(edge)) == 3 and slow_at(edge))
    assert {one["peer"] for one in found} == {one.peer for one in slow}
    shown_as_the_page_says(edge, slow, quick, line)
    assert all((one["policy"], one["state"], one["kind"]) == ("drop_new", "paused", "chat") for one in found)
    assert all(one["paused_ms"] > 0 and one["bytes_behind"] > 1 << 20 for one in found)
    assert all(0 < one["bytes_pending"] < 600_000 for one in found)

    process = psutil.Process(edge.process.pid)
    before = process.memory_info().rss
    write(twin, stream, 1_000, quick)
    assert [one["seq"] for one in quick.read_until(1_200)] == list(range(1_201))
    pending = [one["bytes_pending"] for one in slow_at(edge)]
    assert pending == [one["bytes_pending"] for one in found]
    assert process.memory_info().rss - before < 1_000 * LINE_BYTES  # a third of what three would miss

    late = slow[0]
    seen = late.read_until(1_200)
    gap = seen[-1]
    (told_of,) = [one for one in connections_of(edge) if one["peer"] == late.peer]
    assert (told_of["gaps"], told_of["dropped"]) == (1, {"drop_new": gap["count"]})
    assert (told_of["events"], told_of["subject"]) == (len(seen) - 1, "")
    assert LINE_BYTES * (len(seen) - 2) < told_of["bytes"] < len(late.data)
    assert [one["seq"] for one in seen[:-1]] == list(range(gap["from_seq"]))
    assert (gap["type"], gap["reason"], gap["to_seq"]) == ("gap", "slow", 1_200)
    assert edge.metric("sluicegate_edge_slow_dropped_events_total") == gap["count"]
    write(twin, stream, 50, quick)
    assert [one["seq"] for one in late.read_until(1_250)[len(seen) :]] == list(range(1_201, 1_251))

    quick.socket.close()
    late.socket.close()
    until(lambda: edge.metric("sluicegate_edge_connections") == 2)
    wire = WireCodec(registry)

    def told(messages: list[Any]) -> list[dict[str, Any]]:
        return [wire.decode(one.value(), CONNECTIONS.subject) for one in messages]

    kept = told(
        read_committed(
            kafka_options,
            CONNECTIONS,
            lambda found: sum(one["action"] == "closed" for one in told(found)) == 2,
        )
    )
    assert {one["peer"] for one in kept if one["action"] == "opened"} == {
        quick.peer,
        *(one.peer for one in slow),
    }
    assert [
        (one["peer"], one["from_seq"], one["to_seq"], one["reason"]) for one in kept if one["action"] == "gap"
    ] == [(late.peer, gap["from_seq"], 1_200, "slow")]
    closed = {one["peer"]: one for one in kept if one["action"] == "closed"}
    assert [(one["gaps"], one["dropped"]) for one in map(closed.get, (quick.peer, late.peer)) if one] == [
        (0, 0),
        (1, gap["count"]),
    ]
    assert closed[late.peer]["events"] == len(seen) - 1 + 50
    assert {(one["reason"], one["seq"]) for one in closed.values()} == {("gone", 1_250)}
    assert closed[quick.peer]["events"] == 1_251
    assert closed[quick.peer]["bytes"] > 1_250 * LINE_BYTES > closed[late.peer]["bytes"]


def test_a_producer_gets_429_while_all_clients_of_all_edges_are_behind_and_flows_again_when_one_reads(
    make_edge, twin, readers, kafka_options, registered_schemas, tmp_path
):
    stream = twin.open("build", kind="job")  # slow_producer, at most 10,000 events or 8 MiB behind
    here, there = make_edge(**PATIENT), make_edge(**PATIENT)
    slow, other = readers(here, "build"), readers(there, "build")
    write(twin, stream, 600, other)
    until(lambda: slow_at(here) and slow_at(here)[0]["bytes_behind"] > 8 << 20)
    until(lambda: there.metric("sluicegate_edge_tail_lag_records") == 0)
    assert post(here, "build").status_code == 202  # one of two keeps up

    write(twin, stream, 500)
    refused = until(lambda: (answer := post(there, "build")).status_code == 429 and answer)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["code"] == "slowed"
    until(lambda: post(here, "build").status_code == 429)
    assert post(here, "elsewhere").status_code == 202

    other_seen = other.read_until(1_100)
    until(lambda: post(there, "build").status_code == 202)
    until(lambda: post(here, "build").status_code == 202)
    slow_seen = slow.read_until(1_100)
    for seen in (other_seen, slow_seen):
        assert [one["seq"] for one in seen] == list(range(1_101))
    for edge in (here, there):
        assert edge.metric("sluicegate_edge_slowed_streams_total") == 1
        assert edge.metric("sluicegate_edge_slowed_publishes_total") >= 1
        assert "slow_dropped_events_total{" not in edge.wait_for("/metrics").text
