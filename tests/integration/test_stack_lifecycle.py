"""The real local stack through its life: up, used, killed, healed, down; in a folder hard on paths."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx2
import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from ops.settings import KafkaSettings, PostgresSettings, RegistrySettings, Settings
from ops.stack.down import down
from ops.stack.errors import PartFailed, PortTaken
from ops.stack.state import read_state
from ops.stack.status import status
from ops.stack.up import addresses_of, ensure_up

if TYPE_CHECKING:
    from ops.stack.addresses import Addresses

pytestmark = pytest.mark.timeout(600)  # the first run on a machine downloads

SCHEMA = '{"type": "record", "name": "Thing", "fields": [{"name": "x", "type": "int", "doc": "x"}]}'


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A folder with blanks in its name, deeper than a Unix socket's path may be long."""
    deep = tmp_path_factory.mktemp("deep") / "a folder with blänks 漢 and a 'quote'" / ("x" * 120) / "y"
    made = Settings(
        data_dir=deep, kafka=KafkaSettings(), registry=RegistrySettings(), postgres=PostgresSettings()
    )
    made.stack.kafka_heap_mb = 256
    yield made
    down(made)


@pytest.fixture
def up(settings) -> Addresses:
    """The stack runs, whatever the test before did with it; one that runs is kept."""
    return ensure_up(settings)


@pytest.fixture
def stopped(settings) -> Settings:
    """The stack has data and does not run."""
    if not (settings.data_dir / "ports.json").exists():
        ensure_up(settings)
    down(settings)
    return settings


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, value)
    producer.commit_transaction(30)


def read(bootstrap: str, topic: str) -> bytes:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{topic}.{time.time_ns()}",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    try:
        message = consumer.poll(60)
        assert message is not None, "nothing was there to read"
        assert message.error() is None, message.error()
        return message.value()
    finally:
        consumer.close()


def test_every_part_answers_and_says_so(up, settings):
    told = status(settings)

    assert [(part.name, part.state) for part in told] == [
        ("kafka", "answers"),
        ("registry", "answers"),
        ("postgres", "answers"),
    ]
    assert addresses_of(settings) == up
    assert len(str(settings.data_dir)) > 107


def test_a_second_up_keeps_what_runs(up, settings):
    before = read_state(settings.data_dir)

    assert ensure_up(settings) == up
    assert read_state(settings.data_dir) == before


def test_nothing_listens_beyond_the_loopback(up, settings):
    for part in read_state(settings.data_dir).values():
        listening = [
            connection.laddr.ip.removeprefix("::ffff:")
            for connection in psutil.Process(part.process.pid).net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert set(listening) == {"127.0.0.1"}, part.name


def test_postgresql_asks_everybody_for_the_password(up):
    forged = re.sub(r":[^:@/]+@", ":guess@", up.postgres_dsn)
    assert forged != up.postgres_dsn

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(forged)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(re.sub(r":[^:@/]+@", "@", up.postgres_dsn))


def test_what_holds_a_secret_or_data_is_readable_by_its_owner_alone(up, settings):
    private = ["stack.json", "kafka", "registry", "postgres", "postgres/password"]

    for name in private:
        mode = stat.S_IMODE((settings.data_dir / name).stat().st_mode)
        assert mode & 0o077 == 0, f"{name} is {oct(mode)}"


def test_a_topic_that_nobody_made_is_an_error(up):
    producer = Producer({"bootstrap.servers": up.kafka, "message.timeout.ms": 5_000})
    errors = []
    producer.produce("never.made", b"x", on_delivery=lambda error, _message: errors.append(error))
    producer.flush(30)

    assert errors[0] is not None


def test_after_a_kill_the_parts_come_back_at_their_addresses_with_all_they_knew(up, settings):
    topic = "survives.v1"
    admin = AdminClient({"bootstrap.servers": up.kafka})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)
    produce(up.kafka, topic, b"written before the kill")
    subject = f"{up.registry_url}/subjects/thing/versions"
    schema_id = httpx2.post(subject, json={"schema": SCHEMA}).raise_for_status().json()["id"]
    with psycopg.connect(up.postgres_dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS x")
    before = read_state(settings.data_dir)
    for part in before.values():
        psutil.Process(part.process.pid).kill()
        psutil.Process(part.process.pid).wait(30)

    assert {part.state for part in status(settings)} == {"gone"}
    assert ensure_up(settings) == up

    after = read_state(settings.data_dir)
    assert all(after[name].process != before[name].process for name in before)
    assert read(up.kafka, topic) == b"written before the kill"
    kept = httpx2.get(up.registry_url + f"/schemas/ids/{schema_id}").raise_for_status().json()
    assert "Thing" in kept["schema"]
    with psycopg.connect(up.postgres_dsn) as connection:
        assert connection.execute("SELECT x FROM kept").fetchone() == (42,)


def test_a_part_that_runs_but_does_not_answer_is_started_anew(up, settings, monkeypatch):
    monkeypatch.setattr("ops.stack.up.SILENCE_S_MAX", 2.0)
    before = read_state(settings.data_dir)
    psutil.Process(before["registry"].process.pid).suspend()

    assert {part.name: part.state for part in status(settings)}["registry"] == "silent"
    assert ensure_up(settings) == up

    after = read_state(settings.data_dir)
    assert after["registry"].process != before["registry"].process
    assert after["kafka"] == before["kafka"]
    assert not before["registry"].process.runs


def test_addresses_in_the_settings_are_used_and_nothing_of_theirs_is_started(up, tmp_path):
    settings = Settings(
        data_dir=tmp_path / "data",
        kafka=KafkaSettings(bootstrap_servers=up.kafka),
        registry=RegistrySettings(url=up.registry_url + "/"),
        postgres=PostgresSettings(dsn=up.postgres_dsn),
    )

    assert ensure_up(settings) == up
    assert not settings.data_dir.exists()
    assert {part.state for part in status(settings)} == {"configured"}


def test_a_configured_port_in_use_is_named_before_anything_starts(up, tmp_path, settings):
    taken = int(up.kafka.rpartition(":")[2])
    other = Settings(
        data_dir=tmp_path / "data",
        kafka=KafkaSettings(),
        registry=RegistrySettings(),
        postgres=PostgresSettings(),
    )
    other.stack.kafka_port = taken

    with pytest.raises(PortTaken) as caught:
        ensure_up(other)

    assert str(taken) in str(caught.value)
    assert str(read_state(settings.data_dir)["kafka"].process.pid) in str(caught.value)
    assert read_state(tmp_path / "data") == {}


def test_down_stops_what_was_started_and_forgets_it(up, settings):
    started = read_state(settings.data_dir)
    children = [
        child
        for part in started.values()
        for child in psutil.Process(part.process.pid).children(recursive=True)
    ]

    assert set(down(settings)) == {"kafka", "registry", "postgres"}

    assert read_state(settings.data_dir) == {}
    assert not any(part.process.runs for part in started.values())
    assert not any(child.is_running() for child in children)
    assert {part.state for part in status(settings)} == {"stopped"}
    assert addresses_of(settings) is None


@pytest.mark.parametrize(
    ("name", "title", "file", "broken", "shown"),
    [
        ("postgres", "PostgreSQL", "data/PG_VERSION", "12", "not compatible"),
        ("kafka", "Apache Kafka", "logs/meta.properties", "version=1\nnode.id=77\ncluster.id=AAAA\n", "77"),
    ],
)
def test_a_part_that_cannot_start_shows_its_log_and_takes_the_others_down(
    stopped, name, title, file, broken, shown
):
    settings = stopped
    damaged = settings.data_dir / name / file
    sound = damaged.read_bytes()
    damaged.write_text(broken)
    try:
        with pytest.raises(PartFailed) as caught:
            ensure_up(settings)
    finally:
        damaged.write_bytes(sound)

    assert f"{title} ended while it started" in str(caught.value)
    assert shown in str(caught.value)
    assert str(settings.data_dir / "logs" / f"{name}.log") in caught.value.remedy
    assert read_state(settings.data_dir) == {}


def test_two_ups_at_once_make_one_stack_that_outlives_them(tmp_path):
    """By the command line, PostgreSQL alone: the other two are given."""
    environment = {
        **os.environ,
        "SLUICEGATE_DATA_DIR": str(tmp_path / "data"),
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICEGATE_REGISTRY__URL": "http://127.0.0.1:1/apis/ccompat/v7",
    }
    environment.pop("SLUICEGATE_POSTGRES__DSN", None)

    def sluicegate(*words: str) -> subprocess.Popen[str]:
        command = [Path(sys.executable).parent / "sluicegate", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    both = [sluicegate("up", "--json") for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    try:
        assert [process.returncode for process in both] == [0, 0], told
        (dsn,) = {json.loads(out)["postgres_dsn"] for out, _ in told}
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        shown, _ = sluicegate("status").communicate(timeout=60)
        assert "answers" in shown
        assert urlsplit(dsn).password not in shown
    finally:
        down_process = sluicegate("down", "--wipe", "--yes")
        stopped = down_process.communicate(timeout=120)

    assert down_process.returncode == 0, stopped
    assert not (tmp_path / "data").exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
