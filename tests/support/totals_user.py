"""A user with a folder of agents of which one, totals, is deployed, migrated and reprocessed by tests."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from schemas.topics import OUTPUT, partition_of
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed
from tests.support.totals_agent import RESULTS, SEEN, event

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec


class TotalsUser(CommandLine):
    """Publishes events of so many keys in turn, in the place of ingest, and runs workers of one role."""

    def __init__(
        self, folder: Path, stack: Addresses, kafka: KafkaOptions, codec: WireCodec, *, keys: int = 40
    ) -> None:
        super().__init__(folder, stack, kafka)
        self.kafka, self.keys, self.published = kafka, keys, 0
        self._codec = codec
        self._producer = Producer(kafka.client_config() | {"linger.ms": 5})
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._live: threading.Thread | None = None

    def publish(self, count: int) -> None:
        """Append the next events to the output topic."""
        topic = OUTPUT.named(self.kafka.topic_prefix)
        with self._turn:
            for number in range(self.published, self.published + count):
                made = event(number, f"s-{number % self.keys}")
                self._producer.produce(
                    topic, self._codec.encode_event(made), made.key, partition=partition_of(made.key, 4)
                )
                self._producer.poll(0)
            assert self._producer.flush(30) == 0
            self.published += count

    def begin_live(self) -> None:
        """Publish some events each moment, until ``end_live``."""

        def run() -> None:
            while not self._ended.is_set():
                self.publish(20)
                time.sleep(0.1)

        self._live = threading.Thread(target=run)
        self._live.start()

    def end_live(self) -> None:
        self._ended.set()
        if self._live is not None:
            self._live.join(30)

    def code(self, folder: Path) -> None:
        """Have what is run from now on be of this checkout."""
        self.environment["SLUICEGATE_PIPELINES"] = str(folder)

    def start_worker(
        self, folder: Path, *words: str, log: str, role: str = "totals"
    ) -> subprocess.Popen[bytes]:
        self.code(folder)
        return self.start("worker", "--roles", role, *words, log=log)

    def reprocess(self, folder: Path, *words: str, log: str, role: str = "totals") -> subprocess.Popen[bytes]:
        self.code(folder)
        return self.start("reprocess", role, *words, log=log)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def until_said(self, what: str, log: str, times: int = 1) -> None:
        self.until(lambda: self.log(log).count(what) >= times, f"{log} says {what}", log=log)

    def until_ready(self, log: str, times: int = 4) -> None:
        self.until_said('"partition ready"', log, times)

    def stop(self, worker: subprocess.Popen[bytes]) -> None:
        worker.terminate()
        assert worker.wait(40) == 0

    # -- what came of it ----------------------------------------------------------------------------------

    def seen(self, enough: int, deadline_s: float = 90.0) -> Counter[str]:
        """How often each event was told of in the output that is not compacted."""
        found = read_committed(self.kafka, SEEN, enough, deadline_s=deadline_s)
        return Counter((message.value() or b"").decode() for message in found)

    def sums(self, enough: int, topic: TopicSpec = RESULTS) -> dict[str, list[int]]:
        """All sums that were said of each key, in their order."""
        found = defaultdict(list)
        for message in read_committed(self.kafka, topic, enough, quiet_s=0.5):
            found[(message.key() or b"").decode()].append(int(message.value() or b"0"))
        return found

    def right_sums(self) -> dict[str, int]:
        """The last sum of each key, of what was published."""
        return dict(Counter(f"default/s-{number % self.keys}" for number in range(self.published)))

    def until_right(self, log: str, topic: TopicSpec = RESULTS) -> None:
        def latest() -> dict[str, int]:
            return {key: told[-1] for key, told in self.sums(self.keys, topic).items()}

        self.until(lambda: latest() == self.right_sums(), "the latest sum of each key is right", log=log)
