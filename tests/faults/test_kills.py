"""A worker is killed at each step of its commit; whoever comes next goes on as if nothing had been."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.kafka_proxy import ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.kafka_proxy import KafkaProxy
    from tests.faults.run import Run, Worker

pytestmark = pytest.mark.timeout(300)

AT_STEPS = {
    "before it sends its offsets": (ADD_OFFSETS_TO_TXN, "request", False),
    "when its offsets are taken": (TXN_OFFSET_COMMIT, "answer", True),
    "as its commit is lost": (END_TXN, "request", False),
    "and its commit comes after it": (END_TXN, "request", True),
    "before it hears of its commit": (END_TXN, "answer", True),
}
"""The frame that is held while the worker is killed, and whether it still arrives."""
BEFORE_THE_STORE = "before its state is stored"


def kill_at(run: Run, proxy: KafkaProxy, worker: Worker, step: str) -> None:
    api, way, forward = AT_STEPS[step]
    held = proxy.hold(api, way)
    run.until(held.landed.is_set, f"a worker {step}")
    worker.kill()
    held.release(forward=forward)


@pytest.mark.parametrize(
    "mode", ["batch", *(pytest.param(mode, marks=pytest.mark.slow_fault) for mode in ("event", "columns"))]
)
def test_killed_at_each_step_of_its_commit(run_of: Callable[..., Run], seed, mode):
    run = run_of(mode=mode)
    steps = [*AT_STEPS, BEFORE_THE_STORE]
    random.Random(seed).shuffle(steps)
    run.begin()
    with run.proxy() as proxy:
        for step in steps:
            if step == BEFORE_THE_STORE:
                worker = run.worker(bootstrap=proxy.bootstrap, planted={"kills_before_the_store": 3})
                assert worker.end(60) == -signal.SIGKILL
                continue
            worker = run.worker(bootstrap=proxy.bootstrap)
            run.until_committed(300)
            kill_at(run, proxy, worker, step)
        run.worker(bootstrap=proxy.bootstrap)
        run.until_committed(300)
        run.settle()
    run.check()
    assert [worker.process.returncode for worker in run.workers] == [-signal.SIGKILL] * len(steps) + [0]
