"""A deploy that does not fit what runs is refused, and a migration is applied once, whoever is killed."""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.kafka.admin import ensure_topics
from connectors.kafka.roster import Roster, store_of
from ops.errors import REFUSED
from pipelines.deployment import Deployment
from pipelines.errors import DeployRefused
from schemas.topics import DEPLOYED, partition_of
from schemas.wire import WireCodec
from state.schema import Migration, StoreSchema, kv, windows
from state.windows import WindowOptions
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed
from tests.support.totals_agent import CHANGELOG, OUTPUT, RESULTS, event, write_agent

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from ops.stack.addresses import Addresses

COUNTS = StoreSchema(parts=(kv("n", key="tenant", value=">q"),))
HOURS = StoreSchema(parts=(windows("n", WindowOptions(3_600_000), key="tenant", value=">q"),))


# -- what is on record -----------------------------------------------------------------------------------


@pytest.fixture
def roster(kafka_options: KafkaOptions, registry: Registry) -> Iterator[Roster]:
    made = Roster(kafka_options, WireCodec(registry))
    yield made
    made.close()


def deployment(kafka, roster, store, migrations=()):
    return Deployment("totals", {CHANGELOG: store}, kafka=kafka, roster=roster, migrations=migrations)


def test_a_store_is_on_record_from_its_first_start_and_another_form_of_it_is_refused(
    kafka_options, roster, topics
):
    topics(DEPLOYED, CHANGELOG)
    assert deployment(kafka_options, roster, COUNTS).admit() == {CHANGELOG: CHANGELOG}
    assert deployment(kafka_options, roster, COUNTS).admit() == {CHANGELOG: CHANGELOG}
    kept = store_of(roster.read()["totals"], CHANGELOG.name)
    assert kept is not None
    assert (kept["version"], kept["parts"]) == (1, COUNTS.text())
    with pytest.raises(
        DeployRefused, match=r"totals\.changelog\.v1 of role totals.*n: kind is 'kv'"
    ) as caught:
        deployment(kafka_options, roster, HOURS).admit()
    assert "another version" in caught.value.remedy
    wider = Migration("by-hour", CHANGELOG, 1, 2)
    with pytest.raises(DeployRefused, match="version is 1, this code's 2") as caught:
        deployment(kafka_options, roster, replace(HOURS, version=2), [wider]).admit()
    assert "--migrate by-hour" in caught.value.remedy
    assert (
        "--migrate" not in deployment(kafka_options, roster, replace(HOURS, version=3), [wider]).problems()[0]
    )
    assert store_of(roster.read()["totals"], CHANGELOG.name) == kept, "a refusal changes nothing"


def test_of_workers_that_start_at_once_with_different_code_one_kind_is_taken(kafka_options, registry, topics):
    topics(DEPLOYED, CHANGELOG)

    def start(number: int) -> str:
        mine = Roster(kafka_options, WireCodec(registry))
        try:
            deployment(kafka_options, mine, (COUNTS, HOURS)[number % 2]).admit()
        except DeployRefused:
            return "refused"
        finally:
            mine.close()
        return ("counts", "hours")[number % 2]

    with ThreadPoolExecutor(6) as pool:
        got = Counter(pool.map(start, range(6)))
    assert got["refused"] == 3
    assert set(got) in ({"refused", "counts"}, {"refused", "hours"})


def test_a_declaration_is_taken_up_later_and_a_changelog_that_was_made_anew_begins_anew(
    kafka_options, roster, topics
):
    topics(DEPLOYED, CHANGELOG)
    deployment(kafka_options, roster, StoreSchema()).admit()
    deployment(kafka_options, roster, COUNTS).admit()
    with pytest.raises(DeployRefused):
        deployment(kafka_options, roster, HOURS).admit()
    admin = AdminClient(kafka_options.client_config() | {"log_level": 0})
    name = CHANGELOG.named(kafka_options.topic_prefix)
    admin.delete_topics([name])[name].result(20)
    ensure_topics_anew(kafka_options)
    deployment(kafka_options, roster, HOURS).admit()
    kept = store_of(roster.read()["totals"], CHANGELOG.name)
    assert kept is not None
    assert kept["parts"] == HOURS.text()


def ensure_topics_anew(kafka: KafkaOptions) -> None:
    """Make the changelog again; the broker may still be at its deletion."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if ensure_topics(kafka, [CHANGELOG]).created:
                return
        except Exception:  # noqa: BLE001  whatever it is while the topic goes
            assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_worker_that_runs_hears_at_its_next_partition_that_another_code_is_deployed(
    kafka_options, roster, topics
):
    topics(DEPLOYED, CHANGELOG)
    mine = deployment(kafka_options, roster, COUNTS)
    mine.admit()
    mine.still_holds()

    def migrated(row):
        return {**row, "stores": [{**row["stores"][0], "migration": "wider", "target": "x.v1"}]}

    roster.change("totals", migrated)
    with pytest.raises(DeployRefused, match="being migrated by wider") as caught:
        mine.still_holds()
    assert caught.value.fatal
    assert "--abandon-migration" in caught.value.remedy


def test_where_nobody_made_the_topic_a_role_starts_unchecked(kafka_options, roster, topics):
    topics(CHANGELOG)
    assert deployment(kafka_options, roster, COUNTS).admit() == {CHANGELOG: CHANGELOG}
    assert deployment(kafka_options, roster, HOURS).admit() == {CHANGELOG: CHANGELOG}


# -- whole deploys ---------------------------------------------------------------------------------------


class User(CommandLine):
    """A user with a folder of agents, whose worker runs the role totals."""

    def __init__(self, folder: Path, stack: Addresses, kafka: KafkaOptions, codec: WireCodec) -> None:
        super().__init__(folder, stack, kafka)
        self.kafka, self._codec, self._published = kafka, codec, 0
        self.agents = folder / "agents"
        self.environment["SLUICEGATE_PIPELINES"] = str(self.agents)
        self.expected: Counter[str] = Counter()

    def publish(self, keys: int) -> None:
        """Append one event of each key to the output topic, in the place of ingest."""
        producer = Producer(self.kafka.client_config() | {"linger.ms": 20})
        topic = OUTPUT.named(self.kafka.topic_prefix)
        for number in range(keys):
            self._published += 1
            made = event(self._published, f"s-{number}")
            producer.produce(
                topic, self._codec.encode_event(made), made.key, partition=partition_of(made.key, 4)
            )
            self.expected[f"default/s-{number}"] += 1
        assert producer.flush(30) == 0

    def start_worker(self, *words: str, log: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "--roles", "totals", *words, log=log)

    def until_ready(self, log: str) -> None:
        file = self.folder / f"{log}.log"
        self.until(lambda: file.read_text().count('"partition ready"') >= 4, "it reads", log=log)

    def check(self) -> None:
        """Each key's counts are 1, 2, 3, … up to its events."""
        found = defaultdict(list)
        total = self.expected.total()
        for message in read_committed(self.kafka, RESULTS, total):
            found[(message.key() or b"").decode()].append(int(message.value() or b"0"))
        assert found == {key: list(range(1, count + 1)) for key, count in self.expected.items()}

    def stop(self, worker: subprocess.Popen[bytes]) -> None:
        worker.terminate()
        assert worker.wait(40) == 0

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def calls(self) -> int:
        file = self.agents / "calls.txt"
        return file.stat().st_size if file.exists() else 0


@pytest.fixture
def user(tmp_path, stack, kafka_options, registry, topics) -> Iterator[User]:
    topics(OUTPUT)
    with User(tmp_path, stack, kafka_options, WireCodec(registry)) as running:
        yield running


def changelog_ends(kafka: KafkaOptions) -> list[tuple[int, int]]:
    consumer = Consumer(kafka.client_config() | {"group.id": "ends"})
    topic = CHANGELOG.named(kafka.topic_prefix)
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, number), 10) for number in range(4)]
    consumer.close()
    return ends


@pytest.mark.timeout(240)
def test_a_migration_killed_in_its_middle_goes_on_and_no_event_is_lost_or_doubled(
    user: User, kafka_options: KafkaOptions
) -> None:
    keys = 6_000  # a partition has more than one batch of the migration
    write_agent(user.agents)
    worker = user.start_worker(log="first")
    user.until_ready("first")
    user.publish(keys)
    user.check()
    user.stop(worker)

    # Code of another version is refused, and nothing was read
    write_agent(user.agents, version=2)
    user.publish(keys)
    assert user.start_worker(log="refused").wait(60) == REFUSED
    assert "its version is 1, this code's 2" in user.log("refused")
    assert "--migrate wider" in user.log("refused")
    assert "partition ready" not in user.log("refused")
    code, out, _ = user.run("worker", "--check", "--roles", "totals")
    assert code == REFUSED
    assert re.search(r"does not fit\s+state\s+totals", out)
    assert user.run("worker", "--roles", "totals", "--migrate", "none")[0] == 2

    # With the migration named it begins; it is killed in the middle
    before = changelog_ends(kafka_options)
    (user.agents / "kill.txt").write_text("4500")
    assert user.start_worker("--migrate", "wider", log="killed").wait(90) == 137
    assert user.calls() == 4_500
    assert changelog_ends(kafka_options) == before, "the old state is as it was"

    # Neither code runs on what is half done
    write_agent(user.agents)
    assert user.start_worker(log="half").wait(60) == REFUSED
    assert "is being migrated by wider" in user.log("half")

    # The next goes on where it stood, and then the role reads
    write_agent(user.agents, version=2)
    (user.agents / "kill.txt").unlink()
    worker = user.start_worker("--migrate", "wider", log="second")
    user.until_ready("second")
    assert keys <= user.calls() < 2 * keys - 2_000, "what was carried over was not carried over again"
    user.check()
    assert changelog_ends(kafka_options) == before
    user.stop(worker)

    # It is not applied twice, and the code before it is refused from now on
    calls = user.calls()
    worker = user.start_worker("--migrate", "wider", log="again")
    user.until_ready("again")
    user.publish(keys)
    user.check()
    assert user.calls() == calls
    user.stop(worker)
    code, out, err = user.run("worker", "--check", "--roles", "totals", "--json")
    assert (code, json.loads(out)["fits"]) == (0, True), err
    write_agent(user.agents)
    assert user.start_worker(log="old").wait(60) == REFUSED
    assert "its version is 2, this code's 1" in user.log("old")


@pytest.mark.timeout(180)
def test_a_migration_waits_for_who_still_runs_and_is_given_up_without_a_trace(user: User) -> None:
    write_agent(user.agents)
    worker = user.start_worker(log="first")
    user.until_ready("first")
    user.publish(100)
    user.check()
    user.agents.rename(user.folder / "old")
    write_agent(user.agents, version=2)
    (user.agents / "kill.txt").write_text("50")
    migrating = user.start_worker("--migrate", "wider", log="migrating")
    user.until(lambda: "waits until the role's workers are gone" in user.log("migrating"), "it waits")
    assert user.calls() == 0
    user.stop(worker)
    assert migrating.wait(60) == 137, "killed in the middle, once the role was gone"

    # Given up, the old code goes on from its own state
    user.environment["SLUICEGATE_PIPELINES"] = str(user.folder / "old")
    worker = user.start_worker("--abandon-migration", log="back")
    user.until_ready("back")
    assert "migration given up" in user.log("back")
    user.publish(100)
    user.check()
    user.stop(worker)

    # And a later attempt begins from what stands then
    user.environment["SLUICEGATE_PIPELINES"] = str(user.agents)
    (user.agents / "kill.txt").unlink()
    worker = user.start_worker("--migrate", "wider", log="later")
    user.until_ready("later")
    user.publish(100)
    user.check()
    user.stop(worker)


def test_a_schema_that_would_break_a_reader_is_refused_before_anything_is_read(user: User) -> None:
    write_agent(user.agents)
    (user.agents / "schemas").mkdir()
    file = user.agents / "schemas" / f"t{user.kafka.topic_prefix[:-1]}.Total.avsc"
    schema = {
        "type": "record", "namespace": file.stem.partition(".")[0], "name": "Total",
        "fields": [{"name": "count", "type": "long"}],
    }  # fmt: skip
    file.write_text(json.dumps(schema))
    worker = user.start_worker(log="first")
    user.until_ready("first")
    user.stop(worker)
    schema["fields"].append({"name": "bytes", "type": "long"})  # type: ignore[attr-defined]  # no default
    file.write_text(json.dumps(schema))
    assert user.start_worker(log="refused").wait(60) == REFUSED
    assert "Total: version 1: " in user.log("refused")
    assert "partition ready" not in user.log("refused")
    code, out, _ = user.run("worker", "--check", "--roles", "totals")
    assert code == REFUSED
    assert re.search(r"does not fit\s+schemas", out)
    assert re.search(r"fits\s+state\s+totals", out)
