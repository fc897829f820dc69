"""Retention that passes a worker: it says how much is gone, and does not go on as if nothing were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.checker import check
from tests.faults.history import part_of
from tests.faults.ledger import INPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.ledger import Kind
    from tests.faults.run import Run

GONE = 25
KINDS: tuple[Kind, ...] = ("output", "duplicate", "late")


@pytest.fixture
def run(run_of: Callable[..., Run]) -> Run:
    return run_of(alone=True)


def overrun(run: Run) -> int:
    """Have retention pass a worker that is gone; returns the offset that it stands at in partition 0."""
    run.begin()
    run.worker()
    run.until(lambda: run.committed_of(0) > 0, "a committed offset of partition 0")
    run.workers[0].kill()
    position = run.committed_of(0)
    run.until(lambda: run.ends(INPUT)[0][1] > position + GONE, "records that nobody handled")
    run.history.inputs = run.inputs()
    admin = AdminClient(run.kafka.client_config())
    cut = TopicPartition(INPUT.named(run.kafka.topic_prefix), 0, position + GONE)
    assert admin.delete_records([cut])[cut].result(20).low_watermark == position + GONE
    run.fault_ended("retention has passed")
    return position


def settle(run: Run) -> None:
    """Record the run, with what retention took of its input."""
    before = run.history.inputs
    run.settle()
    first = min(given.offset for given in run.history.inputs if given.partition == 0)
    taken = [given for given in before if given.partition == 0 and given.offset < first]
    run.history.inputs = taken + run.history.inputs


def test_records_that_retention_took_stop_the_worker_until_an_operator_accepts_the_loss(run: Run):
    position = overrun(run)
    worker = run.worker()
    assert worker.end(60) != 0
    gone = f"{GONE} records, offsets {position} to {position + GONE - 1}"
    assert f"{gone}, were deleted before they were handled" in worker.says
    assert "runbooks/checkpoint-failure.md, Records that retention took" in worker.says
    assert run.committed_of(0) == position, "it went on without them"

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
    settle(run)
    lost = {(0, offset) for offset in range(position, position + GONE)}
    run.history = part_of(run.history, lambda number, at: (number, at) not in lost)
    run.check(KINDS)


@pytest.mark.slow_fault
def test_a_worker_that_goes_on_behind_what_retention_took_is_found(run: Run):
    position = overrun(run)
    run.worker(planted={"passes_over_what_is_gone": 0})
    run.until_committed(1_000)
    settle(run)
    found = {(each.invariant, each.partition, each.offset) for each in check(run.history)}
    assert found >= {("I1", 0, position), ("I6", 0, position)}
    assert {partition for _invariant, partition, _offset in found} == {0}
