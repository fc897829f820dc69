"""A deploy that does not fit what runs is refused, and a migration is applied once, whoever is killed."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.roster import Roster, store_of
from connectors.llm.clock import now_us
from ops.errors import REFUSED
from pipelines.clocks import check_clocks
from pipelines.deployment import Deployment
from pipelines.errors import DeployRefused
from pipelines.generations import FIRST, group_of
from pipelines.migration import StoreMigration
from schemas.topics import DEPLOYED
from schemas.wire import WireCodec
from state.errors import StateLost
from state.schema import Migration, StoreSchema, kv, windows
from state.windows import WindowOptions
from tests.support.cutting import cut, make_anew
from tests.support.read_topic import read_committed
from tests.support.totals_agent import CHANGELOG, OUTPUT, write_agent
from tests.support.totals_user import TotalsUser

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from schemas.topics import TopicSpec

COUNTS = StoreSchema(parts=(kv("n", key="tenant", value=">q"),))
HOURS = StoreSchema(parts=(windows("n", WindowOptions(3_600_000), key="tenant", value=">q"),))


# -- what is on record -----------------------------------------------------------------------------------


@pytest.fixture
def roster(kafka_options: KafkaOptions, registry: Registry) -> Iterator[Roster]:
    made = Roster(kafka_options, WireCodec(registry))
    yield made
    made.close()


def deployment(kafka, roster, store, migrations=(), *, adopt=False, changelog=CHANGELOG):
    return Deployment(
        "totals",
        {changelog: store},
        kafka=kafka,
        roster=roster,
        inputs={changelog: OUTPUT},
        migrations=migrations,
        adopt=adopt,
    )


def test_a_store_is_on_record_from_its_first_start_and_another_form_of_it_is_refused(
    kafka_options, roster, topics
):
    topics(DEPLOYED, CHANGELOG)
    assert deployment(kafka_options, roster, COUNTS).admit() == {CHANGELOG: CHANGELOG}
    assert deployment(kafka_options, roster, COUNTS).admit() == {CHANGELOG: CHANGELOG}
    kept = store_of(roster.read()["totals"], CHANGELOG.name)
    assert kept is not None
    assert (kept["version"], kept["parts"], kept["marked"]) == (1, COUNTS.text(), True)
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
    make_anew(kafka_options, CHANGELOG)
    deployment(kafka_options, roster, HOURS).admit()
    kept = store_of(roster.read()["totals"], CHANGELOG.name)
    assert kept is not None
    assert kept["parts"] == HOURS.text()


def test_a_changelog_that_deletes_and_was_made_anew_is_refused_once_its_input_was_handled(
    kafka_options, roster, topics
):
    expiring = replace(CHANGELOG, cleanup="compact,delete", retention_ms=3_600_000)
    topics(DEPLOYED, OUTPUT, expiring)

    def admitted(before: str, *, adopt: bool = False) -> str:
        """Admit it; returns the topic's identity once the record of it can be read, and is another one."""
        mine = deployment(kafka_options, roster, COUNTS, changelog=expiring, adopt=adopt)
        mine.admit()
        assert mine.marked == (set() if adopt else {expiring}), "a copy may have none"
        deadline = time.monotonic() + 30
        while (kept := store_of(roster.read().get("totals"), expiring.name)) is None or (
            kept["topic_id"] == before
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return kept["topic_id"]

    first = admitted("")
    make_anew(kafka_options, expiring)
    second = admitted(first)  # nothing was handled yet
    commit(kafka_options, OUTPUT, 5)
    make_anew(kafka_options, expiring)
    for _ in range(2):  # and again: what was on record stays
        with pytest.raises(StateLost, match=r"made anew \(was .*up to offset 5 of partition 0") as caught:
            deployment(kafka_options, roster, COUNTS, changelog=expiring).admit()
        assert "checkpoint-failure" in caught.value.remedy
    (problem,) = deployment(kafka_options, roster, COUNTS, changelog=expiring).problems()
    assert "state is gone" in problem
    admitted(second, adopt=True)


def commit(kafka: KafkaOptions, topic: TopicSpec, offset: int) -> None:
    """Have the role's group stand at an offset of partition 0."""
    group = group_of(kafka.topic_prefix, "totals", FIRST)
    handled = TopicPartition(topic.named(kafka.topic_prefix), 0, offset)
    admin = AdminClient(kafka.client_config())
    committed = [ConsumerGroupTopicPartitions(group, [handled])]
    admin.alter_consumer_group_offsets(committed)[group].result(20)


def test_a_machine_whose_clock_differs_from_the_brokers_is_told_so_and_nobody_sees_the_question(
    kafka_options, roster, topics
):
    (absent,) = check_clocks(kafka_options)
    assert absent.warning.startswith("not compared: there is no ")
    topics(DEPLOYED, CHANGELOG)
    deployment(kafka_options, roster, COUNTS).admit()
    before = roster.read()
    found = {}
    for ahead_s in (0, 4, -60):
        (found[ahead_s],) = check_clocks(kafka_options, lambda s=ahead_s: now_us() + s * 1_000_000)
    assert (found[0].problem, found[0].warning) == ("", "")
    assert found[4].problem == ""
    ahead = re.search(r"([\d.]+) s ahead of the brokers'", found[4].warning)
    behind = re.search(r"([\d.]+) s behind the brokers'", found[-60].problem)
    assert ahead is not None
    assert behind is not None
    assert 1 < float(ahead[1]) <= 4.0, "at the least: the way there and back may hide some of it"
    assert 5 < float(behind[1]) <= 60.0
    assert roster.read() == before


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


@pytest.mark.parametrize("topic_is_there", [True, False])
def test_a_role_that_has_run_and_has_no_record_is_refused_until_somebody_says_which_code_did(
    kafka_options, roster, topics, topic_is_there
):
    topics(CHANGELOG, OUTPUT, *([DEPLOYED] if topic_is_there else []))
    commit(kafka_options, OUTPUT, 5)
    with pytest.raises(DeployRefused, match="no record of which code wrote it") as caught:
        deployment(kafka_options, roster, COUNTS).admit()
    assert "--adopt" in caught.value.remedy
    (problem,) = deployment(kafka_options, roster, COUNTS).problems()
    assert "no record of which code wrote it" in problem
    assert deployment(kafka_options, roster, COUNTS, adopt=True).admit() == {CHANGELOG: CHANGELOG}
    if topic_is_there:  # it is on record from then on
        deployment(kafka_options, roster, COUNTS).admit()
        with pytest.raises(DeployRefused, match="does not fit this code"):
            deployment(kafka_options, roster, HOURS, adopt=True).admit()


# -- whole deploys ---------------------------------------------------------------------------------------


@pytest.fixture
def user(tmp_path, stack, kafka_options, registry, topics) -> Iterator[TotalsUser]:
    topics(OUTPUT)
    with TotalsUser(tmp_path, stack, kafka_options, WireCodec(registry), keys=6_000) as running:
        yield running


def changelog_ends(kafka: KafkaOptions) -> list[tuple[int, int]]:
    consumer = Consumer(kafka.client_config() | {"group.id": "ends"})
    topic = CHANGELOG.named(kafka.topic_prefix)
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, number), 10) for number in range(4)]
    consumer.close()
    return ends


def test_a_migration_goes_on_behind_its_last_key_when_retention_took_entries_before_it(
    kafka_options, roster, topics, tmp_path, monkeypatch
):
    expiring = replace(CHANGELOG, cleanup="compact,delete", retention_ms=86_400_000, partitions=1)
    topics(DEPLOYED, OUTPUT, expiring)
    deployment(kafka_options, roster, COUNTS, changelog=expiring).admit()
    keys = [b"%05d" % number for number in range(3_500)]
    producer = Producer(kafka_options.client_config())
    for key in keys:
        producer.produce(expiring.named(kafka_options.topic_prefix), b"1", key, partition=0)
    assert producer.flush(30) == 0
    calls: list[bytes] = []

    def change(key: bytes, value: bytes) -> Iterator[tuple[bytes, bytes]]:
        calls.append(key)
        if len(calls) == 2_500:
            raise KafkaUnavailable("nowhere", "killed")
        yield key, value * 2

    migration = Migration("twice", expiring, 1, 2, change)
    group = group_of(kafka_options.topic_prefix, "totals", FIRST)

    def migrate(machine: str) -> None:
        StoreMigration(
            "totals", group, OUTPUT, migration, replace(COUNTS, version=2), kafka_options, roster,
            tmp_path / machine,
        ).run()  # fmt: skip

    with pytest.raises(KafkaUnavailable):
        migrate("one")
    cut(kafka_options, expiring, 700)
    monkeypatch.setattr("pipelines.migration._TELL_S", 0.0)
    with capture_logs() as told:
        migrate("two")
    assert [one["entries"] for one in told if one["event"] == "migration goes on"] == [3_000, 3_500]
    assert calls[2_500:] == keys[2_000:], "what was not carried over, and that alone"
    kept = store_of(roster.read()["totals"], expiring.name)
    assert kept is not None
    found = read_committed(kafka_options, replace(expiring, name=kept["topic"]), len(keys))
    assert [(message.key(), message.value()) for message in found] == [(key, b"11") for key in keys]


@pytest.mark.timeout(240)
def test_a_migration_killed_in_its_middle_goes_on_and_no_event_is_lost_or_doubled(
    user: TotalsUser, kafka_options: KafkaOptions
) -> None:
    keys = user.keys  # a partition has more than one batch of the migration
    old, new = write_agent(user.folder / "old"), write_agent(user.folder / "new", version=2)
    worker = user.start_worker(old, log="first")
    user.until_ready("first")
    user.publish(keys)
    check(user)
    user.stop(worker)

    # Code of another version is refused, and nothing was read
    user.publish(keys)
    assert user.start_worker(new, log="refused").wait(60) == REFUSED
    assert "its version is 1, this code's 2" in user.log("refused")
    assert "--migrate wider" in user.log("refused")
    assert "partition ready" not in user.log("refused")
    code, out, _ = user.run("worker", "--check", "--roles", "totals", "--migrate", "wider")
    assert code == 0, out
    assert re.search(r"\nfits\s+state\s+totals  after wider\n", out)
    code, out, _ = user.run("worker", "--check", "--roles", "totals")
    assert code == REFUSED, "and nothing was migrated"

    # With the migration named it begins; it is killed in the middle
    before = changelog_ends(kafka_options)
    (new / "kill.txt").write_text("4500")
    assert user.start_worker(new, "--migrate", "wider", log="killed").wait(90) == 137
    assert calls(new) == 4_500
    assert changelog_ends(kafka_options) == before, "the old state is as it was"

    # Neither code runs on what is half done
    assert user.start_worker(old, log="half").wait(60) == REFUSED
    assert "is being migrated by wider" in user.log("half")

    # The next goes on where it stood, and then the role reads
    (new / "kill.txt").unlink()
    worker = user.start_worker(new, "--migrate", "wider", log="second")
    user.until_ready("second")
    assert keys <= calls(new) < 2 * keys - 2_000, "what was carried over was not carried over again"
    user.publish(keys)
    check(user)
    assert changelog_ends(kafka_options) == before
    code, out, err = user.run("topology", "totals", "--live", "--json")
    assert code == 0, err
    drawn = json.loads(out)["roles"][0]["agents"][0]["changelog"]
    assert re.search(r"totals\.changelog\.s2-[0-9a-f]+\.v1$", drawn), "the state that runs"
    user.stop(worker)

    # The code before it is refused from now on
    assert user.start_worker(old, log="old").wait(60) == REFUSED
    assert "its version is 2, this code's 1" in user.log("old")


def check(user: TotalsUser) -> None:
    """Each key's counts are 1, 2, 3, … up to its events."""
    right = user.right_sums()
    assert user.sums(user.published) == {key: list(range(1, last + 1)) for key, last in right.items()}


def calls(folder: Path) -> int:
    """How often the migration's function was called."""
    file = folder / "calls.txt"
    return file.stat().st_size if file.exists() else 0


def test_a_schema_that_would_break_a_reader_is_refused_before_anything_is_read(user: TotalsUser) -> None:
    agents = write_agent(user.folder / "agents")
    (agents / "schemas").mkdir()
    file = agents / "schemas" / f"t{user.kafka.topic_prefix[:-1]}.Total.avsc"
    schema = {
        "type": "record", "namespace": file.stem.partition(".")[0], "name": "Total",
        "fields": [{"name": "count", "type": "long"}],
    }  # fmt: skip
    file.write_text(json.dumps(schema))
    worker = user.start_worker(agents, log="first")
    user.until_ready("first")
    user.stop(worker)
    schema["fields"].append({"name": "bytes", "type": "long"})  # type: ignore[attr-defined]  # no default
    file.write_text(json.dumps(schema))
    assert user.start_worker(agents, log="refused").wait(60) == REFUSED
    assert "Total: version 1: " in user.log("refused")
    assert "partition ready" not in user.log("refused")
    code, out, _ = user.run("worker", "--check", "--roles", "totals")
    assert code == REFUSED
    assert re.search(r"does not fit\s+schemas", out)
    assert re.search(r"fits\s+state\s+totals", out)
    code, out, _ = user.run("preflight", str(agents), "--json")
    assert code == REFUSED
    found = {(one["what"], one["role"]): one["problem"] for one in json.loads(out)["found"]}
    assert "Total: version 1: " in found["schemas", ""]
    assert found["kinds", ""] == found["state", "totals"] == found["access", "ingest"] == ""
    assert found["clocks", ""] == ""
