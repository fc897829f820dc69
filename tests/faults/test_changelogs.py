"""A changelog that loses its beginning, or all: the worker stops, and what is documented mends it."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.faults.history import part_of
from tests.faults.ledger import INPUT
from tests.support.cutting import LAST, cut, forget_group, make_anew

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.ledger import Kind
    from tests.faults.run import Run

KINDS: tuple[Kind, ...] = ("output", "duplicate", "late")
EXPIRING = "compact,delete"
OTHER = pytest.param("compact", marks=pytest.mark.slow_fault)


def handle(run: Run, records: int) -> list[int]:
    """Have a worker handle so many and end well; returns where it then stands."""
    worker = run.worker()
    run.until_committed(records)
    run.until(lambda: min(positions(run)) > 0, "a committed offset of each partition")
    worker.send(signal.SIGTERM)
    assert worker.end() == 0
    return positions(run)


def positions(run: Run) -> list[int]:
    return [run.committed_of(partition) for partition in range(INPUT.partitions)]


def refuses(run: Run, folder: str = "disk") -> str:
    """A worker ends with the reason, and nothing is handled; returns what it said."""
    before = positions(run)
    worker = run.worker(folder)
    assert worker.end(60) != 0
    assert "has handled the input up to offset" in worker.says
    assert "runbooks/checkpoint-failure.md, State that is gone" in worker.says
    assert positions(run) == before, "it went on without its state"
    return worker.says


@pytest.mark.parametrize("cleanup", [EXPIRING, OTHER])
def test_a_changelog_that_was_cut_stops_an_old_disk_and_the_one_that_has_it_all_goes_on(
    run_of: Callable[..., Run], cleanup: str
):
    run = run_of(cleanup=cleanup, rate=1_000.0, alone=True)
    run.begin()
    handle(run, 500)
    shutil.copytree(run.folder / "disk", run.folder / "old")
    handle(run, 500)
    ever = run.changes(run.changelog)
    cut(run.kafka, run.changelog, LAST)
    assert "without the mark of its beginning" in refuses(run, "old")
    run.worker()
    run.until_committed(500)
    run.settle()
    after = run.history.changes
    assert min(one.offset for one in after) > min(one.offset for one in ever), "it was cut"
    seen = {(change.partition, change.offset) for change in ever}
    run.history.changes = ever + [one for one in after if (one.partition, one.offset) not in seen]
    run.check(KINDS)


@pytest.mark.parametrize("cleanup", [EXPIRING, OTHER])
def test_a_changelog_that_was_made_anew_stops_the_worker_until_its_state_is_begun_anew(
    run_of: Callable[..., Run], cleanup: str
):
    run = run_of(cleanup=cleanup, rate=1_000.0, alone=True)
    run.begin()
    handled = handle(run, 1_000)
    before = replace(run.record())
    make_anew(run.kafka, run.changelog)
    assert "left as it is: the changelog was made anew" in refuses(run)

    # As the runbook has it: what was handled is deleted from the input, and then the group's offsets
    admin = AdminClient(run.kafka.client_config())
    topic = INPUT.named(run.kafka.topic_prefix)
    cuts = [TopicPartition(topic, partition, offset) for partition, offset in enumerate(handled)]
    for future in admin.delete_records(cuts).values():
        future.result(20)
    forget_group(run.kafka, run.group)
    worker = run.worker()
    run.until(lambda: worker.says.count("first start of partition") == len(handled), "a first start")
    run.settle()

    ends = dict(enumerate(handled))
    after = part_of(run.history, lambda number, at: at >= ends[number])
    for run.history in (part_of(before, lambda number, at: at < ends[number]), after):
        run.check(KINDS)
