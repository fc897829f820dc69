"""`sluicegate schemas` and `sluicegate topics`, as a person or a pipeline runs them."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from schemas.catalog import subjects
from schemas.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops.stack.addresses import Addresses


ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(stack: Addresses, registered_schemas: str, topic_prefix: str, tmp_path: Path) -> Any:
    base = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")},
        "SLUICEGATE_DATA_DIR": str(tmp_path / "data"),
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": stack.kafka,
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "SLUICEGATE_REGISTRY__URL": registered_schemas,
    }

    def run(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ops", *map(str, words)],
            env={**base, **changes},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def reading(tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    name = f"t{uuid.uuid4().hex[:12]}"

    def write(*fields: dict[str, object]) -> tuple[str, Path]:
        schema = {
            "type": "record",
            "name": name,
            "namespace": "sluicegate.payload",
            "fields": [{"name": "sensor", "type": "string"}, *fields],
        }
        path = tmp_path / f"{uuid.uuid4().hex[:6]}.avsc"
        path.write_bytes(orjson.dumps(schema))
        return f"sluicegate.payload.{name}", path

    return write


def test_our_schemas_are_checked_registered_and_listed(run: Any) -> None:
    checked = run("schemas", "check", "--json")
    assert checked.returncode == 0
    rows = orjson.loads(checked.stdout)
    assert {row["subject"] for row in rows} == set(subjects())
    assert {row["state"] for row in rows} == {"registered"}
    registered = run("schemas", "register", "--json")
    assert (registered.returncode, set(orjson.loads(registered.stdout))) == (0, set(subjects()))
    listed = {row["subject"]: row for row in orjson.loads(run("schemas", "list", "--json").stdout)}
    for subject in subjects():
        assert listed[subject]["compatibility"] == "FULL_TRANSITIVE"
        assert listed[subject]["ours"]


def test_a_users_type_is_checked_registered_and_changed(run: Any, reading: Any) -> None:
    subject, first = reading()
    assert run("schemas", "check", first).stdout.split() == ["new", subject]
    assert subject in run("schemas", "register", first).stdout
    assert run("schemas", "check", first).stdout.split() == ["registered", subject]
    _, good = reading({"name": "unit", "type": "string", "default": ""})
    assert run("schemas", "check", good).stdout.split() == ["compatible", subject]
    _, bad = reading({"name": "unit", "type": "string"})
    checked = run("schemas", "check", bad)
    assert checked.returncode == 1
    assert checked.stdout.split()[:2] == ["incompatible", subject]
    assert "version 1: unit: is not in both versions and has no default" in checked.stdout
    refused = run("schemas", "register", bad)
    assert refused.returncode == 1
    assert f"error: schema of {subject} is not FULL_TRANSITIVE compatible with version 1" in refused.stderr
    assert "Give every new field a default" in refused.stderr


def test_of_several_files_none_is_registered_if_one_is_refused(
    run: Any, reading: Any, tmp_path: Path
) -> None:
    subject, first = reading()
    run("schemas", "register", first)
    _, bad = reading({"name": "unit", "type": "string"})
    other = f"sluicegate.payload.o{uuid.uuid4().hex[:12]}"
    fine = tmp_path / "fine.avsc"
    fine.write_text(f'{{"type":"record","name":"{other}","fields":[]}}')
    assert run("schemas", "register", fine, bad).returncode == 1
    assert run("schemas", "check", fine).stdout.split() == ["new", other]
    assert subject in run("schemas", "list").stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "malformed"),
        ('"string"', "not a record"),
        ('{"type":"record","name":"a.b","fields":[{"name":"x","type":["null","b"]}]}', "holds itself"),
    ],
)
def test_a_file_that_is_no_usable_schema_is_named(run: Any, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.avsc"
    path.write_text(text)
    done = run("schemas", "register", path)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert words in done.stderr
    assert run("schemas", "check", tmp_path / "nothing.avsc").returncode == 1


def test_a_registry_or_a_broker_that_is_away_is_exit_code_3(run: Any) -> None:
    away = run("schemas", "list", SLUICEGATE_REGISTRY__URL="http://127.0.0.1:1/apis/ccompat/v7")
    assert away.returncode == 3
    assert "schema registry at http://127.0.0.1:1/apis/ccompat/v7 cannot be reached" in away.stderr
    for words in (("topics", "list"), ("dlq", "list")):
        away = run(*words, SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
        assert away.returncode == 3
        assert "Kafka at 127.0.0.1:1 cannot be reached" in away.stderr
        assert "Traceback" not in away.stderr
        assert "KafkaError{" not in away.stderr


def test_topics_are_listed_created_and_described(run: Any, topic_prefix: str) -> None:
    assert not any(row["exists"] for row in orjson.loads(run("topics", "list", "--json").stdout))
    created = orjson.loads(run("topics", "create", "--json").stdout)
    assert created == {"created": [spec.named(topic_prefix) for spec in TOPICS], "warnings": []}
    assert "every topic is there" in run("topics", "create").stderr
    assert all(row["exists"] for row in orjson.loads(run("topics", "list", "--json").stdout))
    for name in ("streams.output.v1", f"{topic_prefix}streams.output.v1"):
        described = orjson.loads(run("topics", "describe", name, "--json").stdout)
        assert described["name"] == f"{topic_prefix}streams.output.v1"
        assert described["partitions"] == 4
        assert described["config"]["cleanup.policy"] == "delete"
        assert described["config"]["min.insync.replicas"]
    unknown = run("topics", "describe", "streams.outputt.v1")
    assert unknown.returncode == 2
    assert "streams.output.v1" in unknown.stderr


def test_topics_of_the_users_own_agents_are_among_them(run: Any, topic_prefix: str) -> None:
    agents = str(ROOT / "docs" / "examples" / "agents")
    rows = orjson.loads(run("topics", "list", "--json", SLUICEGATE_PIPELINES=agents).stdout)
    assert f"{topic_prefix}examples.readings.v1" in {row["name"] for row in rows}
    words = ("topics", "describe", "examples.readings.v1")
    assert "subject                  examples.Reading" in run(*words, SLUICEGATE_PIPELINES=agents).stdout
    assert "SLUICEGATE_PIPELINES" in run(*words).stderr
