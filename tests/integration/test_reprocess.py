"""A role with a mistake is rebuilt beside itself and switched, under live events: none is lost or doubled."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from ops.errors import REFUSED
from schemas.topics import partition_of
from schemas.wire import WireCodec
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed
from tests.support.totals_agent import OUTPUT, RESULTS, SEEN, event, write_agent

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

KEYS = 40
WRONG, RIGHT = 2, 1  # what an event counts as


class User(CommandLine):
    """A user with two checkouts of an agent: the one that counts wrong, and the one that is mended."""

    def __init__(self, folder: Path, stack: Addresses, kafka: KafkaOptions, codec: WireCodec) -> None:
        super().__init__(folder, stack, kafka)
        self.kafka, self._codec = kafka, codec
        self.wrong = write_agent(folder / "wrong", step=WRONG)
        self.mended = write_agent(folder / "mended", step=RIGHT, more="\nGENERATION = 2\n")
        self.published = 0
        self._producer = Producer(kafka.client_config() | {"linger.ms": 5})
        self._turn = threading.Lock()
        self._live = threading.Event()
        self._thread: threading.Thread | None = None

    def publish(self, count: int) -> None:
        """Append the next events to the output topic, in the place of ingest."""
        topic = OUTPUT.named(self.kafka.topic_prefix)
        with self._turn:
            for number in range(self.published, self.published + count):
                made = event(number, f"s-{number % KEYS}")
                self._producer.produce(
                    topic, self._codec.encode_event(made), made.key, partition=partition_of(made.key, 4)
                )
            assert self._producer.flush(30) == 0
            self.published += count

    def begin_live(self) -> None:
        """Publish some events each moment, until ``end_live``."""

        def run() -> None:
            while not self._live.is_set():
                self.publish(20)
                time.sleep(0.1)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def end_live(self) -> None:
        self._live.set()
        if self._thread is not None:
            self._thread.join(30)

    def code(self, folder: Path) -> None:
        self.environment["SLUICEGATE_PIPELINES"] = str(folder)

    def start_worker(self, folder: Path, log: str) -> subprocess.Popen[bytes]:
        self.code(folder)
        return self.start("worker", "--roles", "totals", log=log)

    def reprocess(self, *words: str, log: str) -> subprocess.Popen[bytes]:
        self.code(self.mended)
        return self.start("reprocess", "totals", *words, log=log)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def until_said(self, what: str, log: str, times: int = 1) -> None:
        self.until(lambda: self.log(log).count(what) >= times, f"{log} says {what}", log=log)


@pytest.fixture
def user(tmp_path, stack, kafka_options, registry, topics) -> Iterator[User]:
    topics(OUTPUT)
    with User(tmp_path, stack, kafka_options, WireCodec(registry)) as running:
        try:
            yield running
        finally:
            running.end_live()


def seen(kafka: KafkaOptions, enough: int, deadline_s: float = 90.0) -> Counter[str]:
    """How often each event was told of in the output that is not compacted."""
    found = read_committed(kafka, SEEN, enough, deadline_s=deadline_s)
    return Counter((message.value() or b"").decode() for message in found)


def sums(kafka: KafkaOptions, enough: int) -> dict[str, list[int]]:
    """All sums that were said of each key, in their order."""
    found = defaultdict(list)
    for message in read_committed(kafka, RESULTS, enough, quiet_s=0.5):
        found[(message.key() or b"").decode()].append(int(message.value() or b"0"))
    return found


def right_sums(published: int) -> dict[str, int]:
    return dict(Counter(f"default/s-{number % KEYS}" for number in range(published)))


@pytest.mark.timeout(240)
def test_wrong_sums_are_right_after_the_switch_and_no_event_is_lost_or_doubled(
    user: User, kafka_options: KafkaOptions
) -> None:
    old = user.start_worker(user.wrong, "old")
    user.until_said('"partition ready"', "old", 4)
    user.publish(4_000)
    user.begin_live()

    # A dry run says what would be done; the mended code does not run on the state that is wrong
    user.code(user.mended)
    code, out, err = user.run("reprocess", "totals", "--from", "earliest")
    assert code == 0, err
    assert "generation 1 runs, this code is generation 2" in out
    assert "totals.results.v1; at the switch its keys are given out as they were rebuilt" in out
    assert "totals.seen.v1; at the switch what is out stays as it is" in out
    assert user.start_worker(user.mended, "early").wait(60) == REFUSED
    assert "what runs is generation 1" in user.log("early")

    # It is built, interrupted and killed meanwhile; the one that runs goes on
    first = user.reprocess("--from", "earliest", "--yes", log="first")
    user.until_said("builds in process", "first")
    user.until_said("as far as generation 1", "first")
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    killed = user.reprocess("--from", "earliest", "--yes", log="killed")
    user.until_said("as far as generation 1", "killed")
    user.kill(killed)
    assert old.poll() is None

    # A worker with the mended code builds now, too; then the switch
    new = user.start_worker(user.mended, "new")
    user.until_said('"partition ready"', "new", 4)
    told_by_now = seen(kafka_options, user.published, deadline_s=4.0)
    assert set(told_by_now.values()) == {1}, "held back: nothing is out twice"
    switch = user.reprocess("--switch", "--yes", "--json", log="switch")
    assert switch.wait(150) == 0, user.log("switch")
    told = [json.loads(line) for line in user.log("switch").splitlines()]
    assert any(one.get("told") == "generation 2 is live" for one in told)
    assert old.wait(30) == 0, "it made way, and its worker had nothing else to do"
    user.until_said('"partition ready"', "new", 8)

    # Live events flow on through the new one; then all is compared
    user.publish(400)
    user.end_live()
    published = user.published
    found = seen(kafka_options, published)
    assert len(found) == published
    assert set(found.values()) == {1}, "each event was told of once, by one of the two"
    right = right_sums(published)

    def last() -> dict[str, int]:
        return {key: told[-1] for key, told in sums(kafka_options, KEYS).items()}

    user.until(lambda: last() == right, "the latest sum of each key is right", log="new")
    for key, told_of_key in sums(kafka_options, KEYS).items():
        given_out = [at for at, (a, b) in enumerate(pairwise(told_of_key)) if b < a]
        assert len(given_out) == 1, f"{key}: from wrong sums to right ones, once"
        after = told_of_key[given_out[0] + 1 :]
        assert after == list(range(after[0], right[key] + 1)), "then one by one"

    # The old code cannot take its place again
    assert user.start_worker(user.wrong, "again").wait(60) == REFUSED
    assert "generation 2 has taken its place" in user.log("again")
    new.terminate()
    assert new.wait(40) == 0


@pytest.mark.timeout(180)
def test_what_is_built_is_given_up_and_nothing_of_it_is_in_the_next_attempt(
    user: User, kafka_options: KafkaOptions
) -> None:
    old = user.start_worker(user.wrong, "old")
    user.until_said('"partition ready"', "old", 4)
    user.publish(400)
    seen(kafka_options, 400)
    built = user.reprocess("--from", "earliest", "--yes", log="built")
    user.until_said("as far as generation 1", "built")
    user.code(user.mended)
    assert "would be given up" in user.run("reprocess", "totals", "--discard")[1]
    code, out, err = user.run("reprocess", "totals", "--discard", "--yes")
    assert code == 0, err
    assert "generation 1 keeps its place" in out
    assert built.wait(60) == 1
    assert (
        "is not built any more"
        in user.log("built") + (user.folder / "data" / "logs" / "reprocess-totals.log").read_text()
    )
    assert old.poll() is None

    # Another attempt, from now on: it knows nothing of the first
    time.sleep(7)  # the first's session, as its group must be empty
    user.publish(400)
    switch = user.reprocess("--from", "0s", "--switch", "--yes", log="switch")
    assert switch.wait(120) == 0, user.log("switch")
    assert old.wait(30) == 0
    user.publish(400)
    new = user.start_worker(user.mended, "new")
    assert len(found := seen(kafka_options, 1_200)) == 1_200
    assert set(found.values()) == {1}
    latest = {key: told[-1] for key, told in sums(kafka_options, KEYS).items()}
    assert set(latest.values()) <= set(range(10, 21)), "events before the time are not in the new sums"
    new.terminate()
    assert new.wait(40) == 0


def test_what_cannot_be_rebuilt_beside_is_refused_with_what_to_do(user: User) -> None:
    user.code(user.wrong)
    for words, said in (
        (("ingest", "--from", "earliest"), "sluicegate's own"),
        (("nobody", "--from", "earliest"), "there is no role 'nobody'"),
        (("totals", "--from", "earliest"), "say GENERATION = 2"),
    ):
        code, _, err = user.run("reprocess", *words)
        assert code == 2
        assert said in err
    user.code(user.mended)
    for since in ("yesterday", "2026-05-01T08:00:00", "2999-01-01T00:00:00Z"):
        assert user.run("reprocess", "totals", "--from", since)[0] == 2
    assert user.run("reprocess", "totals", "--switch", "--yes")[0] == 2
    assert user.run("reprocess", "totals", "--discard", "--yes")[0] == 2
