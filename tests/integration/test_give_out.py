"""What was rebuilt is given out: the latest of each key, once, also if that is killed between two batches."""

from __future__ import annotations

import random

from confluent_kafka import Producer

from connectors.kafka.admin import ensure_topics
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.rewrite import Rewriter
from ops.reprocess import switch
from ops.reprocess.plan import Plan
from schemas.topics import TopicSpec, beside
from tests.support.read_topic import read_committed

SUMS = TopicSpec("given.sums.v1", "key", "", 2, -1, "compact", "sums")
SIDE = beside(SUMS, "g2-ab")


def test_each_key_is_given_out_once_with_its_last_value_over_kills(kafka_options, monkeypatch):
    ensure_topics(kafka_options, [SUMS, SIDE])
    last = rebuilt(kafka_options)
    monkeypatch.setattr(switch, "_BATCH", 20)
    plan = Plan("totals", 1, 2, (), kafka_options)
    written, write = [], Rewriter.write

    def killed_at_some(rewriter, partition, pairs, progress):
        if len(written) in (1, 4, 9) and written[-1] is not None:
            written.append(None)
            raise KafkaUnavailable("nowhere", "killed")
        write(rewriter, partition, pairs, progress)
        written.append(len(pairs))

    monkeypatch.setattr(Rewriter, "write", killed_at_some)
    for attempt in range(10):
        try:
            switch.give_out(plan, SUMS, SIDE, "ab")
        except KafkaUnavailable:
            assert attempt < 9
        else:
            break
    assert written.count(None) == 3
    switch.give_out(plan, SUMS, SIDE, "ab")  # and once more, of what is whole
    found = [(message.key(), message.value()) for message in read_committed(kafka_options, SUMS, len(last))]
    assert len(found) == len(last), "none twice"
    assert dict(found) == last


def rebuilt(kafka) -> dict[bytes, bytes | None]:
    """Write sums of 100 keys over and over, some in transactions that abort; return the last of each."""
    chance = random.Random(7)
    producer = Producer(
        kafka.client_config()
        | {"transactional.id": f"{kafka.topic_prefix}rebuilt", "partitioner": "murmur2_random"}
    )
    producer.init_transactions(30)
    last: dict[bytes, bytes | None] = {}
    for unit in range(30):
        producer.begin_transaction()
        changes = {
            b"%d" % chance.randrange(100): b"%d" % unit if chance.random() < 0.9 else None for _ in range(40)
        }
        for key, value in changes.items():
            producer.produce(SIDE.named(kafka.topic_prefix), value, key)
        producer.flush(30)
        if unit % 7 == 3:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
            last |= changes
    return last


def test_of_an_output_that_was_never_written_nothing_is_given_out(kafka_options):
    ensure_topics(kafka_options, [SUMS, SIDE])
    assert switch.give_out(Plan("totals", 1, 2, (), kafka_options), SUMS, SIDE, "ab") == 0
