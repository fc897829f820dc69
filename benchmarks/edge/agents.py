"""The whole way: events enter the input topic, ``ingest`` numbers them, the edge shows them."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from benchmarks.edge.servers import Edge
from benchmarks.meter import stop
from schemas.topics import INPUT


class EdgeWithAgents(Edge):
    """An edge and a worker with the role ``ingest``; the producer is a native one, and leaves seq to it."""

    linger_ms = 25  # a request to Kafka is of one partition: at 5 they are 800 a second for 5,000 events

    _worker: subprocess.Popen[bytes]

    def before(self) -> None:
        """Start the worker, and open the streams."""
        env = os.environ | self.environment() | {"SLUICEGATE_DATA_DIR": str(self.folder / "worker")}
        command = [sys.executable, "-m", "ops", "worker", "--roles", "ingest"]
        with (self.folder / "worker.log").open("wb") as log:
            self._worker = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        for stream in range(self._streams):
            self.writer.open(stream, INPUT)
        self.writer.flush()

    def send(self, stream: int, seq: int) -> None:  # noqa: ARG002  # ingest gives it
        """See Server."""
        self.writer.line(stream, INPUT)

    def worker_cpu_s(self) -> float:
        """Return what the worker's processes have taken of the processors so far."""
        parent = psutil.Process(self._worker.pid)
        return float(sum(sum(each.cpu_times()[:2]) for each in (parent, *parent.children(recursive=True))))

    def _stop(self) -> None:
        super()._stop()
        if hasattr(self, "_worker"):
            stop(self._worker)
