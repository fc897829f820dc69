"""A real worker as a process tree of its own, that a test can kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

ROLES = "ingest,aggregate,archive"


class WorkerProcess:
    """``sluicegate worker`` under a test's prefix; its log is kept for the failure's message."""

    def __init__(
        self, stack: Addresses, kafka: KafkaOptions, data_dir: Path, *, roles: str = ROLES, **env: str
    ):
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self.log = data_dir / f"worker-{time.monotonic_ns()}.log"
        self._env = os.environ | {
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
            "SLUICEGATE_REGISTRY__URL": stack.registry_url,
            "SLUICEGATE_POSTGRES__DSN": stack.postgres_dsn,
            "SLUICEGATE_DATA_DIR": str(data_dir),
            **env,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ops", "worker", "--roles", roles],
            env=self._env,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def tree(self) -> list[psutil.Process]:
        """The parent and the process of each role."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait_ready(self, partitions: int, timeout_s: float = 60.0) -> None:
        """Wait until so many partitions are restored and read."""
        deadline = time.monotonic() + timeout_s
        while self.log.read_text().count("partition ready") < partitions:
            assert self.process.poll() is None, self.log.read_text()[-3_000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3_000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL all of it at once: nobody can finish anything."""
        for process in self.tree():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait(20)

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM, and the exit code; killed if it hangs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
