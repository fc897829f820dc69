"""Whom a group names as the owner of a partition, and where that one's web answers: with each assignment."""

from __future__ import annotations

import time
from typing import get_args

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.chunk import SourcePartition, events_of
from connectors.kafka.consumer import PollThread
from connectors.kafka.membership import Assignment, ConsumerOptions
from connectors.kafka.owners import Owners
from schemas.topics import TopicSpec
from tests.integration.test_poll_thread import Listener

INPUT = TopicSpec("owned.input.v1", "key", "", 3, -1, "delete", "whose is it")


@pytest.mark.parametrize("assignment", get_args(Assignment))
def test_the_group_names_the_owner_and_its_web(kafka_options, assignment):
    ensure_topics(kafka_options, [INPUT])
    topic, group = INPUT.named(kafka_options.topic_prefix), f"{kafka_options.topic_prefix}{assignment}"
    options = ConsumerOptions(group, "member", assignment, advertised="127.0.0.1:8700")
    owners = Owners(kafka_options, group)
    assert owners.of(SourcePartition(topic, 0)) is None, "nobody is there yet"
    poller = PollThread(kafka_options, options, {topic: events_of(lambda records: records)}, Listener())
    poller.start()
    try:
        deadline = time.monotonic() + 60
        while {owners.of(SourcePartition(topic, n)) for n in range(INPUT.partitions)} != {"127.0.0.1:8700"}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert owners.of(SourcePartition(topic, INPUT.partitions)) is None
    finally:
        poller.stop()
        poller.join(20)
