"""Equally numbered partitions of several topics go to one worker, by each assignment that says so."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer

from connectors.kafka.membership import ConsumerOptions, consumer_config
from schemas.topics import INPUT, OUTPUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions


def given(consumer: Consumer) -> dict[str, set[int]]:
    """Return the partitions that a member has, by topic."""
    found = defaultdict(set)
    for at in consumer.assignment():
        found[at.topic].add(at.partition)
    return found


def are_level(members: Sequence[Consumer], topics: Sequence[str]) -> bool:
    """Say whether each has the same numbers of all topics, and all are given."""
    parts = [[given(member)[topic] for topic in topics] for member in members]
    numbers = sorted(number for part in parts for number in part[0])
    return numbers == [0, 1, 2, 3] and all(part[0] == other for part in parts for other in part)


@pytest.mark.parametrize("assignment", ["range", "consumer"])
def test_equal_numbers_stay_together_as_members_join_and_leave(
    kafka_options: KafkaOptions, topics, assignment
):
    topics(INPUT, OUTPUT)
    names = [spec.named(kafka_options.topic_prefix) for spec in (INPUT, OUTPUT)]
    with ExitStack() as held:
        members: list[Consumer] = []
        for number in range(3):
            options = ConsumerOptions(f"{kafka_options.topic_prefix}g", f"m-{number}", assignment=assignment)
            members.append(Consumer(consumer_config(kafka_options, options)))
            held.enter_context(closing(members[-1]))
            members[-1].subscribe(names)
            until_level(members, names)
        members.pop(0).close()
        until_level(members, names)


def until_level(members: Sequence[Consumer], topics: Sequence[str]) -> None:
    deadline = time.monotonic() + 40
    while not are_level(members, topics):
        said = [dict(given(member)) for member in members]
        assert time.monotonic() < deadline, f"equal numbers are apart: {said}"
        for member in members:
            member.poll(0.05)
