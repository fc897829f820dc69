"""Retention that passes a worker: it says how much is gone, and does not go on as if nothing were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.ledger import INPUT

if TYPE_CHECKING:
    from tests.faults.run import Run

GONE = 25


def overrun(run: Run) -> int:
    """Have retention pass a worker that is gone; returns the offset that it stands at in partition 0."""
    run.begin()
    run.worker()
    run.until(lambda: run.committed_of(0) > 0, "a committed offset of partition 0")
    run.workers[0].kill()
    position = run.committed_of(0)
    run.until(lambda: run.ends(INPUT)[0][1] > position + GONE, "records that nobody handled")
    admin = AdminClient(run.kafka.client_config())
    cut = TopicPartition(INPUT.named(run.kafka.topic_prefix), 0, position + GONE)
    assert admin.delete_records([cut])[cut].result(20).low_watermark == position + GONE
    return position


def test_records_that_retention_took_before_they_were_handled_are_counted_and_stop_the_worker(run: Run):
    position = overrun(run)
    worker = run.worker()
    assert worker.end(60) != 0
    gone = f"{GONE} records, offsets {position} to {position + GONE - 1}"
    assert f"{gone}, were deleted before they were handled" in worker.says
    assert "runbooks/checkpoint-failure.md, Records that retention took" in worker.says
    assert run.committed_of(0) == position, "it went on without them"


@pytest.mark.slow_fault
def test_an_operator_who_accepts_the_loss_has_the_worker_go_on_behind_it(run: Run):
    position = overrun(run)
    admin = AdminClient(run.kafka.client_config())
    topic = INPUT.named(run.kafka.topic_prefix)

    def accepted() -> bool:  # not as long as the broker knows the member that was killed
        behind = TopicPartition(topic, 0, position + GONE)
        wanted = ConsumerGroupTopicPartitions(run.group, [behind])
        try:
            admin.alter_consumer_group_offsets([wanted])[run.group].result(20)
        except KafkaException:
            return False
        return run.committed_of(0) == position + GONE

    run.until(accepted, "an offset behind what is gone")
    run.worker()
    run.until_committed(1_000)
    run.until(lambda: run.committed_of(0) > position + GONE, "it went on behind what is gone")
    assert run.committed_of(0) > position + GONE
