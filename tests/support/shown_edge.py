"""An edge in a process of its own that needs no Kafka: it plays a recording. For what is sent to its port."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psutil
import structlog

from edge.options import EdgeOptions
from edge.recorded import create_replay_app
from edge.server import bind, run
from schemas.recording import RecordedEvent, RecordingHeader
from tests.support.edge_process import ROOT
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"never seen: {what}"
        time.sleep(0.05)


def check_let_go(edge: Any, *unsaid: str) -> None:
    """See that an edge holds no connection any more; its log has no traceback, and none of ``unsaid``."""
    until(lambda: edge.sockets == 0, "every connection let go of")
    log = edge.log.read_text()
    for word in ("Traceback", *unsaid):
        assert word not in log, log[-3_000:]


@dataclass
class ShownEdge:
    """Plays stream ``one``: an ``open``, so many lines of 4 kB, and nothing after them."""

    log: Path
    options: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    lines: int = 0
    files: tuple[int, int] | None = None
    """Limits of open files that it starts with, soft and hard; none = this process's."""
    module: str = "tests.support.shown_edge"
    """What its process runs."""

    def __enter__(self) -> Self:
        given = json.dumps({"port": self.port, **self.options})
        words = [sys.executable, "-m", self.module, given, str(self.lines)]
        words += map(str, self.files or ())
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self.said(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    @property
    def url(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def rss_bytes(self) -> int:
        """Memory of its process."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    @property
    def sockets(self) -> int:
        """Connections that it has open."""
        found = psutil.Process(self._process.pid).net_connections(kind="tcp")
        return sum(one.status != psutil.CONN_LISTEN for one in found)

    def connect(self, timeout_s: float = 30.0) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def said(self, *parts: bytes, half_close: bool = False, until: bytes | None = None) -> bytes:
        """All that it answers to these parts until it closes or said ``until``; nothing if it is away."""
        answer = b""
        with suppress(ConnectionError), self.connect() as client:
            for part in parts:
                with suppress(ConnectionError):  # it may have closed: what it said is still to be read
                    client.sendall(part)
            if half_close:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
            while (until is None or until not in answer) and (data := client.recv(65_536)):
                answer += data
        return answer


def main() -> None:
    """Be the process."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if files := sys.argv[3:]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files[0]), int(files[1])))
    options = EdgeOptions(**json.loads(sys.argv[1]))
    began = "2026-01-01T00:00:00Z"
    header = RecordingHeader("default", "one", "chat", began)
    events = [RecordedEvent(0, "e-0", "open", 0, began, {})]
    events += [
        RecordedEvent(0, f"e-{seq}", "log", seq, began, {"line": "x" * 4_000})
        for seq in range(1, int(sys.argv[2]) + 1)
    ]
    run(create_replay_app(header, events, options=options), bind(options.host, options.port))


if __name__ == "__main__":
    main()
