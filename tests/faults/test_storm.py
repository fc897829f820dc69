"""Members of the group come and go without a pause, some by their own will."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING, get_args

import pytest

from connectors.kafka.membership import Assignment
from tests.faults.ledger import INPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Run

EVERY_S = 3.0
TURNS = 10
WORKERS_MAX = 3
EVENTS = 1_000  # a slow agent has what comes as one chunk of them for longer than members stay

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]


def storm(run: Run, seed: int, assignment: Assignment) -> None:
    rng = random.Random(seed)
    run.worker(assignment=assignment)
    for _ in range(TURNS):
        there = [worker for worker in run.workers if worker.runs]
        if len(there) < 2 or (len(there) < WORKERS_MAX and rng.random() < 0.5):
            run.worker(assignment=assignment)
        else:
            leaving = rng.choice(there)
            leaving.send(rng.choice([signal.SIGTERM, signal.SIGKILL]))
        time.sleep(EVERY_S)


@pytest.mark.parametrize("assignment", get_args(Assignment))
def test_members_come_and_go_every_three_seconds(run: Run, seed, assignment):
    run.begin()
    storm(run, seed, assignment)
    run.until(lambda: any(worker.runs for worker in run.workers), "a worker that is left")
    run.until_committed(500)
    run.settle()
    run.check()
    for worker in run.workers:
        if worker.process.returncode == -signal.SIGTERM:  # it was not up yet, and had no handler
            assert "partition ready" not in worker.says
        else:
            assert worker.process.returncode in (0, -signal.SIGKILL), worker.says[-3_000:]


def test_an_agent_that_is_slow_gets_on_though_no_member_stays_for_a_chunk(run_of: Callable[..., Run], seed):
    run = run_of(mode="slow")
    run.begin(EVENTS)
    run.load.stop()
    storm(run, seed, "range")
    handled = [run.committed_of(partition) for partition in range(INPUT.partitions)]
    assert sum(handled) >= EVENTS // 10, f"{handled} of {EVENTS} handled\n{run.logs()}"
    assert min(handled) > 0, f"{handled} handled: a partition does not get on\n{run.logs()}"
    run.worker()
    run.settle(budget_s=120)
    run.check(("output", "duplicate", "late"))


@pytest.mark.parametrize("assignment", get_args(Assignment))
def test_a_member_that_was_killed_comes_back_at_once_before_its_session_is_over(run: Run, assignment):
    run.begin()
    first = run.worker(assignment=assignment)
    run.until(lambda: "partition ready" in first.says, "the first is ready")
    first.kill()
    run.worker(assignment=assignment)
    run.until_committed(500)
    run.settle()
    run.check()
