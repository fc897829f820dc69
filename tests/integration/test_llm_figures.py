"""What the ledger is made into, on real Kafka and PostgreSQL: sums that survive kills, and the commands."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from confluent_kafka import Producer

from connectors.llm.emitter import SOURCE
from connectors.llm.ledger import Attempt
from connectors.llm.loopback.server import LoopbackThread
from connectors.postgres.claim import Batch
from connectors.postgres.options import PostgresOptions
from connectors.postgres.sink import ArchiveSink
from schemas.payloads import PayloadCodec
from schemas.topics import LLM_ATTEMPTS, OUTPUT, partition_of
from schemas.wire import WireCodec
from tests.support.attempts import SECOND_US, attempt, random_attempt
from tests.support.command_line import CommandLine
from tests.support.llm_world import LlmWorld
from tests.support.own_database import own_database
from tests.support.worker_process import WorkerProcess
from tests.unit.support_scope import make_event

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_US = 86_400 * SECOND_US
COSTS = ("known_nanos", "estimated_nanos", "cost_unknown")


@pytest.fixture
def dsn(stack, topic_prefix) -> Iterator[str]:
    with own_database(stack.postgres_dsn, f"llm_{topic_prefix.rstrip('.')}") as dsn:
        yield dsn


@pytest.fixture
def line(stack, kafka_options, dsn, tmp_path) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, kafka_options) as line:
        line.environment["SLUICEGATE_POSTGRES__DSN"] = dsn
        yield line


class Ledger:
    """Appends attempts and events where their writers do."""

    def __init__(self, kafka, registry) -> None:
        self._kafka, self.codec, self._payloads = kafka, WireCodec(registry), PayloadCodec(registry)
        self._producer = Producer(kafka.client_config() | {"linger.ms": 5})

    def tell(self, *attempts: dict[str, Any]) -> None:
        for each in attempts:
            operation = f"{each['tenant']}/{each['stream_id']}"
            self._producer.produce(
                LLM_ATTEMPTS.named(self._kafka.topic_prefix),
                self.codec.encode(LLM_ATTEMPTS.subject, each),
                f"{operation}/{each['attempt']}",
                partition=partition_of(operation.encode(), LLM_ATTEMPTS.partitions),
            )
        assert self._producer.flush(30) == 0

    def show(self, *events: Any) -> None:
        for event in events:
            fields = event.payload and self._payloads.encode(event.type, FIELDS[event.event_id])
            made = event._replace(payload=fields[0], payload_schema=fields[1])
            self._producer.produce(
                OUTPUT.named(self._kafka.topic_prefix),
                self.codec.encode_event(made),
                made.key,
                partition=partition_of(made.key, OUTPUT.partitions),
            )
        assert self._producer.flush(30) == 0


FIELDS: dict[str, dict[str, Any]] = {}


def event(kind: str, stream: str, fields: dict[str, Any], **envelope: Any) -> Any:
    """An event of the output; its payload is written anew with the ids of the real registry."""
    event_id = f"{stream}-{kind}-{len(FIELDS)}"
    FIELDS[event_id] = fields
    return make_event(
        kind, 0, stream=stream, event_id=event_id, time=now_us(), fields=fields, tenant="t", **envelope
    )


def now_us() -> int:
    return time.time_ns() // 1_000


@contextmanager
def worker(stack, kafka_options, tmp_path, dsn, roles="account,archive"):
    running = WorkerProcess(
        stack, kafka_options, tmp_path / "data", roles=roles, SLUICEGATE_POSTGRES__DSN=dsn
    )
    try:
        yield running
    finally:
        running.kill()


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        if connection.execute("SELECT to_regclass('sluicegate.llm_tasks')").fetchone() == (None,):
            return []
        return connection.execute(query.encode()).fetchall()


def until(line: CommandLine, dsn: str, query: str, wanted: list[tuple[Any, ...]]) -> None:
    """Wait until a query answers what it should, and show how it differs if it never does."""
    deadline = time.monotonic() + 90
    while (found := rows(dsn, query)) != wanted:
        if time.monotonic() > deadline:
            logs = "\n".join(log.read_text()[-2_000:] for log in line.folder.glob("data/worker-*.log"))
            assert found == wanted, logs
        time.sleep(0.2)


def test_sums_in_postgresql_equal_the_ledger_through_kills_and_repeats(
    stack, kafka_options, registry, topics, line, dsn, tmp_path
):
    topics()
    rng = Random(7)
    base_us = now_us() - 60 * SECOND_US
    attempts = [random_attempt(rng, number, base_us, span_s=50) for number in range(300)]
    for each in attempts:
        each["task_id"] = rng.choice(["", f"task-{rng.randint(0, 9)}"])
    ledger = Ledger(kafka_options, registry)
    for part in range(2):
        with worker(stack, kafka_options, tmp_path, dsn):
            for each in attempts[part * 150 : part * 150 + 150]:
                ledger.tell({**each, "state": "started", "ended_us": 0}, each)
                if rng.random() < 0.2:
                    ledger.tell(each)
            killed_at = part * 150 + rng.randint(20, 120)
            line.until(
                lambda at=killed_at: [(at,)] <= rows(dsn, "SELECT count(*) FROM sluicegate.llm_attempts"),
                "attempts are archived",
                within_s=90,
            )
    called = [each for each in attempts if each["state"] != "refused"]
    plain = Counter({"calls": len(called), **dict.fromkeys(COSTS, 0)})
    for each in called:
        if each["cost_source"] == "unknown":
            plain["cost_unknown"] += 1
        else:
            plain[f"{each['cost_source']}_nanos"] += each["cost_nanos"]
    wanted = [tuple(plain[name] for name in ("calls", *COSTS))]
    with worker(stack, kafka_options, tmp_path, dsn):
        sums = ", ".join(f"sum({name})::bigint" for name in COSTS)
        until(line, dsn, f"SELECT sum(calls)::bigint, {sums} FROM sluicegate.llm_windows", wanted)
        until(
            line,
            dsn,
            f"SELECT sum(attempts)::bigint, {sums} FROM sluicegate.llm_tasks WHERE running = 0",
            wanted,
        )
        until(line, dsn, "SELECT count(*), count(*) FILTER (WHERE ended_us = 0) FROM sluicegate.llm_attempts",
              [(len({(e["tenant"], e["stream_id"], e["attempt"]) for e in attempts}), 0)])  # fmt: skip
    code, out, err = line.run("llm", "costs", "--by", "tenant", "--since", "1h", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert sum(row["calls"] for row in told["rows"]) == plain["calls"]
    assert sum(row["known_nanos"] for row in told["rows"]) == plain["known_nanos"]
    errors = Counter()
    for row in told["rows"]:
        errors.update(row["errors"])
    assert errors == Counter(each["error_class"] for each in attempts if each["error_class"])


def test_a_completed_tasks_cost_is_told_with_known_estimated_and_unknown_apart(
    stack, kafka_options, registry, topics, line, dsn, tmp_path
):
    topics()
    ledger, at_us = Ledger(kafka_options, registry), now_us()
    ledger.show(
        event("open", "root", {}),
        event("open", "part", {}, task_id="root"),
        event("usage", "part", {"provider": "acme", "cost_nanos": 1_000}, source=SOURCE),
        event("usage", "part", {"provider": "vectors", "cost_nanos": 30}, upstream_id="retrieval:docs"),
        event("usage", "part", {"provider": "disk", "cost_nanos": None}, upstream_id="storage:s3"),
        event("end", "root", {"reason": "completed"}),
    )
    base = {"tenant": "t", "stream_id": "part", "task_id": "root", "route": "default", "route_version": 3}
    ledger.tell(
        attempt(1, "failed", at_us=at_us, cost_nanos=500, cost_source="estimated", http_status=503,
                error_raw="over capacity\x1b[2J", requested_us=at_us - 1_250_000, **base),
        attempt(2, at_us=at_us + SECOND_US, why="fallback", provider="zeta", prompt="greet", prompt_version=4,
                cost_nanos=2_000_000_000, price_version="0.2.3", finish="stop", finish_raw="end_turn",
                provider_request_id="req_9", connected_us=at_us + 40_000, usage_details={"output_audio": 5},
                shown=True, **base),
        attempt(1, "cancelled", at_us=at_us, tenant="t", stream_id="alone"),
        attempt(1, at_us=at_us - 40 * DAY_US, tenant="old", stream_id="old", input_json="[]",
                output_json="{}"),
        attempt(1, at_us=at_us, tenant="new", stream_id="new", input_json="[]", output_json="{}"),
    )  # fmt: skip
    with worker(stack, kafka_options, tmp_path, dsn):
        until(
            line, dsn,
            "SELECT task_id, state, attempts, failed_attempts, known_nanos, estimated_nanos, cost_unknown, "
            "calls_by_upstream FROM sluicegate.llm_tasks WHERE tenant = 't' ORDER BY task_id",
            [
                ("alone", "open", 1, 1, 0, 0, 1, {"model": 1}),
                ("root", "completed", 2, 1, 2_000_000_030, 500, 1,
                 {"model": 2, "retrieval": 1, "storage": 1}),
            ],
        )  # fmt: skip
        until(line, dsn, "SELECT sum(calls)::int FROM sluicegate.llm_windows WHERE tenant = 't'", [(3,)])
        told = (
            "SELECT usage_details, shown FROM sluicegate.llm_attempts WHERE stream_id = 'part' "
            "ORDER BY attempt"
        )
        until(line, dsn, told, [({}, None), ({"output_audio": 5}, True)])
        kept = "SELECT count(*) FROM sluicegate.llm_attempts WHERE input_json IS NOT NULL AND tenant = 'old'"
        until(line, dsn, "SELECT count(*) FROM sluicegate.llm_attempts WHERE tenant = 'old'", [(1,)])
    with worker(stack, kafka_options, tmp_path, dsn, roles="archive"):
        until(line, dsn, kept, [(0,)])  # the first thing that an archive does, then once a minute
        kept = "SELECT tenant FROM sluicegate.llm_attempts WHERE output_json IS NOT NULL"
        until(line, dsn, kept, [("new",)])

    code, out, err = line.run("llm", "costs", "--by", "task", "--tenant", "t")
    assert code == 0, err
    assert "tasks: 1 completed, 0 failed, 0 cancelled, 1 open" in out
    assert "a completed task: $2.00 + about $0.0000005 + 2 of unknown cost" in out
    code, out, _ = line.run("llm", "costs", "--by", "prompt", "--tenant", "t", "--json")
    assert {(row["prompt"], row["prompt_version"], row["calls"]) for row in json.loads(out)["rows"]} == {
        ("greet", 4, 1), ("", 0, 2),
    }  # fmt: skip
    code, out, _ = line.run("llm", "costs", "--tenant", "nobody")
    assert (code, "none was completed" in out) == (0, True)

    code, out, err = line.run("llm", "attempts", "t/part")
    assert code == 0, err
    assert "\x1b" not in out
    for told in (
        "1  failed  first  acme/small", "queue 250 ms", "error    server, status 503: over capacity",
        "2  completed  fallback  zeta/small", "route    default v3, prompt greet v4", "connect 40 ms",
        "first content 500 ms", "total 1.0 s", "in 10, cached unknown, out 20", "$2.00 (known, prices of",
        "finish   stop (provider: end_turn)", "call id  req_9", "output audio 5 (provider)",
    ):  # fmt: skip
        assert told in out, f"{told!r} is not in\n{out}"
    code, out, _ = line.run("llm", "attempts", "t/part", "--json")
    first, second = json.loads(out)["attempts"]
    assert (first["cost_nanos"], first["queue_ms"], second["first_content_ms"]) == (500, 250.0, 500.0)
    code, _, err = line.run("llm", "attempts", "nothing")
    assert code == 1
    assert "no attempt of stream default/nothing" in err


def test_costs_without_postgresql_or_its_tables_say_what_to_do(line, dsn):
    code, _, err = line.run("llm", "costs")
    assert (code, "llm_windows" in err) == (1, True), err
    del line.environment["SLUICEGATE_POSTGRES__DSN"]
    code, _, err = line.run("llm", "costs")
    assert code == 3
    assert "SLUICEGATE_POSTGRES__DSN" in err
    assert "llm attempts" in err
    code, _, err = line.run("llm", "costs", "--since", "yesterday")
    assert (code, "--since" in err) == (2, True)


def test_old_inputs_and_outputs_are_deleted_a_bounded_number_at_a_time_and_stay_deleted(dsn, monkeypatch):
    monkeypatch.setattr("connectors.postgres.sink.CONTENTS_MAX", 2)
    sink = ArchiveSink(PostgresOptions(dsn))
    sink.open()
    claim = sink.claim("llm.attempts.v1", "id", 0, 0)

    def kept(number: int, days: int) -> dict[str, Any]:
        at_us = now_us() - days * DAY_US
        return asdict(Attempt(epoch=0, **attempt(number, at_us=at_us, input_json="[]", output_json="{}")))

    old = [kept(number, 40) for number in range(3)]
    claim = sink.write(claim, Batch(5, llm_attempts=[*old, kept(9, 1)]))
    assert [sink.forget_contents(30 * 86_400_000) for _ in range(3)] == [2, 1, 0]
    sink.write(claim, Batch(9, llm_attempts=old))  # read again from the ledger, which keeps them longer
    sink.close()
    query = "SELECT attempt, input_json, output_json FROM sluicegate.llm_attempts ORDER BY attempt"
    assert rows(dsn, query) == [(0, None, None), (1, None, None), (2, None, None), (9, "[]", "{}")]


def test_contents_and_rows_of_the_ledger_come_by_two_topics_in_any_order(dsn):
    sink = ArchiveSink(PostgresOptions(dsn))
    sink.open()
    ledger, contents = (sink.claim(topic, topic, 0, 0) for topic in ("llm.attempts.v1", "llm.contents.v1"))
    at_us = now_us()

    def made(number: int, state: str = "completed", **kept: Any) -> dict[str, Any]:
        row = attempt(number, state, at_us=at_us, **kept)
        return asdict(Attempt(epoch=0, **(row | ({"ended_us": 0} if state == "started" else {}))))

    # 1: its contents first; 2: last; 3: its worker died, so that who settled it knew of none; 4: twice.
    # 5: of a worker of before the upgrade, which kept them on the ledger.
    contents = sink.write(contents, Batch(1, llm_contents=[made(1, input_json="i", output_json="o")]))
    ledger = sink.write(ledger, Batch(4, llm_attempts=[made(1), made(2), made(3, "abandoned")]))
    given = [made(2, input_json="i", output_json="o"), made(3, "started", input_json="i"),
             made(4, "started", input_json="i")]  # fmt: skip
    contents = sink.write(contents, Batch(4, llm_contents=given))
    ledger = sink.write(ledger, Batch(9, llm_attempts=[made(4, "started"), made(4)]))
    sink.write(contents, Batch(9, llm_contents=[made(4, input_json="i", output_json="o")]))
    ledger = sink.write(ledger, Batch(10, llm_attempts=[made(5, "started", input_json="i")]))
    sink.write(ledger, Batch(11, llm_attempts=[made(5, input_json="i", output_json="o")]))
    sink.close()
    query = "SELECT attempt, state, input_json, output_json FROM sluicegate.llm_attempts ORDER BY attempt"
    assert rows(dsn, query) == [
        (1, "completed", "i", "o"),
        (2, "completed", "i", "o"),
        (3, "abandoned", "i", None),
        (4, "completed", "i", "o"),
        (5, "completed", "i", "o"),
    ]


def test_what_a_real_worker_calls_is_what_costs_and_attempts_tell(
    stack, kafka_options, registry, topics, line, dsn, tmp_path
):
    topics()
    world = LlmWorld(kafka_options, registry, tmp_path)
    try:
        with (
            LoopbackThread() as loopback,
            worker(stack, kafka_options, tmp_path, dsn, roles="ingest,account,archive"),
        ):
            base_url = loopback.base_url("openai-chat")
            models = {"first": "words?fault=server", "second": "words?tokens=20"}
            called = [{"target": name, "model": model} for name, model in models.items()]
            world.route("default", candidates=called, keep={"input": "full", "output": "full"})
            world.worker({
                "first": {"shape": "openai-chat", "base_url": base_url, "models": ["*"]},
                "second": {"shape": "openai-chat", "base_url": base_url, "models": ["*"]},
            })  # fmt: skip
            world.ask("asked", "of a river")
            until(
                line, dsn,
                "SELECT task_id, state, running, cost_unknown + (known_nanos > 0)::int >= 1 "
                "FROM sluicegate.llm_tasks WHERE state <> 'open' AND running = 0",
                [("asked", "completed", 0, True)],
            )  # fmt: skip
            (last,) = world.attempts("asked")[-1:]
            until(line, dsn, "SELECT sum(calls)::int, sum(completed)::int FROM sluicegate.llm_windows",
                  [(last.attempt, 1)])  # fmt: skip
            kept = (
                "SELECT attempt, strpos(input_json, 'of a river') > 0, output_json IS NOT NULL "
                "FROM sluicegate.llm_attempts ORDER BY attempt"
            )
            until(line, dsn, kept, [(number, True, True) for number in range(1, last.attempt + 1)])
        code, out, err = line.run("llm", "attempts", "asked", "--json")
        assert code == 0, err
        told = json.loads(out)["attempts"]
        assert [row["attempt"] for row in told] == list(range(1, last.attempt + 1))
        assert (told[-1]["state"], told[-1]["provider"]) == ("completed", "second")
        assert "of a river" in told[-1]["input_json"]
        assert told[-1]["otel"]["gen_ai.request.model"] == models["second"]
        assert all(row["queue_ms"] is not None and row["total_ms"] >= 0 for row in told)
    finally:
        world.close()


def test_attempts_of_two_questions_for_one_name_are_two_rows_though_they_have_one_number(
    stack, kafka_options, registry, topics, line, dsn, tmp_path
):
    topics()
    at_us = now_us()
    first = attempt(1, at_us=at_us, request_offset=7, cost_nanos=1_000, end_reason="completed")
    later = attempt(1, at_us=at_us + SECOND_US, request_offset=9, cost_nanos=500, end_reason="completed")
    ends = [attempt(0, "refused", at_us=at_us, request_offset=offset) for offset in (11, 12)]
    ledger = Ledger(kafka_options, registry)
    begun = [{**each, "state": "started", "ended_us": 0} for each in (first, later)]
    ledger.tell(*begun, first, later, *ends)
    with worker(stack, kafka_options, tmp_path, dsn):
        found = [(0, 11, None), (0, 12, None), (1, 7, 1_000), (1, 9, 500)]
        kept = "SELECT attempt, request_offset, cost_nanos FROM sluicegate.llm_attempts ORDER BY 1, 2"
        until(line, dsn, kept, found)
        ledger.tell(first, later, *ends)  # again, as after a crash of who wrote them
        ledger.tell(attempt(2, at_us=at_us, request_offset=9))
        until(line, dsn, kept, [*found, (2, 9, 1_000)])
        sums = "sum(known_nanos)::int, sum(cost_unknown)::int"
        until(line, dsn, f"SELECT sum(calls)::int, sum(refused)::int, {sums} FROM sluicegate.llm_windows",
              [(3, 2, 2_500, 0)])  # fmt: skip
        until(line, dsn, f"SELECT sum(attempts)::int, sum(running)::int, {sums} FROM sluicegate.llm_tasks",
              [(3, 0, 2_500, 0)])  # fmt: skip
    code, out, err = line.run("llm", "costs", "--by", "tenant", "--json")
    assert code == 0, err
    (told,) = json.loads(out)["rows"]
    assert (told["calls"], told["known_nanos"]) == (3, 2_500)
