"""Kafka, registry or PostgreSQL is not there: at the start it is named, while running it is waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import psycopg
import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.kafka.positions import PositionReader
from connectors.registry import Registry
from ops.settings import KafkaSettings, PostgresSettings, RegistrySettings, Settings, StackSettings
from ops.stack.down import down
from ops.stack.state import read_state
from ops.stack.up import ensure_up
from ops.supervisor import STOP_WITHIN_S
from schemas.catalog import EVENT, subjects
from schemas.topics import DEAD_LETTERS, OUTPUT, TOPICS
from tests.faults.reading import read_all
from tests.faults.role_plants import planted
from tests.support.ports import free_port
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.timeout(300)
_LINES = 8_000  # of each of 20 streams: a worker that is quick must not be done before Kafka is killed

BACKLOG_S = 180.0
"""What so many lines take a busy machine, beside the recovery."""


@pytest.fixture(scope="module")
def own_stack_settings(tmp_path_factory):
    """A stack of this module's own, whose parts may be killed; its ports stay over a restart."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("own-stack"),
        kafka=KafkaSettings(),
        registry=RegistrySettings(),
        postgres=PostgresSettings(),
        stack=StackSettings(kafka_port=free_port(), registry_port=free_port()),
    )
    yield settings
    down(settings)


@pytest.fixture
def own_stack(own_stack_settings):
    return ensure_up(own_stack_settings)


@pytest.fixture
def kafka(own_stack, topic_prefix):
    options = KafkaOptions(own_stack.kafka, topic_prefix)
    ensure_topics(options, TOPICS)
    Registry(own_stack.registry_url).register_all()
    return options


@pytest.fixture
def streams(own_stack, kafka, recorded):
    return recorded(kafka, Registry(own_stack.registry_url))


def kill_part(settings, part):
    """SIGKILL a part of the stack and wait until it is gone: the fault has landed."""
    process = psutil.Process(read_state(settings.data_dir.absolute())[part].process.pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=20)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def appended(kafka, topic):
    """Records and markers in a topic by its log's ends: one quick question, while the worker goes on."""
    reader = PositionReader(kafka, "reader")
    try:
        name = topic.named(kafka.topic_prefix)
        return sum(reader.ends(name, partition)[1] for partition in range(topic.partitions))
    finally:
        reader.close()


@pytest.mark.timeout(600)  # what so many lines take, once more: all of it is read again, and judged
@pytest.mark.parametrize("away_s", [3, 50], ids=["for a moment", "longer than any time-out"])
def test_kafka_killed_and_restarted_loses_and_doubles_nothing(
    own_stack, own_stack_settings, kafka, streams, tmp_path, away_s
):
    streams.history.budget_s = BACKLOG_S
    streams.open()
    streams.lines(_LINES)
    worker = WorkerProcess(own_stack, kafka, tmp_path, roles="ingest")
    try:
        worker.wait_ready(4)  # it has seconds of work before it: units follow one another
        deadline = time.monotonic() + 60
        while not (committed := appended(kafka, OUTPUT)) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(streams.rng.uniform(0, 0.5))
        kill_part(own_stack_settings, "kafka")
        time.sleep(away_s)
        assert worker.process.poll() is None, "the worker waits for Kafka"
        ensure_up(own_stack_settings)
        streams.fault_ended("Kafka is back")
        streams.lines(20)
        streams.end()
        streams.check()
        log = worker.log.read_text()
        # A commit may also just take as long as the outage: then neither abort nor question is in the log.
        assert "brokers away" in log, "the worker never met the outage"
        assert 0 < committed < len(streams.sent) * (_LINES + 1), "no unit was under way when Kafka was killed"
        assert worker.stop() == 0
    finally:
        worker.kill()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_worker_asked_to_stop_while_kafka_is_away_ends_in_time_and_loses_nothing(
    own_stack, own_stack_settings, kafka, streams, tmp_path, fault
):
    worker = WorkerProcess(own_stack, kafka, tmp_path, roles="ingest")
    broker = psutil.Process(read_state(own_stack_settings.data_dir.absolute())["kafka"].process.pid)
    try:
        worker.wait_ready(4)
        streams.open()
        streams.lines(300)  # a unit is open or commits at any moment now
        if fault == "killed":
            kill_part(own_stack_settings, "kafka")
        else:
            broker.suspend()
        time.sleep(streams.rng.uniform(0, 1))
        began = time.monotonic()
        worker.stop()
        assert time.monotonic() - began < STOP_WITHIN_S, worker.log.read_text()[-3_000:]
        assert "Traceback" not in worker.log.read_text()
        if fault == "frozen":
            broker.resume()
        ensure_up(own_stack_settings)
        worker = WorkerProcess(own_stack, kafka, tmp_path, roles="ingest")
        streams.fault_ended("a worker started")
        streams.end()
        streams.check()
        assert worker.stop() == 0
    finally:
        if fault == "frozen":
            broker.resume()
        worker.kill()


@pytest.mark.slow_fault
def test_an_ingest_that_keeps_what_an_outage_aborted_is_found(
    own_stack, own_stack_settings, kafka, streams, tmp_path
):
    streams.history.budget_s = BACKLOG_S
    streams.open()
    streams.lines(_LINES // 2)
    env = planted(tmp_path, "keeps_what_failed")
    worker = WorkerProcess(own_stack, kafka, tmp_path, roles="ingest", **env)
    try:
        worker.wait_ready(4)
        deadline = time.monotonic() + 60
        while not appended(kafka, OUTPUT) and time.monotonic() < deadline:
            time.sleep(0.02)
        kill_part(own_stack_settings, "kafka")
        time.sleep(15)  # longer than a unit waits for its acknowledgements
        ensure_up(own_stack_settings)
        streams.fault_ended("Kafka is back")
        streams.end()
        assert "I2" in {violation.invariant for violation in streams.violations()}
    finally:
        worker.kill()


def schema_of_another_producer(stack, kafka):
    """Register the schema of events as somebody else has it: in other words, under another id."""
    said = json.loads(subjects()[EVENT]) | {"doc": f"as a producer of {kafka.topic_prefix} writes it"}
    return Registry(stack.registry_url).register(f"{kafka.topic_prefix}event", json.dumps(said))


def registry_away(own_stack, settings, kafka, streams, folder, **env):
    """Have the registry be away for a worker that knows the schemas, and for one that lacks an event's."""
    worker = WorkerProcess(own_stack, kafka, folder, roles="ingest", **env)
    try:
        worker.wait_ready(4)
        streams.open()
        streams.lines(50)
        streams.check()
        kill_part(settings, "registry")
        streams.lines(50)
        streams.check()
        worker.kill()
        ensure_up(settings)
        worker = WorkerProcess(own_stack, kafka, folder, roles="ingest", **env)
        worker.wait_ready(4)
        streams.schema_id = schema_of_another_producer(own_stack, kafka)  # ours are fetched at the start
        kill_part(settings, "registry")
        streams.lines(50)
        time.sleep(streams.rng.uniform(2, 5))
        ensure_up(settings)
        streams.fault_ended("the registry is back")
        streams.end()
        return streams.violations()
    finally:
        worker.kill()


def test_with_the_registry_away_known_schemas_flow_and_unknown_ones_wait(
    own_stack, own_stack_settings, kafka, streams, tmp_path
):
    assert registry_away(own_stack, own_stack_settings, kafka, streams, tmp_path) == []


@pytest.mark.slow_fault
def test_an_ingest_that_takes_silence_of_the_registry_for_its_answer_is_found(
    own_stack, own_stack_settings, kafka, streams, tmp_path
):
    env = planted(tmp_path, "gives_up_on_the_registry")
    found = registry_away(own_stack, own_stack_settings, kafka, streams, tmp_path, **env)
    assert "is dead, must be output" in {violation.what for violation in found if violation.invariant == "I1"}


def test_with_postgresql_away_the_archive_waits_and_then_holds_every_stream(
    own_stack, own_stack_settings, kafka, streams, sink_history, tmp_path
):
    table = sink_history(own_stack, kafka, Registry(own_stack.registry_url))
    worker = WorkerProcess(own_stack, kafka, tmp_path)
    try:
        worker.wait_ready(4 + 8 + 8)
        streams.open()
        kill_part(own_stack_settings, "postgres")
        streams.lines(100)
        streams.end()
        streams.check()  # ingest does not wait for the database
        time.sleep(streams.rng.uniform(1, 3))
        assert worker.process.poll() is None, "the archive waits for PostgreSQL"
        ensure_up(own_stack_settings)
        table.fault_ended("PostgreSQL is back")
        table.check()
        assert archived(own_stack, streams.tenant) == {(f"s-{i}", "completed", 101) for i in range(20)}
        assert read_all(kafka, DEAD_LETTERS) == []
    finally:
        worker.kill()


def archived(stack, tenant):
    with psycopg.connect(stack.postgres_dsn) as connection:
        rows = connection.execute(
            "SELECT stream_id, end_reason, last_seq FROM sluicegate.streams WHERE tenant = %s", [tenant]
        )
        return set(rows)


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1", "127.0.0.1:1"),
        ("SLUICEGATE_REGISTRY__URL", "http://127.0.0.1:1/apis/ccompat/v7", "http://127.0.0.1:1"),
        ("SLUICEGATE_POSTGRES__DSN", "postgresql://u:s3cret-word@127.0.0.1:1/db", "127.0.0.1:1"),
    ],
)
def test_what_is_away_at_the_start_is_named_with_its_address_and_the_worker_ends(
    own_stack, kafka, tmp_path, setting, value, named
):
    env = os.environ | {
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "SLUICEGATE_REGISTRY__URL": own_stack.registry_url,
        "SLUICEGATE_POSTGRES__DSN": own_stack.postgres_dsn,
        "SLUICEGATE_DATA_DIR": str(tmp_path),
        setting: value,
    }
    done = subprocess.run(
        [sys.executable, "-m", "ops", "worker"],
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 3, said
    assert named in said
    assert "Traceback" not in said
    assert "s3cret-word" not in said
