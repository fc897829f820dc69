"""Retention that passes a worker: it says how much is gone, and does not go on as if nothing were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.ledger import INPUT

if TYPE_CHECKING:
    from tests.faults.run import Run

GONE = 25


def test_records_that_retention_took_before_they_were_handled_are_counted_and_stop_the_worker(run: Run):
    run.begin()
    run.worker()
    run.until(lambda: run.committed_of(0) > 0, "a committed offset of partition 0")
    run.workers[0].kill()
    topic = INPUT.named(run.kafka.topic_prefix)
    position = run.committed_of(0)
    run.until(lambda: run.ends(INPUT)[0][1] > position + GONE, "records that nobody handled")
    admin = AdminClient(run.kafka.client_config())
    cut = TopicPartition(topic, 0, position + GONE)
    assert admin.delete_records([cut])[cut].result(20).low_watermark == position + GONE
    worker = run.worker()
    assert worker.end(60) != 0
    said = (
        f"{GONE} records, offsets {position} to {position + GONE - 1}, were deleted before they were handled"
    )
    assert said in worker.says
    assert "runbooks/lag-growth.md" in worker.says
    assert run.committed_of(0) == position, "it went on without them"
