"""One run under fault: workers as processes, a load from a seed, and the history that comes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from connectors.kafka.admin import ensure_topics
from connectors.kafka.birth import is_birth
from schemas.catalog import LocalSchemas
from schemas.topics import DEAD_LETTERS
from schemas.wire import WireCodec
from state.rocksdb import RocksStore
from tests.faults.checker import check
from tests.faults.grouplog import commits_of
from tests.faults.history import Change, FaultEnd, History, Made, Outcome, StateCopy
from tests.faults.kafka_proxy import KafkaProxy
from tests.faults.ledger import (
    CHANGELOGS,
    INPUT,
    OUTPUT,
    OVERSIZED,
    PARTITIONS,
    POISON,
    VERDICTS,
    Entry,
    Input,
    Kind,
    entries,
)
from tests.faults.reading import read_all
from tests.faults.tally import AGENT, READINGS, SAID, TALLIES, TOTALS, Effect, readings
from tests.faults.watch import Watch
from tests.faults.worker import ROLE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec
    from tests.faults.history import AgentHistory, Commit

ROOT = Path(__file__).parents[2]
RECOVERY_S = 60.0
"""What a take-over waits for at most, session 6 s and transaction 10 s, and then a busy machine."""
READING_EACH = 4
"""So many entries are published for one reading."""
ASSIGNED = INPUT.partitions + READINGS.partitions
"""Partitions of both agents."""
AHEAD = 20_000
"""Records that are published and not yet handled, at most: some seconds of work."""
_LAST_KEY = b"\xff" * 8


class Worker:
    """One process of the ledger's worker; ``on_fault`` is told what was done to it, for I7."""

    def __init__(
        self,
        given: dict[str, Any],
        log: Path,
        on_fault: Callable[[str], None],
        within: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> None:
        self.log = log
        self._on_fault = on_fault
        with log.open("w") as sink:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "tests.faults.worker", json.dumps(given)],
                cwd=ROOT,
                env=os.environ | (env or {}),
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        on_fault(f"{log.stem} started")

    @property
    def says(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)
        self._on_fault(f"{self.log.stem} was sent {number.name}")

    def kill(self) -> None:
        """SIGKILL, and see it gone."""
        self.send(signal.SIGKILL)
        self.process.wait(20)

    def end(self, within_s: float = 40.0) -> int:
        """Wait for its end."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on:\n{self.says[-3_000:]}") from None


class Load(threading.Thread):
    """Publishes the seed's entries and readings at a steady rate, and notes what was acknowledged."""

    def __init__(self, kafka: KafkaOptions, seed: int, rate: float, *, alone: bool) -> None:
        super().__init__(daemon=True)
        self._alone = alone
        self._kafka, self._seed, self._rate = kafka, seed, rate
        self._stopping = threading.Event()
        self.acknowledged: set[tuple[int, int]] = set()
        self.readings: set[tuple[int, int]] = set()
        """Of the readings, acknowledged."""
        self.limit = AHEAD
        """So many are published at most: on a slow machine the load waits for the workers."""
        self.sent = 0
        self.left = -1

    def run(self) -> None:
        """Publish until stopped."""
        producer = Producer(
            self._kafka.client_config()
            | {"partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True}
        )
        began = time.monotonic()
        for spec, key, value in _published(self._seed, alone=self._alone):
            topic = spec.named(self._kafka.topic_prefix)
            delivered = self._delivered if spec is INPUT else self._reading_delivered
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=delivered)
                    break
                except BufferError:  # a broker that is away for a while: wait for room, and lose nothing
                    producer.poll(0.1)
            self.sent += 1
            if self.sent % 100 == 0:
                producer.poll(0)
                while self.sent >= self.limit and not self._stopping.wait(0.05):
                    producer.poll(0)
                self._stopping.wait(max(0.0, began + self.sent / self._rate - time.monotonic()))
            if self._stopping.is_set():
                break
        self.left = producer.flush(60)

    def _delivered(self, error: object, message: Message) -> None:
        if error is None:
            self.acknowledged.add((message.partition() or 0, message.offset() or 0))

    def _reading_delivered(self, error: object, message: Message) -> None:
        if error is None:
            self.readings.add((message.partition() or 0, message.offset() or 0))

    def stop(self) -> None:
        """Publish nothing more, and wait for the acknowledgements."""
        self._stopping.set()
        self.join(90)
        assert self.left == 0, "Kafka did not acknowledge the load"


class Run:
    """Workers and load of one test. ``kafka`` is what the recorder reads by, never through a fault.

    ``alone`` = the ledger without the tally beside it: for what an operator does to a whole group's offsets.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        folder: Path,
        seed: int,
        *,
        mode: str = "batch",
        rate: float = 3_000.0,
        cleanup: str = "compact",
        alone: bool = False,
    ) -> None:
        self.kafka, self.folder, self.mode = kafka, folder, mode
        self.workers: list[Worker] = []
        self.alone = alone
        self.load = Load(kafka, seed, rate, alone=alone)
        self.changelog = CHANGELOGS[cleanup]
        self._stateful: set[Path] = set()
        self.history = History()
        topics = [INPUT, OUTPUT, VERDICTS, self.changelog, DEAD_LETTERS, READINGS, TOTALS, SAID, TALLIES]
        ensure_topics(kafka, topics)
        self._probe = Consumer(
            kafka.client_config() | {"group.id": self.group, "isolation.level": "read_committed"}
        )
        self._watch = Watch(kafka, self.group, INPUT, READINGS)
        self._watch.start()

    @property
    def group(self) -> str:
        """The workers' group."""
        return f"{self.kafka.topic_prefix}{ROLE}"

    def worker(
        self,
        folder: str = "disk",
        *,
        bootstrap: str = "",
        within: Sequence[str] = (),
        env: dict[str, str] | None = None,
        **given: Any,
    ) -> Worker:
        """Start one more worker; those with one ``folder`` share a disk, with a slot each.

        ``within`` is a command that runs a command; the rest are options of ``tests.faults.worker``.
        """
        self._stateful.add(self.folder / folder)
        options = {
            "bootstrap": bootstrap or self.kafka.bootstrap_servers,
            "prefix": self.kafka.topic_prefix,
            "state_dir": str(self.folder / folder),
            "mode": self.mode,
            "cleanup": self.changelog.cleanup,
            "alone": self.alone,
            **given,
        }
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(Worker(options, log, self.fault_ended, within, env))
        return self.workers[-1]

    def proxy(self, host: str = "127.0.0.1") -> KafkaProxy:
        """A proxy before the run's brokers."""
        return KafkaProxy(self.kafka.bootstrap_servers.split(","), host, self.fault_ended)

    def fault_ended(self, what: str) -> None:
        """Note that nothing keeps the engine from its recovery any more: it is counted from here (I7).

        Workers and proxies tell by themselves; a test does where it harms something else.
        """
        self.history.faults.append(FaultEnd(what, time.time()))

    def begin(self, records: int = 500) -> None:
        """Begin to publish, and go on when so many records are in the log."""
        self.load.start()
        self.until(lambda: len(self.load.acknowledged) >= records, f"{records} published records")

    def until(self, holds: Callable[[], object], what: str, within_s: float = 60.0) -> None:
        """Wait for a condition; what the workers said is shown where it does not come."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"never seen: {what}\n{self.logs()}"
            time.sleep(0.05)

    def committed_of(self, partition: int) -> int:
        """The group's committed offset of one partition of the ledger's; 0 = none."""
        asked = [TopicPartition(INPUT.named(self.kafka.topic_prefix), partition)]
        return max(int(self._probe.committed(asked, timeout=20)[0].offset), 0)

    def committed(self) -> int:
        """How many records the group has committed, of both agents; Kafka away, the last answer."""
        committed = self._watch.look()
        self.load.limit = committed + AHEAD
        return committed

    def until_committed(self, more: int, within_s: float = 60.0) -> None:
        """Wait until so many records more than now are handled."""
        target = self.committed() + more

        def reached() -> bool:
            assert any(worker.runs for worker in self.workers), f"no worker runs\n{self.logs()}"
            return self.committed() >= target

        self.until(reached, f"{target} committed records", within_s)

    def until_units(self, topic: TopicSpec, more: int) -> None:
        """Wait until each partition of a topic was handled in so many more units, however slow it is."""
        name = topic.named(self.kafka.topic_prefix)
        before = self._watch.moves(name)

        def reached() -> bool:
            self.committed()  # the load goes on with it
            return min(now - then for now, then in zip(self._watch.moves(name), before, strict=True)) >= more

        self.until(reached, f"{more} units more of each partition of {name}")

    def logs(self) -> str:
        """The end of what each worker said."""
        return "\n".join(f"--- {worker.log.name}\n{worker.says[-2_500:]}" for worker in self.workers)

    # -- the end --------------------------------------------------------------------------------------

    def settle(self, budget_s: float = RECOVERY_S) -> None:
        """End the load, wait until all of it is handled, and stop the workers; then record the history."""
        self.load.stop()
        total = sum(high for _low, high in [*self.ends(INPUT), *self.ends(READINGS)])
        self.history.budget_s = budget_s
        self.until(lambda: self.committed() >= total, "the end of the input", budget_s + 30.0)
        running = [worker for worker in self.workers if worker.runs]
        for worker in running:
            worker.process.terminate()
        for worker in running:
            assert worker.end() == 0, worker.says[-3_000:]
        self.record()
        last = max(fault.at_s for fault in self.history.faults)
        assert any(commit.at_s > last for commit in self.history.commits), "nothing was left to recover"

    def record(self) -> History:
        """Read what Kafka and the disks say; the workers must have ended."""
        history, tally = self.history, self.history.tally
        history.acknowledged, tally.acknowledged = self.load.acknowledged, self.load.readings
        history.inputs = self.inputs()
        tally.inputs = [_input(message) for message in self._read(READINGS)]
        history.outcomes = [_output(message) for message in self._read(OUTPUT)]
        history.outcomes += [_verdict(message) for message in self._read(VERDICTS)]
        codec = WireCodec(LocalSchemas())
        for message in self._read(DEAD_LETTERS):
            letter = codec.decode(message.value(), DEAD_LETTERS.subject)
            history.outcomes.append(
                Outcome("dead", letter["partition"], letter["offset"], message.offset() or 0)
            )
        tally.made = [_made(message) for topic in (TOTALS, SAID) for message in self._read(topic)]
        names = [topic.named(self.kafka.topic_prefix) for topic in (INPUT, READINGS)]
        commits = commits_of(self.kafka, self.group, names)
        self._watch.look()
        self._record_agent(history, ROLE, self.changelog, names[0], commits)
        self._record_agent(tally, AGENT, TALLIES, names[1], commits)
        return history

    def _record_agent(
        self,
        history: AgentHistory,
        agent: str,
        changelog: TopicSpec,
        topic: str,
        commits: dict[str, list[Commit]],
    ) -> None:
        seen_s = self._watch.seen_s
        history.commits = [
            replace(each, at_s=seen_s(topic, each.partition, each.offset)) for each in commits[topic]
        ]
        history.changes = self.changes(changelog)
        history.copies = list(self._copies(agent))

    def inputs(self) -> list[Input]:
        """Return what the ledger's input holds now."""
        return [_input(message) for message in self._read(INPUT)]

    def changes(self, changelog: TopicSpec) -> list[Change]:
        """Return what a changelog holds now."""
        return [
            Change(message.partition() or 0, message.offset() or 0, message.key() or b"", message.value())
            for message in self._read(changelog)
            if not is_birth(message.key() or b"")
        ]

    def check(self, kinds: Collection[Kind] = get_args(Kind)) -> None:
        """All invariants hold, and the run was worth it: each of these kinds of outcome was met."""
        assert {outcome.kind for outcome in self.history.outcomes} >= set(kinds)
        if not self.alone:
            assert {made.effect.kind for made in self.history.tally.made} == {"total", "closed", "late"}
        found = check(self.history)
        assert not found, "\n".join(map(str, found)) + "\n" + self.logs()

    def close(self) -> None:
        """Leave nothing behind, however the test ended."""
        self.load._stopping.set()
        for worker in self.workers:
            if worker.runs:
                worker.kill()
        self._watch.close()
        self._probe.close()

    def ends(self, topic: TopicSpec) -> list[tuple[int, int]]:
        """Where each partition's log begins and ends."""
        name = topic.named(self.kafka.topic_prefix)
        return [
            self._probe.get_watermark_offsets(TopicPartition(name, number), timeout=20)
            for number in range(topic.partitions)
        ]

    def _read(self, topic: TopicSpec) -> list[Message]:
        return read_all(self.kafka, topic)

    def _copies(self, agent: str) -> Iterator[StateCopy]:
        for disk in sorted(self._stateful):
            for slot in sorted(disk.glob(f"{ROLE}/slot-*")):
                if not (slot / agent / "data").exists():
                    continue
                store = RocksStore(slot / agent)
                for number in range(PARTITIONS):
                    backend = store.partition(number)
                    position = backend.position()
                    if position is not None:
                        data = dict(backend.scan(b"", _LAST_KEY, 10_000_000))
                        where = str(slot.relative_to(self.folder))
                        yield StateCopy(where, number, position.offset, data)
                store.close()


def _published(seed: int, *, alone: bool) -> Iterator[tuple[TopicSpec, bytes, bytes]]:
    given = readings(seed)
    for number, entry in enumerate(entries(seed)):
        yield INPUT, *entry
        if not alone and number % READING_EACH == 0:
            yield READINGS, *next(given)


def _input(message: Message) -> Input:
    key, value = message.key() or b"", message.value() or b""
    entry = None if value in (POISON, OVERSIZED) else Entry.decode(key, value)
    return Input(message.partition() or 0, message.offset() or 0, entry, message.timestamp()[1] / 1_000)


def _output(message: Message) -> Outcome:
    event_id, unit, source, count, total = orjson.loads(message.value() or b"")
    where = (message.partition() or 0, source, message.offset() or 0)
    return Outcome("output", *where, unit, event_id, message.key() or b"", count, total)


def _verdict(message: Message) -> Outcome:
    event_id, unit, source, kind = orjson.loads(message.value() or b"")
    where = (message.partition() or 0, source, message.offset() or 0)
    return Outcome(kind, *where, unit, event_id, message.key() or b"")


def _made(message: Message) -> Made:
    unit, kind, source, count, total = orjson.loads(message.value() or b"")
    effect = Effect(kind, source, message.key() or b"", count, total)
    return Made(message.partition() or 0, unit, effect)
