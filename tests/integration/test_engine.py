"""The engine against real Kafka: each event has one effect, whoever dies, joins, leaves or raises."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from confluent_kafka import Producer

from connectors.kafka.admin import ensure_topics
from connectors.kafka.membership import Assignment
from schemas.topics import DEAD_LETTERS
from tests.support.counting_worker import (
    BROKEN,
    CHANGELOG,
    COUNT,
    EXPIRING,
    INPUT,
    OUTPUT,
    POISON,
    STUMBLE,
)
from tests.support.cutting import LAST, cut, forget_group, make_anew
from tests.support.read_topic import read_committed

ROOT = Path(__file__).parents[2]
KEYS = 200


class Bench:
    """One deployment of the counting worker under a prefix of its own."""

    def __init__(self, kafka, state_dir, mode, assignment, changelog):
        self.kafka, self.state_dir, self.mode, self.assignment = kafka, state_dir, mode, assignment
        self.changelog = changelog
        self.producer = Producer(kafka.client_config() | {"linger.ms": 5, "partitioner": "murmur2_random"})
        self.expected = Counter()
        self.poisoned = 0
        self.workers = []

    def start(self, identity="", folder=".", **more):
        given = {
            "bootstrap": self.kafka.bootstrap_servers,
            "prefix": self.kafka.topic_prefix,
            "state_dir": str(self.state_dir / folder),
            "mode": self.mode,
            "identity": identity,
            "assignment": self.assignment,
            "cleanup": self.changelog.cleanup,
            **more,
        }
        log = (self.state_dir / f"worker-{len(self.workers)}.log").open("w")
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.support.counting_worker", json.dumps(given)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self.workers.append(worker)
        return worker

    def publish(self, first, last, values=None):
        values = values or {}
        for i in range(first, last):
            key = f"key-{i % KEYS}".encode()
            value = values.get(i, f"v{i}".encode())
            if value in (POISON, BROKEN):
                self.poisoned += 1
            else:
                self.expected[key] += 1
            while True:
                try:
                    self.producer.produce(INPUT.named(self.kafka.topic_prefix), value, key)
                    break
                except BufferError:
                    self.producer.poll(0.1)
        assert self.producer.flush(30) == 0

    def read(self, topic, enough, *, quiet_s=0.0):
        """What there is when there is enough; with ``quiet_s``, and then nothing more for so long."""
        found = read_committed(self.kafka, topic, enough, quiet_s=quiet_s)
        logs = "\n".join(p.read_text()[-2_000:] for p in self.state_dir.glob("worker-*.log"))
        assert len(found) >= enough, f"{len(found)} of {enough} records on {topic.name}\n{logs}"
        return found

    def check(self):
        """Each key's outputs are 1, 2, 3, … up to what was published, each once and in order."""
        total = sum(self.expected.values())
        last = Counter()
        for message in self.read(OUTPUT, total, quiet_s=1.0):
            n = COUNT.unpack(message.value()[:8])[0]
            assert n == last[message.key()] + 1, f"{message.key()}: {n} after {last[message.key()]}"
            last[message.key()] = n
        assert last == self.expected
        if self.poisoned:
            assert len(self.read(DEAD_LETTERS, self.poisoned, quiet_s=1.0)) == self.poisoned

    def stop(self):
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


@contextmanager
def running(kafka, tmp_path, mode, assignment="range", changelog=CHANGELOG):
    ensure_topics(kafka, [INPUT, OUTPUT, changelog, DEAD_LETTERS])
    bench = Bench(kafka, tmp_path, mode, assignment, changelog)
    try:
        yield bench
    finally:
        bench.stop()


@pytest.mark.parametrize("mode", ["batch", "event", "columns"])
def test_failing_events_are_isolated_and_their_neighbours_flow(kafka_options, tmp_path, mode):
    with running(kafka_options, tmp_path, mode) as bench:
        bench.start()
        bench.publish(0, 6_000, {100: POISON, 101: STUMBLE, 2_500: POISON, 2_501: POISON, 5_999: POISON})
        bench.check()


def test_what_is_no_row_becomes_a_dead_letter_and_the_rows_beside_it_are_handled(kafka_options, tmp_path):
    with running(kafka_options, tmp_path, "columns") as bench:
        bench.start()
        bench.publish(0, 3_000, {0: BROKEN, 7: BROKEN, 8: POISON, 1_234: BROKEN, 2_999: BROKEN})
        bench.check()


@pytest.mark.parametrize("mode", ["event", "columns"])
def test_a_killed_worker_is_taken_over_by_another(kafka_options, tmp_path, mode):
    with running(kafka_options, tmp_path, mode) as bench:
        first = bench.start()
        bench.publish(0, 5_000)
        bench.read(OUTPUT, 1)
        bench.publish(5_000, 30_000)
        first.send_signal(signal.SIGKILL)
        second = bench.start()
        bench.publish(30_000, 40_000)
        bench.read(OUTPUT, 31_000)
        second.send_signal(signal.SIGKILL)
        bench.start()
        bench.publish(40_000, 45_000)
        bench.check()
        assert first.wait() == second.wait() == -signal.SIGKILL


@pytest.mark.parametrize("assignment", get_args(Assignment))
def test_workers_join_and_leave_under_load(kafka_options, tmp_path, assignment):
    with running(kafka_options, tmp_path, "batch", assignment) as bench:
        first = bench.start()
        bench.publish(0, 5_000)
        bench.read(OUTPUT, 5_000)
        bench.start()
        for step in range(1, 9):
            bench.publish(step * 5_000, (step + 1) * 5_000)
            time.sleep(0.7)
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
        bench.publish(45_000, 50_000)
        bench.check()


def test_a_worker_whose_disk_is_gone_rebuilds_its_state_from_the_changelog(kafka_options, tmp_path):
    with running(kafka_options, tmp_path, "batch") as bench:
        first = bench.start()
        bench.publish(0, 4_000)
        bench.read(OUTPUT, 4_000)
        first.send_signal(signal.SIGKILL)
        first.wait()
        shutil.rmtree(bench.state_dir / "counting")
        bench.start()
        bench.publish(4_000, 8_000)
        bench.check()


def test_state_without_a_committed_offset_stops_the_worker_with_the_reason(kafka_options, tmp_path):
    with running(kafka_options, tmp_path, "batch") as bench:
        producer = Producer(kafka_options.client_config())
        producer.produce(CHANGELOG.named(kafka_options.topic_prefix), COUNT.pack(7), b"key-1", partition=0)
        assert producer.flush(10) == 0
        bench.publish(0, 10)
        worker = bench.start()
        assert worker.wait(40) != 0
        assert "no committed offset" in (tmp_path / "worker-0.log").read_text()


@pytest.mark.parametrize("guarantee", ["exactly-once", "at-least-once"])
def test_an_output_that_nobody_made_stops_the_worker_with_what_to_do(kafka_options, tmp_path, guarantee):
    ensure_topics(kafka_options, [INPUT, CHANGELOG, DEAD_LETTERS])
    bench = Bench(kafka_options, tmp_path, "event", "range", CHANGELOG)
    try:
        bench.publish(0, 10)
        worker = bench.start(guarantee=guarantee)
        assert worker.wait(60) != 0
    finally:
        bench.stop()
    said = (tmp_path / "worker-0.log").read_text()
    assert f"there is no topic {OUTPUT.named(kafka_options.topic_prefix)}" in said
    assert "Add it to TOPICS of the agent's module" in said
    assert not read_committed(kafka_options, DEAD_LETTERS, 0, quiet_s=1.0), "no event is at fault"


def lose_disk(bench):
    shutil.rmtree(bench.state_dir / "counting")


def kill(worker):
    worker.send_signal(signal.SIGKILL)
    worker.wait()


def counted(bench, first, last):
    """Have a worker count, then kill it."""
    worker = bench.start()
    bench.publish(first, last)
    bench.read(OUTPUT, last, quiet_s=1.0)  # by then its disk has what it committed, too
    kill(worker)


def refused(bench):
    """Have a worker refuse to go on; returns what it said."""
    worker = bench.start()
    assert worker.wait(60) != 0
    said = (bench.state_dir / f"worker-{len(bench.workers) - 1}.log").read_text()
    assert "runbooks/checkpoint-failure.md" in said
    return said


@pytest.mark.parametrize("changelog", [CHANGELOG, EXPIRING], ids=["compact", "compact,delete"])
def test_a_changelog_that_was_made_anew_stops_the_worker_with_the_reason(kafka_options, tmp_path, changelog):
    with running(kafka_options, tmp_path, "batch", changelog=changelog) as bench:
        counted(bench, 0, 2_000)
        make_anew(kafka_options, changelog)
        said = refused(bench)
        assert "is empty (0 to 0), but its group has handled the input up to offset" in said
        assert "left as it is: the changelog was made anew" in said
        lose_disk(bench)
        said = refused(bench)
        assert "is empty (0 to 0), but its group has handled the input up to offset" in said
        assert "left as it is" not in said


@pytest.mark.parametrize(
    ("changelog", "disk"),
    [(CHANGELOG, "lost"), (EXPIRING, "old")],
    ids=["compact", "compact,delete"],
)
def test_a_changelog_that_was_cut_stops_a_worker_without_its_disk_and_not_one_that_has_it(
    kafka_options, tmp_path, changelog, disk
):
    """An old disk stands before the beginning of a log that keeps its records for longer than that."""
    with running(kafka_options, tmp_path, "batch", changelog=changelog) as bench:
        counted(bench, 0, 2_000)
        old = shutil.copytree(bench.state_dir / "counting", tmp_path / "old")
        cut(kafka_options, changelog, 10)
        counted(bench, 2_000, 4_000)
        bench.check()
        lose_disk(bench)
        if disk == "old":
            shutil.copytree(old, bench.state_dir / "counting")
            cut(kafka_options, changelog, LAST)
        said = refused(bench)
        assert re.search(r"begins at offset \d+ without the mark of its beginning", said)
        assert ("left as it is: position" in said) == (disk == "old")


def test_a_group_whose_agent_has_kept_no_state_yet_is_no_lost_state(kafka_options, tmp_path):
    with running(kafka_options, tmp_path, "batch") as bench:
        first = bench.start()
        bench.publish(0, 40, dict.fromkeys(range(40), POISON))  # offsets and dead letters alone
        bench.read(DEAD_LETTERS, 40)
        kill(first)
        lose_disk(bench)
        bench.start()
        bench.publish(40, 1_000)
        bench.check()


def test_a_reset_on_purpose_starts_over_at_the_beginning_of_the_log(kafka_options, tmp_path):
    with running(kafka_options, tmp_path, "batch") as bench:
        counted(bench, 0, 2_000)
        for topic in (CHANGELOG, OUTPUT):
            make_anew(kafka_options, topic)
        forget_group(kafka_options, f"{kafka_options.topic_prefix}counting")
        bench.start()
        bench.publish(2_000, 3_000)
        bench.check()


def test_a_worker_whose_identity_is_taken_over_stops_with_the_reason(kafka_options, tmp_path):
    with running(kafka_options, tmp_path, "batch") as bench:
        first = bench.start("pod-7", "one")
        bench.publish(0, 1_000)
        bench.read(OUTPUT, 1_000)
        second = bench.start("pod-7", "two")  # another machine that was given the same identity
        assert first.wait(40) != 0
        assert "fenced" in (tmp_path / "worker-0.log").read_text().lower()
        bench.publish(1_000, 2_000)
        bench.check()
        assert second.poll() is None
