"""One contender over one load: started, watched from outside, read back and checked.

1. What it needs is made ready; its output topic is created.
2. It is started, and has ended its work when its group has committed the end of every input partition.
3. Its output is read back, read committed, until the last value of every window is right.
4. Its time runs from the first call of its deserialiser, which it tells itself, to the broker's append of
   the last of those values: the same clock, and the same two moments, for all.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from benchmarks.meter import Meter, stop
from benchmarks.readback import Check, GroupProgress, Topic, read_back
from benchmarks.results import Result
from benchmarks.windows import SCHEMA
from connectors.kafka.admin import ensure_topics
from ops.stack.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contenders import Contender
    from connectors.kafka.options import KafkaOptions
    from ops.settings import Settings
    from ops.stack.addresses import Addresses
    from schemas.topics import TopicSpec

START_S: Final = 90.0
POLL_S: Final = 0.25
_ROOT: Final = Path(__file__).resolve().parent.parent
_FIRST: Final = re.compile(r"first record at (\d+)")


class Load(Protocol):
    """Events on a topic of their own, and what must become of them."""

    @property
    def role(self) -> str:
        """The role that works it off; names its group together with the contender's tag."""

    @property
    def kafka(self) -> KafkaOptions:
        """Where it is; its prefix is its own."""

    @property
    def input(self) -> TopicSpec:
        """The topic that it is on."""

    @property
    def count(self) -> int:
        """How many events."""

    def output(self, tag: str) -> TopicSpec:
        """Return the topic by which a contender is checked."""

    def check(self) -> Check:
        """Return a check that has seen nothing yet."""


@dataclass(frozen=True)
class Race:
    """One run of one contender."""

    contender: Contender
    load: Load
    where: Addresses
    run_number: int
    root: Path
    """Where the folders of all contenders are: state and log."""
    member: int = 0
    """Which of several processes that share the work; each has a folder of its own."""

    def run(self, settings: Settings, work: str) -> Result:
        """Measure; a contender that cannot be had, or that fails, is a result with a note."""
        try:
            command = self.command(settings)
        except (StackError, OSError, subprocess.SubprocessError) as error:
            return self._result(work, None, 0.0, 0, note=f"not to be had: {_last_words(error)}")
        ensure_topics(self.load.kafka, [self._output])
        members = [replace(self, member=member) for member in range(self.contender.workers)]
        processes = [member.begin(command) for member in members]
        meters = [Meter(process.pid) for process in processes]
        try:
            timeout_s = START_S + self.load.count / self.contender.rate_min
            note = self.wait(processes, self.load.count, timeout_s)
            taken = [meter.stop() for meter in meters]
            last_ms, difference = read_back(self.output, self.load.check())
        finally:
            for process in processes:
                stop(process)
        began = [int(first[1]) for first in map(_FIRST.search, (each.said for each in members)) if first]
        if len(began) < len(members):
            difference = difference or f"{len(began)} of {len(members)} processes told when they began"
        seconds = (last_ms - min(began)) / 1_000 if began and not difference else None
        cpu_s, rss_mb = sum(cpu_s for cpu_s, _ in taken), sum(rss_mb for _, rss_mb in taken)
        return self._result(work, seconds, cpu_s, rss_mb, note="; ".join(filter(None, (note, difference))))

    def command(self, settings: Settings) -> list[str]:
        """Return what starts the contender, fetched and compiled if need be.

        Raises:
            StackError, OSError, SubprocessError: it is not to be had.
        """
        command = list(self.contender.command(settings))
        return command if self.contender.peer else [*command, str(self.load.input.partitions), self.tag]

    def begin(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start it on a folder made for it."""
        self.folder.mkdir(parents=True)
        return self.start(command)

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start it on its folder; what it says goes on in its log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, env=self._env(), cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def tag(self) -> str:
        """Names its topics, its group and its folder among those of its load."""
        return f"{self.contender.slug}-{self.run_number}"

    @property
    def folder(self) -> Path:
        """Where it keeps its state and its log."""
        return self.root / f"{self.load.kafka.topic_prefix}{self.tag}.{self.member}"

    @property
    def output(self) -> Topic:
        """What it is checked by."""
        return Topic(
            self.load.kafka, self._output.named(self.load.kafka.topic_prefix), self._output.partitions
        )

    @property
    def said(self) -> str:
        """All that it said."""
        return self.log.read_text(errors="replace")

    @property
    def log(self) -> Path:
        """What it said, in all of its starts."""
        return self.folder / "log"

    @property
    def _output(self) -> TopicSpec:
        return self.load.output(self.tag)

    @property
    def _group(self) -> str:
        """As our own worker names the group of a role; peers take it."""
        return f"{self.load.kafka.topic_prefix}sluicegate.{self.load.role}-{self.tag}"

    def _env(self) -> dict[str, str]:
        prefix = self.load.kafka.topic_prefix
        ours = {
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": self.where.kafka,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": prefix,
            "SLUICEGATE_REGISTRY__URL": self.where.registry_url,
            "SLUICEGATE_DATA_DIR": str(self.folder),
            "SLUICEGATE_WORKER__COMMIT_INTERVAL_MS": "1000",
            "SLUICEGATE_WORKER__CHUNK_EVENTS_MAX": "10000",
            # As a pod's name: a start on an empty folder is the same member, and ends what it had open.
            "SLUICEGATE_WORKER__IDENTITY": f"{self.tag}.{self.member}",
        }
        peers = {
            "BENCH_KAFKA": self.where.kafka,
            "BENCH_INPUT": self.load.input.named(prefix),
            "BENCH_OUTPUT": self.output.name,
            "BENCH_GROUP": self._group,
            "BENCH_PARTITIONS": str(self.load.input.partitions),
            "BENCH_STATE": str(self.folder / "state"),
            "BENCH_SCHEMA": SCHEMA,
            "BENCH_IDENTITY": self.tag,
        }
        return dict(os.environ | (peers if self.contender.peer else ours) | dict(self.contender.env))

    def wait(self, processes: Sequence[subprocess.Popen[bytes]], count: int, timeout_s: float) -> str:
        """Wait until its group has committed ``count`` events; says what went wrong if it did not."""
        deadline = time.monotonic() + timeout_s
        with closing(self._progress()) as progress:
            while (committed := progress.events()) < count:
                for process in processes:
                    if process.poll() is not None:
                        return f"ended by itself (exit code {process.returncode}): {self.last_line()}"
                if time.monotonic() > deadline:
                    return f"given up: {committed} of {count} committed"
                time.sleep(POLL_S)
        return ""

    def committed(self) -> int:
        """Return how many events its group has committed (the load has no markers among its offsets)."""
        with closing(self._progress()) as progress:
            return progress.events()

    def _progress(self) -> GroupProgress:
        name = self.load.input.named(self.load.kafka.topic_prefix)
        return GroupProgress(Topic(self.load.kafka, name, self.load.input.partitions), self._group)

    def _result(self, work: str, seconds: float | None, cpu_s: float, rss_mb: int, *, note: str) -> Result:
        ran = seconds is not None
        return Result(
            self.contender.name,
            work,
            self.contender.guarantee,
            self.load.count,
            int(self.load.count / seconds) if seconds else None,
            round(cpu_s * 1_000_000 / self.load.count, 1) if ran else None,
            rss_mb if ran else None,
            verified=ran,
            note=note,
        )

    def last_line(self) -> str:
        """Return the last that it said."""
        lines = self.said.split("\n")
        return next((line.strip()[:160] for line in reversed(lines) if line.strip()), "no word")


def _last_words(error: Exception) -> str:
    """Return the end of what a tool said, in a line."""
    said = getattr(error, "stderr", None) or getattr(error, "stdout", None) or str(error)
    return " ".join(said.split())[-160:]
