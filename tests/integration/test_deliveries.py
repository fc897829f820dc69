"""How streams were delivered, from a real edge by Kafka into PostgreSQL: each once, whoever is killed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import psycopg
import pytest

from connectors.postgres.claim import Batch
from connectors.postgres.deliveries import delivered
from schemas.cursor import Cursor
from schemas.topics import CONNECTIONS, RECORDS
from tests.e2e.runbook_page import Page
from tests.integration.postgres_case import Database, stream
from tests.integration.test_docs_pages import DOCS, run
from tests.support.command_line import CommandLine
from tests.support.own_database import own_database
from tests.support.read_topic import read_committed
from tests.support.sse_client import Seen, read_stream
from tests.support.ws_client import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(240)
MINUTE_US, DAY_US = 60_000_000, 86_400_000_000


@pytest.fixture
def line(stack, kafka_options, topic_prefix, tmp_path) -> Iterator[CommandLine]:
    name = f"deliveries_{topic_prefix.rstrip('.')}"
    with own_database(stack.postgres_dsn, name) as dsn, CommandLine(tmp_path, stack, kafka_options) as line:
        line.environment |= {
            "SLUICEGATE_POSTGRES__DSN": dsn,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        }
        yield line


def told(line: CommandLine) -> dict[str, Any]:
    code, out, _ = line.run("deliveries", "session", "--json")
    return json.loads(out) if code == 0 else {"record": None, "connections": []}


def seen_until(seq: int) -> Callable[[Seen], bool]:
    return lambda seen: seq in seen.seqs


def test_each_delivery_is_one_row_though_the_archive_is_killed_and_the_record_has_what_they_come_to(
    line, kafka_options, tmp_path
):
    line.worker("ingest", log="ingest")
    archive = line.worker("archive", log="archive")
    line.edge()
    edge = json.loads((tmp_path / "data" / "edge.json").read_bytes())["url"]
    url = f"{edge}/v1/streams/session/events"

    def publish(*types: str) -> None:
        payloads = {"open": {}, "log": {"line": "x"}, "end": {"reason": "completed"}}
        lines = [json.dumps({"type": name, "kind": "job", "payload": payloads[name]}) for name in types]
        answer = httpx2.post(
            f"{url}?wait=committed", content="\n".join(lines), trust_env=False, timeout=60,
            headers={"content-type": "application/x-ndjson"},
        )  # fmt: skip
        assert {one["verdict"] for one in answer.json()["verdicts"]} == {"accepted"}

    publish("open", *["log"] * 4)
    first = read_stream(url, until=seen_until(4))
    line.until(lambda: told(line)["connections"], "a delivery is archived", log="archive")
    line.kill(archive)

    read_stream(url, last_id=first.ids[2], until=seen_until(4))
    of_an_older_topic = Cursor(9, 0, 0, 3).encode("default", "session")
    lost = read_stream(url, last_id=of_an_older_topic, until=seen_until(4))
    assert [event["type"] for event in lost.events[:2]] == ["gap", "open"]
    with Talk(edge) as talk:
        talk.say("subscribe", stream="session")
        talk.until(lambda message: message["type"] == "event" and message["event"]["seq"] == 4)
        talk.say("unsubscribe", stream="session")
        talk.until_type("unsubscribed")
    line.worker("archive", log="another")
    publish("log", "end")
    assert read_stream(url).seqs == list(range(7))

    def settled() -> bool:
        found = told(line)
        closed = [one for one in found["connections"] if one["action"] == "closed"]
        return len(closed) == 5 and bool(found["record"] and found["record"]["ended_us"])

    line.until(settled, "all is archived", log="another")
    found = told(line)
    assert [
        (one["transport"], one["reason"], one["resumed"], one["events"], one["gaps"], one["seq"])
        for one in reversed(found["connections"])
    ] == [
        ("sse", "gone", False, 5, 0, 4),
        ("sse", "gone", True, 2, 0, 4),
        ("sse", "gone", True, 5, 1, 4),
        ("websocket", "left", False, 5, 0, 4),
        ("sse", "end", False, 7, 0, 6),
    ]
    assert all(one["revision"] == 2 + one["gaps"] for one in found["connections"])
    delivery = {"connections": 5, "connections_open": 0, "resumes": 2, "gaps": 1, "dropped": 0}
    assert found["record"] | delivery | {"last_seq_written": 6, "end_reason": "completed"} == found["record"]
    run(line, Page("backpressure", (DOCS / "backpressure.md").read_text()).blocks["deliveries"])

    records = len(read_committed(kafka_options, CONNECTIONS, lambda messages: len(messages) == 11))
    with psycopg.connect(line.environment["SLUICEGATE_POSTGRES__DSN"]) as database:
        query = "SELECT sum(next)::bigint FROM sluicegate.progress WHERE topic = %s"
        topic = CONNECTIONS.named(kafka_options.topic_prefix)
        assert database.execute(query, (topic,)).fetchone() == (records,)

    code, out, err = line.run("deliveries", "nothing-of-that-name")
    assert (code, out, "nothing is archived" in err) == (1, "", True)
    line.environment.pop("SLUICEGATE_POSTGRES__DSN")
    code, _, err = line.run("deliveries", "session")
    assert (code, "SLUICEGATE_POSTGRES__DSN" in err) == (3, True)


# -- the tables -----------------------------------------------------------------------------------------


@pytest.fixture
def database(stack) -> Iterator[Database]:
    case = Database(stack.postgres_dsn)
    yield case
    case.close()


def connection(number: int, revision: int = 1, **fields: object) -> dict[str, object]:
    """A decoded connection event."""
    return {
        "tenant": "default",
        "stream_id": "job:1",
        "kind": "log",
        "action": "opened",
        "edge": "host-1a2b",
        "connection": number,
        "transport": "sse",
        "peer": "127.0.0.1:5000",
        "time_us": 1_700_000_000_000_000 + revision,
        "reason": "",
        "seq": -1,
        "from_seq": -1,
        "to_seq": -1,
        "count": 0,
        "events": 0,
        "bytes": 0,
        "duration_ms": 0,
        "subject": "ann",
        "revision": revision,
        "resumed": False,
        "opened_us": 1_700_000_000_000_000,
        "gaps": 0,
        "dropped": 0,
    } | fields


def store(database: Database, *connections: dict[str, object], streams: Any = ()) -> None:
    sink = database.sink()
    for partition, topic in enumerate((RECORDS.name, CONNECTIONS.name)):
        claim = sink.claim(topic, "id", partition, first=0)
        batch = Batch(claim.next + 1, connections=connections) if partition else Batch(1, streams=streams)
        if batch.next > claim.next:
            sink.write(claim, batch)


def test_the_latest_that_was_told_of_a_delivery_stays_in_whatever_order_it_came(database):
    closed = connection(1, 3, action="closed", reason="gone", seq=8, events=9, gaps=1, dropped=4)
    store(database, closed)
    store(database, connection(1, 1), connection(1, 2, action="gap", gaps=1), connection(2, 1, resumed=True))
    found = delivered(database.options, "default", "job:1", 10)
    assert [(one["connection"], one["action"], one["seq"]) for one in found.connections] == [
        (2, "opened", -1),
        (1, "closed", 8),
    ]
    assert found.record is None
    assert len(delivered(database.options, "default", "job:1", 1).connections) == 1
    times = "SELECT connection, closed IS NOT NULL AS closed FROM $schema.connections ORDER BY connection"
    assert database.query(times) == [{"connection": 1, "closed": True}, {"connection": 2, "closed": False}]


def test_a_record_has_what_its_deliveries_come_to_without_those_of_an_earlier_stream_of_its_name(database):
    opened_us = 1_800_000_000_000_000
    store(
        database,
        connection(1, 2, action="closed", time_us=opened_us - 2 * DAY_US, seq=90, gaps=7, events=2**62),
        # The edge's clock, or the producer's, is some minutes off.
        connection(2, 2, action="closed", time_us=opened_us - 5 * MINUTE_US, seq=3, gaps=1, dropped=2**62),
        connection(3, 1, time_us=opened_us, resumed=True, dropped=2**62),
        connection(4, 1, time_us=opened_us, stream_id="job:2"),
        streams=[stream("job:1", opened_us=opened_us), stream("job:3")],
    )
    found = delivered(database.options, "default", "job:1", 10)
    delivery = {
        "connections": 2, "connections_open": 1, "resumes": 1, "gaps": 1, "dropped": 2**63,
        "last_seq_written": 3,
    }  # fmt: skip
    assert found.record == stream("job:1", opened_us=opened_us) | delivery
    assert len(found.connections) == 3
    nobody = delivered(database.options, "default", "job:3", 10)
    assert nobody.connections == []
    assert nobody.record == stream("job:3") | dict.fromkeys(delivery, 0) | {"last_seq_written": -1}


def test_old_connections_are_deleted_a_bounded_number_at_a_time(database, monkeypatch):
    monkeypatch.setattr("connectors.postgres.sink.CONNECTIONS_MAX", 2)
    (now,) = database.query("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us")
    old = [connection(number, time_us=now["us"] - 31 * DAY_US) for number in range(3)]
    store(database, *old, connection(9, time_us=now["us"] - 29 * DAY_US))
    sink = database.sink()
    assert [sink.forget_connections(30 * 86_400_000) for _ in range(3)] == [2, 1, 0]
    assert database.query("SELECT connection FROM $schema.connections") == [{"connection": 9}]


def test_what_is_asked_of_a_stream_and_what_is_forgotten_is_found_by_an_index(database):
    rows = [connection(number, time_us=number, stream_id=f"job:{number}") for number in range(3_000)]
    store(database, *rows)
    database.query("ANALYZE $schema.connections")
    for asked, index in (
        ("tenant = 'default' AND stream_id = 'job:7'", "connections_pkey"),
        ("time_us < 9 ORDER BY time_us LIMIT 5", "connections_by_time"),
    ):
        plan = database.query(f"EXPLAIN SELECT * FROM $schema.connections WHERE {asked}")
        assert index in str(plan)
