"""At least once against real Kafka: no event is lost whoever dies when, and what is done twice is bounded."""

from __future__ import annotations

import signal
import time
from collections import Counter

import psutil
import pytest

from connectors.kafka.options import KafkaOptions
from ops.settings import KafkaSettings, PostgresSettings, RegistrySettings, Settings
from ops.stack.down import down
from ops.stack.state import read_state
from ops.stack.up import ensure_up
from tests.integration.test_engine import running
from tests.support.counting_worker import COUNT, OUTPUT, POISON

pytestmark = pytest.mark.timeout(300)
SLOW = pytest.mark.slow_fault

UNIT_MAX = 20_000
"""More than a unit of work holds here: a process that dies repeats one at most."""


def handled(bench, published, *, repeats_max):
    """Every value is there, at most so many are there again, and no key counts less than its events.

    Returns how many were there again.
    """
    values, last = Counter(), Counter()
    for message in bench.read(OUTPUT, published, quiet_s=1.0):
        value = message.value() or b""
        values[value[COUNT.size :]] += 1
        last[message.key()] = COUNT.unpack_from(value)[0]
    repeated = sum(values.values()) - published
    assert values.keys() == {f"v{i}".encode() for i in range(published)}
    assert repeated <= repeats_max
    assert all(last[key] >= events for key, events in bench.expected.items()), "state was lost"
    return repeated


def start(bench, **more):
    return bench.start(guarantee="at-least-once", **more)


def test_killed_when_its_records_stand_and_its_offsets_do_not_it_repeats_that_unit_and_loses_nothing(
    kafka_options, tmp_path
):
    with running(kafka_options, tmp_path, "batch") as bench:
        dying = start(bench, commits_max=0)
        bench.publish(0, 1_000)
        assert dying.wait(60) == 137
        stood = len(bench.read(OUTPUT, 1, quiet_s=1.0))
        start(bench)
        bench.publish(1_000, 2_000)

        assert handled(bench, 2_000, repeats_max=1_000) == stood


@SLOW
@pytest.mark.parametrize("mode", ["event", "batch"])
def test_killed_at_any_moment_it_is_taken_over_and_nothing_is_lost(kafka_options, tmp_path, mode):
    with running(kafka_options, tmp_path, mode) as bench:
        first = start(bench)
        bench.publish(0, 5_000)
        bench.read(OUTPUT, 1)
        bench.publish(5_000, 20_000)
        first.send_signal(signal.SIGKILL)
        start(bench)
        bench.publish(20_000, 25_000)
        handled(bench, 25_000, repeats_max=UNIT_MAX)


@SLOW
@pytest.mark.parametrize("assignment", ["range", "cooperative-sticky", "consumer"])
def test_without_a_failure_each_event_has_one_effect_while_workers_join_and_leave(
    kafka_options, tmp_path, assignment
):
    with running(kafka_options, tmp_path, "batch", assignment) as bench:
        first = start(bench)
        bench.publish(0, 5_000, {7: POISON})
        bench.read(OUTPUT, 4_999)
        start(bench)
        bench.publish(5_000, 15_000)
        bench.read(OUTPUT, 14_999)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        bench.publish(15_000, 20_000)
        bench.check()


@pytest.fixture
def own_kafka(tmp_path_factory, topic_prefix):
    """Kafka of this test's own, and its broker's process."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("own-stack"),
        kafka=KafkaSettings(),
        registry=RegistrySettings(),
        postgres=PostgresSettings(),
    )
    addresses = ensure_up(settings)
    broker = psutil.Process(read_state(settings.data_dir.absolute())["kafka"].process.pid)
    yield KafkaOptions(addresses.kafka, topic_prefix), broker
    broker.resume()
    down(settings)


@SLOW
def test_a_broker_that_does_not_answer_for_longer_than_any_time_out_is_waited_for(own_kafka, tmp_path):
    kafka, broker = own_kafka
    with running(kafka, tmp_path, "batch") as bench:
        worker = start(bench)
        bench.publish(0, 5_000)
        bench.read(OUTPUT, 5_000)
        bench.publish(5_000, 20_000)
        broker.suspend()
        time.sleep(25)
        assert worker.poll() is None
        broker.resume()
        bench.publish(20_000, 25_000)
        handled(bench, 25_000, repeats_max=4 * UNIT_MAX)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
