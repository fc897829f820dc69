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

from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec
from tests.support.plain_streams import PlainStreams
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.run import Run

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]

HOUR_S = 3_600
SHIFT = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {by_s}
time.time_ns = lambda: _time_ns() + {by_s} * 10**9
"""


def skewed(folder: Path, by_s: int) -> dict[str, str]:
    """Environment of a Python whose clock is off; the fault is seen to land."""
    where = folder / f"clock{by_s:+d}"
    where.mkdir(exist_ok=True)
    (where / "sitecustomize.py").write_text(SHIFT.format(by_s=by_s))
    env = {"PYTHONPATH": str(where)}
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


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
def test_streams_are_accepted_whole_by_an_ingest_whose_clock_is_off(
    stack, kafka_options, topics, registry, tmp_path, by_s
):
    topics()
    streams = PlainStreams(kafka_options, WireCodec(registry), PayloadCodec(registry))
    worker = WorkerProcess(stack, kafka_options, tmp_path, roles="ingest", **skewed(tmp_path, by_s))
    try:
        worker.wait_ready(4)
        streams.open()
        streams.lines(100)
        streams.end()
        streams.check()
        assert worker.stop() == 0
    finally:
        worker.kill()
