"""Workers whose clocks are an hour off: results are of event time, and are the same.

What Python tells is shifted, by a `sitecustomize`: all that the engine reads. libfaketime is not in use, as
librdkafka waits until times of the day: under it a worker waits for ever.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.role_plants import plant, python_with
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.judgement import Violation
    from tests.faults.run import Run
    from tests.faults.streams import RecordedStreams

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]

HOUR_S = 3_600
SHIFT = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {by_s}
time.time_ns = lambda: _time_ns() + {by_s} * 10**9
"""


def skewed(folder: Path, by_s: int, more: str = "") -> dict[str, str]:
    """Environment of a Python whose clock is off; the fault is seen to land."""
    env = python_with(folder / f"clock{by_s:+d}", SHIFT.format(by_s=by_s) + more)
    ask = [sys.executable, "-c", "import time; print(time.time())"]
    said = subprocess.run(ask, env=os.environ | env, capture_output=True, text=True, check=True).stdout
    assert abs(float(said) - time.time() - by_s) < HOUR_S / 4
    return env


def test_a_ledger_kept_by_workers_whose_clocks_disagree_adds_up(run: Run):
    run.begin()
    for by_s in (HOUR_S, -HOUR_S, HOUR_S):
        worker = run.worker(env=skewed(run.folder, by_s))
        run.until_committed(2_000)
        worker.kill()
    run.worker()
    run.until_committed(500)
    run.settle()
    run.check()


@pytest.fixture
def streams(topics, kafka_options, registry, recorded) -> RecordedStreams:
    topics()
    return recorded(kafka_options, registry)


def accepted(stack, streams: RecordedStreams, folder: Path, by_s: int, more: str = "") -> list[Violation]:
    env = skewed(folder, by_s, more)
    worker = WorkerProcess(stack, streams.kafka, folder, roles="ingest", **env)
    try:
        worker.wait_ready(4)
        streams.open()
        streams.lines(100)
        streams.end()
        return streams.violations()
    finally:
        worker.kill()


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_streams_are_accepted_whole_by_an_ingest_whose_clock_is_off(stack, streams, tmp_path, by_s):
    assert accepted(stack, streams, tmp_path, by_s) == []


def test_an_ingest_that_goes_by_its_own_clock_is_found(stack, streams, tmp_path):
    found = accepted(stack, streams, tmp_path, HOUR_S, plant("goes_by_its_own_clock"))
    assert {violation.invariant for violation in found} == {"I1"}
