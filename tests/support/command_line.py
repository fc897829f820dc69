"""`sluicegate` as a user runs it: processes in a folder of their own, against real services."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Self

import httpx2
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses


class CommandLine:
    """One deployment: a folder, a topic prefix, and every process that was started in it."""

    def __init__(self, folder: Path, stack: Addresses, kafka: KafkaOptions) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")},
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
            "SLUICEGATE_REGISTRY__URL": stack.registry_url,
            "SLUICEGATE_POSTGRES__DSN": stack.postgres_dsn,
            "SLUICEGATE_DATA_DIR": str(folder / "data"),
            "SLUICEGATE_EDGE__PORT": "0",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            self.kill(process)

    def start(
        self, *words: str, log: str | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a command; its output goes to a log in the folder, or to pipes that the test reads."""
        sink: int | object = subprocess.PIPE if log is None else (self.folder / f"{log}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "ops", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=stdin,
            stdout=sink,  # type: ignore[call-overload]  # a file or PIPE, as the log says
            stderr=subprocess.PIPE if log is None else subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the test run is not one for it
        )
        self._started.append(process)
        return process

    def start_on_terminal(self, *words: str) -> tuple[subprocess.Popen[bytes], int]:
        """Start a command on a terminal of its own; closing the descriptor closes that terminal."""
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "ops", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # forks once, and calls one thing
        )
        os.close(its)
        self._started.append(process)
        return process, ours

    def run(self, *words: str, timeout_s: float = 60, stdin: bytes | None = None) -> tuple[int, str, str]:
        """Run a command to its end: exit code, standard output, standard error."""
        process = self.start(*words, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=timeout_s)
        return process.returncode, out.decode(), err.decode()

    def edge(self) -> subprocess.Popen[bytes]:
        """Start an edge and wait until it is ready."""
        process = self.start("edge", log="edge")

        def ready() -> bool:
            try:
                found = json.loads((self.folder / "data" / "edge.json").read_bytes())
                answer = httpx2.get(f"{found['url']}/readyz", trust_env=False, verify=False)
            except (OSError, ValueError, httpx2.TransportError):
                return False
            return found["pid"] == process.pid and answer.status_code == 200

        self.until(ready, "the edge is ready", log="edge")
        return process

    def worker(self, roles: str = "ingest", log: str = "worker") -> subprocess.Popen[bytes]:
        """Start a worker; what is published waits for it, so nobody else has to."""
        return self.start("worker", "--roles", roles, log=log)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to a process and all its children, at once."""
        try:
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        process.wait(20)

    def until(
        self, holds: Callable[[], object], what: str, *, within_s: float = 60, log: str | None = None
    ) -> None:
        """Wait until something holds; fail with what it was, and the end of a log."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                file = self.folder / f"{log}.log"
                tail = file.read_text()[-3_000:] if log is not None and file.exists() else ""
                raise AssertionError(f"not within {within_s:g} s: {what}\n{tail}")
            time.sleep(0.05)
