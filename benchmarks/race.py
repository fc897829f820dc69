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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from benchmarks.meter import Meter, stop
from benchmarks.results import Result
from benchmarks.windows import INPUT, PARTITIONS, SCHEMA, output_of
from connectors.kafka.admin import ensure_topics
from ops.stack.errors import StackError

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.readings import Load
    from ops.settings import Settings
    from ops.stack.addresses import Addresses
    from schemas.topics import TopicSpec

START_S: Final = 90.0
POLL_S: Final = 0.25
# At least once, the last updates come about a second after their events were acknowledged.
LAST_OUTPUT_S: Final = 15.0
_ROOT: Final = Path(__file__).resolve().parent.parent
_FIRST: Final = re.compile(r"first record at (\d+)")


@dataclass(frozen=True)
class Race:
    """One run of one contender."""

    contender: Contender
    load: Load
    where: Addresses
    run_number: int
    root: Path
    """Where the folders of all contenders are: state and log."""

    def run(self, settings: Settings, work: str) -> Result:
        """Measure; a contender that cannot be had, or that fails, is a result with a note."""
        try:
            command = list(self.contender.command(settings))
        except (StackError, OSError, subprocess.SubprocessError) as error:
            return self._result(work, None, 0.0, 0, note=f"not to be had: {_last_words(error)}")
        if not self.contender.peer:
            command.append(self._tag)
        ensure_topics(self.load.kafka, [self._output])
        self._folder.mkdir(parents=True)
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                command, env=self._env(), cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        meter = Meter(process.pid)
        try:
            note = self._wait(process)
            cpu_s, rss_mb = meter.stop()
            last_ms, difference = self._read_back()
        finally:
            stop(process)
        first = _FIRST.search(self._log.read_text(errors="replace"))
        if not first:
            difference = difference or "it did not tell when it began"
        seconds = (last_ms - int(first[1])) / 1_000 if first and not difference else None
        return self._result(work, seconds, cpu_s, rss_mb, note="; ".join(filter(None, (note, difference))))

    @property
    def _tag(self) -> str:
        return f"{self.contender.slug}-{self.run_number}"

    @property
    def _folder(self) -> Path:
        return self.root / self._tag

    @property
    def _output(self) -> TopicSpec:
        return output_of(self._tag)

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    @property
    def _group(self) -> str:
        """As our own worker names the group of a role; peers take it."""
        return f"{self.load.kafka.topic_prefix}sluicegate.windows-{self._tag}"

    def _env(self) -> dict[str, str]:
        prefix = self.load.kafka.topic_prefix
        ours = {
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": self.where.kafka,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": prefix,
            "SLUICEGATE_REGISTRY__URL": self.where.registry_url,
            "SLUICEGATE_DATA_DIR": str(self._folder),
            "SLUICEGATE_WORKER__COMMIT_INTERVAL_MS": "1000",
            "SLUICEGATE_WORKER__CHUNK_EVENTS_MAX": "10000",
        }
        peers = {
            "BENCH_KAFKA": self.where.kafka,
            "BENCH_INPUT": INPUT.named(prefix),
            "BENCH_OUTPUT": self._output.named(prefix),
            "BENCH_GROUP": self._group,
            "BENCH_PARTITIONS": str(PARTITIONS),
            "BENCH_STATE": str(self._folder / "state"),
            "BENCH_SCHEMA": SCHEMA,
        }
        return dict(os.environ | (peers | dict(self.contender.env) if self.contender.peer else ours))

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """Wait until its group has committed all; says what went wrong if it did not come to that."""
        admin = AdminClient(self.load.kafka.client_config() | {"log_level": 0})
        deadline = time.monotonic() + START_S + self.load.count / self.contender.rate_min
        while time.monotonic() < deadline:
            if self._committed(admin) >= self.load.count:
                return ""
            if process.poll() is not None:
                return f"ended by itself (exit code {process.returncode}): {self._last_line()}"
            time.sleep(POLL_S)
        return f"given up: {self._committed(admin)} of {self.load.count} committed"

    def _committed(self, admin: AdminClient) -> int:
        """Events whose offsets the group has committed (the load has no markers among its offsets)."""
        try:
            future = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self._group)])
            offsets = future[self._group].result(10).topic_partitions
        except KafkaException:
            return 0  # the broker does not know the group yet
        name = INPUT.named(self.load.kafka.topic_prefix)
        return sum(max(at.offset, 0) for at in offsets if at.topic == name)

    def _read_back(self) -> tuple[int, str]:
        """Return when the last value of all windows was appended, and where the values are wrong."""
        consumer = Consumer(
            self.load.kafka.client_config()
            | {"group.id": "bench.check", "isolation.level": "read_committed", "enable.auto.commit": False}
        )
        name = self._output.named(self.load.kafka.topic_prefix)
        consumer.assign([TopicPartition(name, partition, 0) for partition in range(PARTITIONS)])
        values: dict[bytes, bytes] = {}
        times_ms: dict[bytes, int] = {}
        quiet_since = time.monotonic()
        difference = "nothing was read back"
        try:
            while difference and time.monotonic() - quiet_since < LAST_OUTPUT_S:
                messages = [message for message in consumer.consume(10_000, 0.5) if message.error() is None]
                for message in messages:
                    values[message.key()] = message.value()
                    times_ms[message.key()] = message.timestamp()[1]
                if messages:
                    quiet_since = time.monotonic()
                else:
                    difference = self.load.difference(values)
        finally:
            consumer.close()
        return max(times_ms.values(), default=0), difference

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

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip()[:160] for line in reversed(lines) if line.strip()), "no word")


def _last_words(error: Exception) -> str:
    """Return the end of what a tool said, in a line."""
    said = getattr(error, "stderr", None) or getattr(error, "stdout", None) or str(error)
    return " ".join(said.split())[-160:]
