"""THE table of servers: how each is started, is handed events, and is stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import psutil

from benchmarks.edge.peers import nchan, pushpin
from benchmarks.edge.writing import Writer, shown, stream_id
from benchmarks.meter import stop
from benchmarks.peers import environments
from benchmarks.results import OURS
from connectors.files import files_max
from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from schemas.payloads import PayloadCodec
from schemas.topics import OUTPUT, TOPICS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from benchmarks.edge.bench import EdgeBench

START_S: Final = 60.0
WRITES: Final = "sluicegate_edge_writes_total"
FILES: Final = 1_024
"""The soft limit of open files that a shell gives; ours raises it by itself, for the peers it is raised."""
KINDS_FOLDER: Final = Path(__file__).with_name("kinds")
_PEERS: Final = Path(__file__).with_name("peers")


@dataclass(frozen=True)
class Usage:
    """What a server's processes have taken so far, and hold now."""

    cpu_s: float
    rss_kb: float


class Server:
    """A running server; leave it to stop it."""

    path = "/{stream}"
    first_seq = 0
    """Seq of what is published next, once it runs."""

    def __init__(self, bench: EdgeBench, name: str, slug: str) -> None:
        self.bench = bench
        self.name = name
        self.folder = bench.folder / f"{slug}-{time.time_ns()}"
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abstractmethod
    def send(self, stream: int, seq: int) -> None:
        """Hand over one event of now."""

    def flush(self) -> None:
        """Wait until all was taken that was handed over."""

    def writes(self) -> int | None:
        """Return how many writes of events it has counted so far; None if it counts none."""
        return None

    def usage(self) -> Usage:
        """Return processor seconds and resident memory of all its processes, helpers of its own included."""
        cpu_s = rss = 0.0
        for started in self._started:
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(started.pid)
                for process in (parent, *parent.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        cpu_s += sum(process.cpu_times()[:2])
                        rss += process.memory_info().rss
        return Usage(cpu_s, rss / 1_024)

    def _run(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        log = self.folder / f"{len(self._started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(list(command), env=env, stdout=out, stderr=out, cwd=self.folder)
        self._started.append(process)

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + START_S
        while True:
            for number, process in enumerate(self._started):
                if process.poll() is not None:
                    said = (self.folder / f"{number}.log").read_text(errors="replace")[-300:]
                    raise RuntimeError(f"{self.name} ended at its start with {process.returncode}: {said}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not listen in {START_S:.0f} s")
            time.sleep(0.1)

    def _stop(self) -> None:
        for process in reversed(self._started):
            stop(process)


class Edge(Server):
    """Ours, on topics of its own. Events enter by Kafka: into the output topic, as ingest writes it."""

    path = "/v1/streams/s-{stream}/events"
    first_seq = 1  # 0 is ``open``
    linger_ms = 5

    def __init__(
        self,
        bench: EdgeBench,
        name: str,
        slug: str,
        *,
        processes: int = 1,
        streams: int = 1,
        kinds: Sequence[str] = (),
    ) -> None:
        super().__init__(bench, name, slug)
        self._processes = processes
        self._kinds = kinds
        self._streams = len(kinds) or streams
        self.kafka = KafkaOptions(bench.where.kafka, f"bench{time.time_ns()}.")
        registry = bench.registry()
        registry.register_all()
        ensure_topics(self.kafka, TOPICS)
        self.writer = Writer(
            self.kafka, WireCodec(registry), PayloadCodec(registry), kinds, linger_ms=self.linger_ms
        )

    def start(self) -> None:
        """See Server."""
        self.before()
        env = os.environ | self.environment()
        arguments = ("edge", "--port", str(self.port), "--processes", str(self._processes))
        self._run((sys.executable, "-m", "ops", *arguments), env)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(self._started[-1].pid, resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
        self._wait_for(self.port)
        self._until_ready()

    def before(self) -> None:
        """Write what stands in the topics when the edge starts."""
        for stream in range(self._streams):
            self.writer.open(stream, OUTPUT)
        self.writer.flush()

    def environment(self) -> dict[str, str]:
        """Return where the edge, and a worker beside it, find what they need."""
        own = {"SLUICEGATE_PIPELINES": str(KINDS_FOLDER)} if self._kinds else {}
        return own | {
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": self.bench.where.kafka,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": self.kafka.topic_prefix,
            "SLUICEGATE_REGISTRY__URL": self.bench.where.registry_url,
            "SLUICEGATE_DATA_DIR": str(self.folder),
            "SLUICEGATE_EDGE__CONNECTIONS_MAX": "20000",
            "SLUICEGATE_EDGE__GRPC_PORT": "-1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }

    def send(self, stream: int, seq: int) -> None:
        """See Server."""
        self.writer.line(stream, OUTPUT, seq)

    def flush(self) -> None:
        """See Server."""
        self.writer.flush()

    def writes(self) -> int:
        """See Server."""
        return sum(int(value) for key, value in self.metrics().items() if key.partition("{")[0] == WRITES)

    def metrics(self) -> dict[str, float]:
        """Return what the edge counts, by name and labels; of several processes each with its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        lines = (line.rpartition(" ") for line in text.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, _, value in lines}

    def _until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            with contextlib.suppress(OSError):
                connection.request("GET", "/readyz")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not become ready in {START_S:.0f} s")


class Posted(Server):
    """A server that takes an event's data by POST, over one connection that is kept."""

    publish_path = "/{stream}"
    _connection: http.client.HTTPConnection | None = None

    def send(self, stream: int, seq: int) -> None:
        """See Server."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._publish_port, timeout=60)
        self._connection.request(
            "POST", self.publish_path.format(stream=stream_id(stream)), self._body(stream, seq)
        )
        answer = self._connection.getresponse()
        answer.read()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{self.name} answered a publication with {answer.status}")

    @property
    def _publish_port(self) -> int:
        return self.port

    def _body(self, _stream: int, seq: int) -> bytes:
        return shown(seq)


class Uvicorn(Posted):
    """An ASGI app in Python, on uvicorn with uvloop and httptools."""

    path = "/s-{stream}"

    def __init__(self, bench: EdgeBench, name: str, slug: str, *, app: str) -> None:
        super().__init__(bench, name, slug)
        self._app = app

    def start(self) -> None:
        """See Server."""
        python = environments.python(self.bench.settings, "sse_servers")
        self._run(
            (
                python, "-m", "uvicorn", "--app-dir", str(_PEERS), f"{self._app}:app",
                "--port", str(self.port), "--loop", "uvloop", "--http", "httptools", "--no-access-log",
                "--log-level", "warning", "--backlog", "4096", "--timeout-keep-alive", "600",
            )
        )  # fmt: skip
        self._wait_for(self.port)


class Nchan(Posted):
    """See ``peers/nchan.py``."""

    path = "/s-{stream}"
    publish_path = "/publish/{stream}"

    def start(self) -> None:
        """See Server."""
        command, env = nchan.command(
            self.bench.settings, self.folder, self.port, files_max() - 100, root_user=os.geteuid() == 0
        )
        self._run(command, env)
        self._wait_for(self.port)


class Pushpin(Posted):
    """See ``peers/pushpin.py``."""

    path = "/s-{stream}"
    publish_path = "/publish/"

    def start(self) -> None:
        """See Server."""
        self._control_port, origin_port = free_port(), free_port()
        commands, env = pushpin.commands(
            self.bench.settings, self.folder, self.port, self._control_port, origin_port, files_max() - 100
        )
        self._run((sys.executable, str(_PEERS / "held_origin.py"), str(origin_port)))
        for command in commands:
            self._run(command, env)
        for port in (origin_port, self._control_port, self.port):
            self._wait_for(port)

    @property
    def _publish_port(self) -> int:
        return self._control_port

    def _body(self, stream: int, seq: int) -> bytes:
        content = b"id: %d\ndata: %b\n\n" % (seq, shown(seq))
        item = {"channel": stream_id(stream), "formats": {"http-stream": {"content": content.decode()}}}
        return json.dumps({"items": [item]}).encode()


class Making(Protocol):
    """Makes a server that is started when it is entered."""

    def __call__(self, bench: EdgeBench, name: str, slug: str) -> Server:
        """Return it."""
        ...


@dataclass(frozen=True)
class Contender:
    """One line of the table."""

    slug: str
    name: str
    make: Making
    first_rate: float
    """Events a second to 1,000 subscribers from which its highest is looked for."""
    peer: str = ""
    """By which ``PEERS=`` selects it; empty = ours, which always runs."""


def _edges(processes: int) -> Making:
    def make(bench: EdgeBench, name: str, slug: str) -> Server:
        return Edge(bench, name, slug, processes=processes)

    return make


def _uvicorn(app: str) -> Making:
    def make(bench: EdgeBench, name: str, slug: str) -> Server:
        return Uvicorn(bench, name, slug, app=app)

    return make


CONTENDERS: Final = (
    Contender("edge", f"{OURS} edge", _edges(1), 600),
    Contender("edge-two", f"{OURS} edge, two processes", _edges(2), 600),
    Contender("fastapi", "FastAPI StreamingResponse", _uvicorn("fastapi_queue"), 20, "fastapi"),
    Contender("sse-starlette", "sse-starlette", _uvicorn("sse_starlette_queue"), 10, "sse-starlette"),
    Contender("nchan", "nchan", Nchan, 60, "nchan"),
    Contender("pushpin", "Pushpin", Pushpin, 10, "pushpin"),
)
PEERS: Final = tuple(each.peer for each in CONTENDERS if each.peer)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
