"""A Kafka that lets nobody in unproven: passwords over TLS, client certificates, ACLs of least privilege.

One file, as all of it shares one secured broker, which is started for it alone.
"""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import psycopg
import pytest
from confluent_kafka import IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import OffsetSpec

from ops.stack.cache import Cache
from pipelines.attempts import attempt_key
from schemas.topics import (
    DEAD_REPLAYS,
    INPUT,
    LATE_EVENTS,
    LLM_ATTEMPTS,
    LLM_CONTENTS,
    LLM_CONTROL,
    LLM_PROMPTS,
    LLM_RAW,
    LLM_REQUESTS,
    LLM_ROUTES,
    PRESSURE,
    TOPICS,
    USAGE_WINDOWS,
    partition_of,
)  # fmt: skip
from schemas.wire import WireCodec
from tests.support.attempts import attempt
from tests.support.command_line import CommandLine
from tests.support.secured_kafka import SecuredKafka
from tests.support.sse_client import read_stream
from tests.support.token_issuer import TokenIssuer
from tests.support.totals_agent import write_agent
from tests.support.totals_user import TotalsUser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from connectors.registry import Registry
    from ops.settings import Settings
    from ops.stack.addresses import Addresses

ROLES = ("ingest", "aggregate", "archive", "account")
OF_A_CALLER = (LLM_REQUESTS, LLM_CONTROL, LLM_RAW, LLM_ROUTES, LLM_PROMPTS)
PRINCIPALS = (*ROLES, "edge", "operator", "responder", "totals", "nobody")


@pytest.fixture(scope="module")
def secured(
    stack_settings: Settings, stack: Addresses, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecuredKafka]:
    """The broker; the registry and PostgreSQL beside it are the session's, whose Kafka filled the cache."""
    folder = tmp_path_factory.mktemp("secured")
    with SecuredKafka(folder, Cache(stack_settings.cache_dir.absolute()), PRINCIPALS) as kafka:
        yield kafka


@pytest.fixture
def as_principal(
    secured: SecuredKafka, stack: Addresses, registered_schemas: str, topic_prefix: str, tmp_path: Path
) -> Iterator[Callable[..., CommandLine]]:
    """Make the command line of a principal, with a folder and a password of its own; it makes no topics."""
    made: list[CommandLine] = []

    def make(principal: str, **settings: str) -> CommandLine:
        folder = tmp_path / f"{principal}-{len(made)}"
        folder.mkdir()
        line = CommandLine(folder, stack, secured.options(topic_prefix=topic_prefix))
        given = {"CREATE_TOPICS": "false", **settings}
        line.environment |= secured.settings(principal)
        line.environment |= {f"SLUICEGATE_KAFKA__{name}": value for name, value in given.items()}
        made.append(line)
        return line

    yield make
    for line in made:
        line.__exit__()
    told = [file.read_text() for file in tmp_path.glob("*/*.log")]
    for word in secured.words.values():
        assert not any(word in text for text in told), "a password stands in a log"


def acls(line: CommandLine, *words: str) -> list[dict[str, Any]]:
    code, out, err = line.run("topics", "acls", "--json", *words)
    assert code == 0, err
    return orjson.loads(out)


def rows_of(script: str) -> set[tuple[str, ...]]:
    """What kafka-acls.sh would add: every operation on every name of each line."""
    found = set()
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        given = [(word, words[at + 1]) for at, word in enumerate(words[:-1]) if word.startswith("--")]
        pattern = dict(given).get("--resource-pattern-type", "literal")
        for resource in ("topic", "group", "transactional-id"):
            for name in [value for word, value in given if word == f"--{resource}"]:
                for operation in [value for word, value in given if word == "--operation"]:
                    found.add((dict(given)["--allow-principal"], operation, resource, name, pattern))
    return found


def test_each_role_does_its_work_with_what_topics_acls_prints_and_nothing_more(
    secured: SecuredKafka,
    as_principal: Callable[..., CommandLine],
    stack: Addresses,
    registry: Registry,
    topic_prefix: str,
) -> None:
    operator = as_principal("operator")
    code, script, _ = operator.run("topics", "acls", "--script")
    rows = acls(operator)
    columns = ("principal", "operation", "resource", "name", "pattern")
    assert code == 0
    assert rows_of(script) == {tuple(row[column] for column in columns) for row in rows}
    secured.allow(rows)

    assert operator.run("topics", "create")[0] == 0
    lines = {principal: as_principal(principal) for principal in (*ROLES, "edge")}
    workers = [lines[role].worker(role) for role in ROLES]
    edge = lines["edge"].edge()
    url = orjson.loads((lines["edge"].folder / "data" / "edge.json").read_bytes())["url"]
    stream = f"{url}/v1/streams/{topic_prefix}safe/events"
    publish(f"{stream}?kind=log&wait=committed")
    stray = {"event_id": "stray", "type": "log", "payload": {"line": "no open before it"}}
    publish(f"{url}/v1/streams/stray/events?kind=log&wait=committed", [stray])
    unreadable(secured, topic_prefix)
    called(secured, topic_prefix, WireCodec(registry))

    seen = read_stream(stream)
    assert [event["type"] for event in seen.events] == ["open", "log", "usage", "end"]
    archive = lines["archive"]
    archive.until(lambda: is_archived(stack, topic_prefix), "it is archived", log="worker")
    responder = as_principal("responder")
    for lever in ("pause", "resume"):
        code, _, err = responder.run(lever, "aggregate", "3", "--reason", "a test of ACLs", "--yes")
        assert code == 0, err
    code, _, err = responder.run("quarantine", "aggregate", "a/key", "--reason", "a test of ACLs", "--yes")
    assert code == 0, err
    assert "a test of ACLs" in operator.run("levers")[1]
    code, _, err = responder.run("tokens", "revoke", "a-token", "--reason", "a test of ACLs", "--yes")
    assert code == 0, err
    assert "jti:a-token" in operator.run("tokens", "list")[1]
    operator.until(lambda: not empty_topics(secured, topic_prefix), "every topic that may be written was")

    for words in (
        ("lag",),
        ("topics", "list"),
        ("topics", "describe", INPUT.name),
        ("topics", "read", INPUT.name),
    ):
        code, out, err = operator.run(*words, "--json")
        assert code == 0, err
        assert out
    code, out, err = operator.run("dlq", "list", "--json")
    assert (code, out.count(topic_prefix)) == (0, 2), err  # the stray one and the unreadable one
    handed_back(responder, operator, url, f"{topic_prefix}back")
    contents = LLM_CONTENTS.named(topic_prefix)
    assert attempts(operator)["contents_refused"] is None
    for row in rows:
        if (row["principal"], row["name"]) == ("User:operator", contents):
            secured.forbid(row)
    operator.until(
        lambda: attempts(operator)["contents_refused"], "contents are refused, and the rest is shown"
    )
    for line, process in zip(
        (*(lines[role] for role in ROLES), lines["edge"]), (*workers, edge), strict=True
    ):
        process.terminate()
        assert process.wait(40) == 0, said(line)
        assert "authorization failed" not in said(line).lower()


def handed_back(responder: CommandLine, operator: CommandLine, url: str, stream: str) -> None:
    """What a role set aside of the output, which it may not write, is handed back to it by who may act."""
    words = ("quarantine", "aggregate", f"default/{stream}", "--reason", "a test of ACLs", "--yes")
    code, _, err = responder.run(*words)
    assert code == 0, err
    publish(f"{url}/v1/streams/{stream}/events?kind=log&wait=committed")

    def letters() -> list[dict[str, Any]]:
        found = orjson.loads(operator.run("dlq", "list", "--json")[1])["dead_letters"]
        return [one for one in found if one["cause"] == "quarantined"]

    operator.until(lambda: len(letters()) == 4, "all of the stream is set aside")
    assert responder.run(*words, "--undo")[0] == 0
    code, out, err = responder.run("dlq", "replay", "--all", "--cause", "quarantined", "--yes")
    assert (code, out.count("handed back to aggregate")) == (0, 4), err
    for letter in letters():
        shown = ("dlq", "show", letter["id"], "--json")
        operator.until(
            lambda shown=shown: orjson.loads(operator.run(*shown)[1])["replay"]["state"] == "handled",
            "its agent has had it",
        )


def publish(url: str, events: list[dict[str, Any]] | None = None, status: int = 202) -> None:
    usage = {"provider": "p", "model": "m", "input_tokens": 3, "output_tokens": 4}
    events = events or [
        {"event_id": "1", "type": "open", "payload": {"title": "behind a lock"}},
        {"event_id": "2", "type": "log", "payload": {"line": "one"}},
        {"event_id": "3", "type": "usage", "payload": usage},
        {"event_id": "4", "type": "end", "payload": {"reason": "completed"}},
    ]
    body = b"\n".join(orjson.dumps(event) for event in events)
    headers = {"content-type": "application/x-ndjson"}
    answer = httpx2.post(url, content=body, headers=headers, trust_env=False, verify=False, timeout=30)
    assert answer.status_code == status, answer.text


def unreadable(secured: SecuredKafka, prefix: str) -> None:
    producer = Producer(secured.options().client_config())
    producer.produce(INPUT.named(prefix), b"no frame", b"default/x")
    assert producer.flush(10) == 0


def called(secured: SecuredKafka, prefix: str, codec: WireCodec) -> None:
    """An attempt on the ledger, and what is kept of it, in the place of a worker of language models."""
    producer = Producer(secured.options().client_config())
    row = attempt(at_us=time.time_ns() // 1_000)
    partition = partition_of(b"default/answer", LLM_ATTEMPTS.partitions)
    for spec in (LLM_ATTEMPTS, LLM_CONTENTS):
        value = codec.encode(spec.subject, row)
        producer.produce(spec.named(prefix), value, attempt_key(row), partition=partition)
    assert producer.flush(10) == 0


def attempts(line: CommandLine) -> dict[str, Any]:
    """What `llm attempts` tells of the attempt."""
    code, out, err = line.run("llm", "attempts", "answer", "--json")
    assert code == 0, err
    told: dict[str, Any] = orjson.loads(out)
    assert [row["state"] for row in told["attempts"]] == ["completed"]
    return told


def is_archived(stack: Addresses, prefix: str) -> bool:
    with psycopg.connect(stack.postgres_dsn) as reader:
        found = reader.execute(
            "SELECT end_reason FROM sluicegate.streams WHERE stream_id = %s", (f"{prefix}safe",)
        ).fetchall()
    return found == [("completed",)]


def empty_topics(secured: SecuredKafka, prefix: str) -> set[str]:
    """Topics into which nothing was written: no window closes so soon, nothing is replayed, late or slow, and
    nobody calls a language model."""
    admin = secured.admin()
    asked = {
        TopicPartition(spec.named(prefix), partition): OffsetSpec.latest()
        for spec in TOPICS
        if spec not in (USAGE_WINDOWS, DEAD_REPLAYS, LATE_EVENTS, PRESSURE, *OF_A_CALLER)
        for partition in range(spec.partitions)
    }
    found = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED)
    written = {at.topic for at, future in found.items() if future.result().offset > 0}
    return {at.topic for at in asked} - written


def said(line: CommandLine) -> str:
    return "".join(file.read_text() for file in line.folder.glob("*.log"))


@pytest.mark.timeout(240)
def test_an_agent_is_reprocessed_by_its_own_principal_and_led_by_a_responder(
    secured: SecuredKafka,
    as_principal: Callable[..., CommandLine],
    stack: Addresses,
    registry: Registry,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    wrong = write_agent(tmp_path / "wrong", step=2)
    mended = write_agent(tmp_path / "mended", more="\nGENERATION = 2\n")
    operator, responder = as_principal("operator"), as_principal("responder")
    for line in (operator, responder):
        line.environment["SLUICEGATE_PIPELINES"] = str(wrong)
    secured.allow(acls(operator, "--roles", "totals,operator,responder"))
    assert operator.run("topics", "create")[0] == 0
    folder = tmp_path / "totals-user"
    folder.mkdir()
    kafka = secured.options(topic_prefix=topic_prefix)
    with TotalsUser(folder, stack, kafka, WireCodec(registry)) as user:
        user.environment |= secured.settings("totals") | {"SLUICEGATE_KAFKA__CREATE_TOPICS": "false"}
        user.start_worker(wrong, log="old")
        user.until_ready("old")
        user.publish(400)
        user.code(mended)
        code, _, err = user.run("reprocess", "totals", "--from", "earliest")
        assert code == 0, err
        switch = user.reprocess(mended, "--from", "earliest", "--switch", "--yes", log="switch")
        assert switch.wait(150) == 0, user.log("switch")
        new = user.start_worker(mended, log="new")
        user.until_ready("new")
        user.publish(40)
        user.until_right("new")
        # What runs is led by whoever may, with whichever code
        assert f"{topic_prefix}sluicegate.totals.g2" in operator.run("lag", "totals", "--json")[1]
        for words in (("pause", "totals", "1"), ("resume", "totals", "1"), ("accept-loss", "totals")):
            code, _, err = responder.run(*words, "--reason", "a test of ACLs", "--yes")
            assert code == 0, err
        user.stop(new)


def test_an_agent_whose_module_names_no_topics_runs_with_what_is_printed_for_it(
    secured: SecuredKafka,
    as_principal: Callable[..., CommandLine],
    stack: Addresses,
    registry: Registry,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    named, bare = write_agent(tmp_path / "named"), write_agent(tmp_path / "bare")
    module = bare / "totals.py"
    module.write_text(module.read_text().replace("TOPICS = ", "MADE_BY_SOMEBODY_ELSE = "))
    operator = as_principal("operator")
    operator.environment["SLUICEGATE_PIPELINES"] = str(named)
    secured.allow(acls(operator, "--roles", "operator"))
    assert operator.run("topics", "create")[0] == 0
    operator.environment["SLUICEGATE_PIPELINES"] = str(bare)
    secured.allow(acls(operator, "--roles", "totals"))
    folder = tmp_path / "totals-user"
    folder.mkdir()
    kafka = secured.options(topic_prefix=topic_prefix)
    with TotalsUser(folder, stack, kafka, WireCodec(registry)) as user:
        user.environment |= secured.settings("totals") | {"SLUICEGATE_KAFKA__CREATE_TOPICS": "false"}
        worker = user.start_worker(bare, log="bare")
        user.until_ready("bare")
        user.publish(80)
        user.until_right("bare")
        user.stop(worker)


def test_what_is_not_allowed_is_one_error_that_names_it_and_its_remedy(
    secured: SecuredKafka, as_principal: Callable[..., CommandLine], topic_prefix: str
) -> None:
    made_topics(secured, as_principal)
    nobody = as_principal("nobody")
    rows = acls(nobody, "--principal", "User:nobody", "--roles", "ingest")

    error = refused(nobody, "worker", "--roles", "ingest")
    assert error.startswith("error: User:nobody may not ")
    for name in ("Read and Write topic {}streams.input.v1", "Write topic {}streams.output.v1"):
        assert name.format(topic_prefix) in error
    error = refused(nobody, "edge")
    assert f"User:nobody may not Write topic {topic_prefix}edge.connections.v1; Read and Write topic" in error
    assert f"; Read topic {topic_prefix}streams.index.v1; Write topic" in error
    error = refused(nobody, "topics", "read", INPUT.name)
    assert f"User:nobody may not Read topic {topic_prefix}streams.input.v1" in error

    secured.allow(row for row in rows if row["resource"] == "topic")
    error = refused(nobody, "worker", "--roles", "ingest")
    group = f"{topic_prefix}sluicegate.ingest"
    assert f"User:nobody may not Describe group {group}" in error
    secured.allow(row for row in rows if row["name"] == group)
    error = refused(nobody, "worker", "--roles", "ingest")
    roster = f"{topic_prefix}sluicegate.roster"
    assert f"User:nobody may not Write transactional id {roster} and topic" in error
    secured.allow(row for row in rows if row["name"] == roster)
    error = refused(nobody, "worker", "--roles", "ingest")
    assert f"User:nobody may not Write transactional id {topic_prefix}sluicegate.ingest." in error
    secured.allow(row for row in rows if row["resource"] == "transactional-id")
    error = refused(nobody, "worker", "--roles", "ingest")
    reader = f"{topic_prefix}sluicegate-reader"
    assert f"User:nobody may not Describe group {reader}" in error


def test_an_acl_that_is_taken_away_stops_a_worker_with_its_name(
    secured: SecuredKafka, as_principal: Callable[..., CommandLine], topic_prefix: str
) -> None:
    made_topics(secured, as_principal)
    nobody = as_principal("nobody")
    secured.allow(rows := acls(nobody, "--principal", "User:nobody", "--roles", "ingest"))
    worker = nobody.worker("ingest")
    nobody.until(lambda: said(nobody).count('"partition ready"') == 4, "it reads", log="worker")
    for row in rows:
        if row["name"] == INPUT.named(topic_prefix):
            secured.forbid(row)
    assert worker.wait(40) == 1, said(nobody)
    assert f"error: User:nobody may not Read topic {topic_prefix}streams.input.v1" in said(nobody)


def test_an_edge_that_may_not_append_refuses_what_is_published_and_logs_why(
    secured: SecuredKafka, as_principal: Callable[..., CommandLine], topic_prefix: str
) -> None:
    made_topics(secured, as_principal)
    nobody = as_principal("nobody")
    rows = acls(nobody, "--principal", "User:nobody", "--roles", "edge")
    secured.allow(row for row in rows if row["resource"] == "topic")
    nobody.edge()
    url = orjson.loads((nobody.folder / "data" / "edge.json").read_bytes())["url"]
    publish(f"{url}/v1/streams/refused/events?kind=log", status=503)
    assert f"User:nobody may not Write transactional id {topic_prefix}sluicegate.append." in said(nobody)
    tail = f"User:nobody may not Describe group {topic_prefix}sluicegate-tail"
    nobody.until(lambda: tail in said(nobody), "it says what its tail lacks", log="edge")


def made_topics(secured: SecuredKafka, as_principal: Callable[..., CommandLine]) -> None:
    operator = as_principal("operator")
    secured.allow(acls(operator, "--roles", "operator"))
    code, _, err = operator.run("topics", "create")
    assert code == 0, err


def refused(line: CommandLine, *words: str, code: int = 1) -> str:
    """Run a command that must fail; give its error and remedy, the first that it printed."""
    exit_code, out, err = line.run(*words)
    assert exit_code == code, err
    assert not out
    assert "Traceback" not in err
    lines = err.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("error: "))
    assert lines[at + 1].startswith("  → `sluicegate topics acls --script`"), err
    return lines[at]


def test_who_is_not_taken_for_who_it_says_is_told_so_without_its_password(
    secured: SecuredKafka, as_principal: Callable[..., CommandLine]
) -> None:
    stranger = as_principal("nobody", SASL_PASSWORD="s3cret-and-wrong")
    code, _, err = stranger.run("worker", "--roles", "ingest")
    assert code == 3, err
    assert "as User:nobody: " in err
    assert "uthentication" in err
    assert "SLUICEGATE_KAFKA__SECURITY_PROTOCOL" in err
    assert "s3cret-and-wrong" not in err


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_password_proves_a_principal_by_every_mechanism(
    secured: SecuredKafka, as_principal: Callable[..., CommandLine], mechanism: str
) -> None:
    made_topics(secured, as_principal)
    operator = as_principal("operator", SASL_MECHANISM=mechanism)
    code, out, err = operator.run("topics", "list", "--json")
    assert code == 0, err
    assert all(row["exists"] for row in orjson.loads(out))
    code, out, err = operator.run("topics", "read", INPUT.name, "--json")  # a consumer, beside the admin
    assert code == 0, err
    stranger = as_principal("operator", SASL_MECHANISM=mechanism, SASL_PASSWORD="s3cret-and-wrong")
    code, _, err = stranger.run("topics", "list")
    assert code == 3, err
    assert "as User:operator: " in err
    assert "s3cret-and-wrong" not in err


def test_a_client_certificate_is_a_principal_too(
    secured: SecuredKafka, as_principal: Callable[..., CommandLine], topic_prefix: str
) -> None:
    made_topics(secured, as_principal)
    operator = as_principal("operator")
    operator.environment = certified(secured, operator.environment, "operator", "s3cret-of-the-key")
    code, out, err = operator.run("topics", "list", "--json")
    assert code == 0, err
    assert all(row["exists"] for row in orjson.loads(out))
    operator.environment["SLUICEGATE_KAFKA__SSL_KEY_PASSWORD"] = "s3cret-and-wrong"
    code, _, err = operator.run("topics", "list")
    assert code == 2, err
    assert "…__SSL_…" in err
    assert "s3cret" not in err


def test_an_oauth_client_is_a_principal_too(
    secured: SecuredKafka, as_principal: Callable[..., CommandLine], topic_prefix: str
) -> None:
    made_topics(secured, as_principal)
    operator = as_principal("operator")
    with TokenIssuer("operator") as issuer:
        word = issuer.words["operator"]
        operator.environment = bearing(operator.environment, "operator", word, issuer.url)
        code, out, err = operator.run("topics", "list", "--json")
        assert code == 0, err
        assert all(row["exists"] for row in orjson.loads(out))
        assert issuer.asked[0] == {"grant_type": ["client_credentials"], "scope": ["kafka"]}
        code, out, err = operator.run("topics", "read", INPUT.name, "--json")  # a consumer, beside the admin
        assert code == 0, err
        operator.environment = bearing(operator.environment, "operator", "s3cret-and-wrong", issuer.url)
        code, _, err = operator.run("topics", "list")
    assert code == 3, err
    assert "as the OAuth client operator: " in err
    assert "SLUICEGATE_KAFKA__SECURITY_PROTOCOL" in err
    assert word not in err
    assert "s3cret-and-wrong" not in err


def bearing(base: Mapping[str, str], name: str, word: str, url: str) -> dict[str, str]:
    given = {"MECHANISM": "OAUTHBEARER"} | {
        f"OAUTHBEARER_{setting}": value
        for setting, value in {
            "CLIENT_ID": name, "CLIENT_SECRET": word, "TOKEN_ENDPOINT_URL": url, "SCOPE": "kafka",
        }.items()
    }  # fmt: skip
    return {name: value for name, value in base.items() if "__SASL_" not in name} | {
        f"SLUICEGATE_KAFKA__SASL_{setting}": value for setting, value in given.items()
    }


def certified(secured: SecuredKafka, base: Mapping[str, str], name: str, password: str) -> dict[str, str]:
    certificate, key = secured.authority.issue(name, password)
    return {name: value for name, value in base.items() if "__SASL_" not in name} | {
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": secured.certified_address,
        "SLUICEGATE_KAFKA__SECURITY_PROTOCOL": "SSL",
        "SLUICEGATE_KAFKA__SSL_CERTIFICATE_LOCATION": str(certificate),
        "SLUICEGATE_KAFKA__SSL_KEY_LOCATION": str(key),
        "SLUICEGATE_KAFKA__SSL_KEY_PASSWORD": password,
    }
