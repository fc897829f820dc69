"""A restore takes messages in by runs of one partition: what of them counts, and in which order."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError, Message

from connectors.kafka.errors import KafkaFailure, KafkaUnavailable
from connectors.kafka.options import KafkaOptions
from connectors.kafka.restore import Progress, Restorer, _Task

TOPIC = "changelog"


class Applied(list):
    def __call__(self, changes, next_offset):
        self.append((dict(changes), next_offset))


def task_of(partition: int, *, start: int = 0) -> tuple[_Task, Applied]:
    applied = Applied()
    task = _Task((TOPIC, partition), start, 1_000, applied, threading.Event(), Progress())
    task.begin()
    return task, applied


def record(partition: int, offset: int, key: bytes, value: bytes | None) -> Message:
    return Message(TOPIC, partition, offset, key, value)


def told(partition: int, offset: int, code: int, *, fatal: bool = False) -> Message:
    return Message(TOPIC, partition, offset, error=KafkaError(code, "told", fatal))


def hand(messages, *tasks: _Task) -> None:
    Restorer(KafkaOptions("nowhere:1"))._hand(messages, {task.at: task for task in tasks})
    for task in tasks:
        task.take()


def test_each_partition_gets_its_own_messages_and_of_a_key_the_last_one_counts():
    (one, of_one), (two, of_two) = task_of(1), task_of(2)
    hand(
        [
            record(1, 0, b"a", b"1"),
            record(1, 1, b"b", b"1"),
            record(2, 7, b"a", b"other"),
            record(3, 0, b"a", b"of nobody"),
            record(1, 4, b"a", b"22"),
            record(1, 5, b"b", None),
        ],
        one,
        two,
    )
    assert of_one == [({b"a": b"22", b"b": None}, 6)]
    assert of_two == [({b"a": b"other"}, 8)]
    assert (one.progress.records, one.progress.size_bytes) == (4, 8)


def test_messages_before_the_position_were_fetched_for_an_earlier_restore():
    task, applied = task_of(1, start=5)
    hand([record(1, offset, b"%d" % offset, b"v") for offset in (3, 4, 5, 6)], task)
    hand([record(1, offset, b"%d" % offset, b"again") for offset in (5, 6)], task)
    assert applied == [({b"5": b"v", b"6": b"v"}, 7)]
    assert task.progress.records == 2


def test_the_end_of_a_partition_moves_the_position_over_markers_of_transactions():
    task, applied = task_of(1)
    hand([record(1, 0, b"a", b"1"), told(1, 3, KafkaError._PARTITION_EOF)], task)
    assert applied == [({b"a": b"1"}, 3)]
    assert task.progress.position == 3
    hand([told(1, 9, KafkaError._PARTITION_EOF)], task)
    assert len(applied) == 1
    assert task.progress.position == 9


def test_a_changelog_that_was_cut_meanwhile_ends_its_task_and_a_fatal_error_all():
    task, applied = task_of(1)
    hand([told(1, 0, KafkaError._AUTO_OFFSET_RESET), record(1, 5, b"a", b"1")], task)
    assert task.refused is not None
    assert applied == [({b"a": b"1"}, 6)]
    with pytest.raises(KafkaFailure):
        hand([told(9, 0, KafkaError._FATAL, fatal=True)], task)


def test_a_consumer_that_cannot_be_made_is_waited_for_as_a_broker_that_is_away(tmp_path):
    away = {"security.protocol": "ssl", "ssl.ca.location": str(tmp_path / "away.pem")}
    restorer, applied = Restorer(KafkaOptions("nowhere:1", security=away)), Applied()
    for _ in range(2):
        with pytest.raises(KafkaUnavailable, match=r"ssl\.ca\.location failed") as caught:
            restorer.restore(TOPIC, 0, start=0, high=5, apply=applied, cancelled=threading.Event())
        assert caught.value.transient
    assert not applied
