"""Members of the group come and go without a pause, some by their own will."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING, get_args

import pytest

from connectors.kafka.consumer import Assignment

if TYPE_CHECKING:
    from tests.faults.run import Run

EVERY_S = 3.0
TURNS = 10
WORKERS_MAX = 3

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]


@pytest.mark.parametrize("assignment", get_args(Assignment))
def test_members_come_and_go_every_three_seconds(run: Run, seed, assignment):
    rng = random.Random(seed)
    run.begin()
    run.worker(assignment=assignment)
    for _ in range(TURNS):
        there = [worker for worker in run.workers if worker.runs]
        if len(there) < 2 or (len(there) < WORKERS_MAX and rng.random() < 0.5):
            run.worker(assignment=assignment)
        else:
            leaving = rng.choice(there)
            leaving.send(rng.choice([signal.SIGTERM, signal.SIGKILL]))
        time.sleep(EVERY_S)
    run.until(lambda: any(worker.runs for worker in run.workers), "a worker that is left")
    run.until_committed(500)
    run.settle()
    run.check()
    for worker in run.workers:
        if worker.process.returncode == -signal.SIGTERM:  # it was not up yet, and had no handler
            assert "partition ready" not in worker.says
        else:
            assert worker.process.returncode in (0, -signal.SIGKILL), worker.says[-3_000:]
