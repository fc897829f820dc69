"""A build begins once, where its record says, and what retention had taken of its input is told."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.kafka.lag import committed_offsets
from connectors.kafka.roster import Roster
from ops.errors import Misused
from ops.reprocess.build import begin, discard
from ops.reprocess.plan import Plan
from ops.reprocess.switch import switch
from pipelines.blueprint import Agent
from schemas.topics import DEPLOYED, TopicSpec
from schemas.wire import WireCodec
from tests.support.totals_agent import OUTPUT, write_agent
from tests.support.totals_user import TotalsUser

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT = TopicSpec("begun.input.v1", "key", "", 2, -1, "delete", "input")
CHANGELOG = TopicSpec("begun.changelog.v1", "key", "", 2, -1, "compact", "state")


@pytest.fixture
def plan(kafka_options, topics) -> Plan:
    topics(DEPLOYED, INPUT)
    return Plan("begun", 1, 2, (Agent("begun", INPUT, (), CHANGELOG, ticks=False, sink=""),), kafka_options)


@pytest.fixture
def roster(kafka_options, registry) -> Iterator[Roster]:
    kept = Roster(kafka_options, WireCodec(registry))
    yield kept
    kept.close()


def given(plan: Plan) -> tuple[str, int]:
    """Five records a partition, a time, five more, all handled by what runs; return topic and time."""
    append(plan, 5)
    time.sleep(0.05)
    from_ms = time.time_ns() // 1_000_000
    time.sleep(0.05)
    append(plan, 5)
    return commit_all(plan.live_group, plan), from_ms


def commit_all(group: str, plan: Plan) -> str:
    """Have a group stand at the end of the input; return the topic."""
    topic = INPUT.named(plan.kafka.topic_prefix)
    with closing(Consumer(plan.kafka.client_config() | {"group.id": group})) as consumer:
        consumer.commit(offsets=[TopicPartition(topic, at, 10) for at in range(2)], asynchronous=False)
    return topic


def append(plan: Plan, count: int) -> None:
    producer = Producer(plan.kafka.client_config())
    for partition in range(INPUT.partitions):
        for _ in range(count):
            producer.produce(INPUT.named(plan.kafka.topic_prefix), b"v", b"k", partition)
    assert producer.flush(30) == 0


def retain(kafka, topic: str, offsets: dict[int, int]) -> None:
    """Take what stands before these offsets, as retention does."""
    ends = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    admin = AdminClient(kafka.client_config())
    for done in admin.delete_records(ends).values():
        done.result(30)


def test_of_two_that_begin_together_the_later_one_does_not_move_the_start(plan: Plan, roster: Roster):
    topic, later_ms = given(plan)

    class Late(Roster):
        """Its first look finds nothing yet; right after it another begins from the earliest."""

        looks = 0

        def read(self):
            found = super().read()
            self.looks += 1
            if self.looks == 1:
                begin(plan, roster, -1)
            return found

    late = Late(roster._kafka, roster._codec)
    with pytest.raises(Misused, match="from another time already"):
        begin(plan, late, later_ms)
    late.close()
    assert committed_offsets(plan.kafka, plan.group) == {(topic, 0): 0, (topic, 1): 0}
    row = roster.read()["begun"]
    assert (row["candidate"], row["from_ms"], row["cut"]) == (2, -1, False)

    # The same wish finds it begun; what is given up is begun anew, elsewhere
    assert begin(plan, roster, -1) == row
    discard(plan, roster)
    begin(plan, roster, later_ms)
    assert committed_offsets(plan.kafka, plan.group) == {(topic, 0): 5, (topic, 1): 5}


@pytest.mark.parametrize(("from_ms", "cut"), [(-1, True), (500, True), (None, False)])
def test_the_record_has_whether_retention_had_cut_what_is_built(
    plan: Plan, roster: Roster, from_ms: int | None, *, cut: bool
):
    topic, later_ms = given(plan)
    retain(plan.kafka, topic, {1: 3})
    assert begin(plan, roster, later_ms if from_ms is None else from_ms)["cut"] is cut
    assert discard(plan, roster)
    assert roster.read()["begun"]["cut"] is False


def test_a_switch_tells_of_the_changelog_that_it_leaves_and_of_none_that_an_earlier_one_left(
    plan: Plan, roster: Roster
):
    given(plan)
    earlier = ""
    for generation in (2, 3, 4):
        mine = replace(plan, live=generation - 1, generation=generation)
        begin(mine, roster, -1)
        commit_all(mine.group, mine)
        dead_letters, *left = switch(mine, roster, lambda _told: None)
        assert dead_letters.endswith(".dead.letters.v1")
        assert left == ([earlier] if earlier else []), "of generation 1 nothing is on record here"
        (store,) = roster.read()["begun"]["stores"]
        assert f".g{generation}." in store["changelog"]
        earlier = plan.kafka.topic_prefix + store["topic"]


@pytest.mark.timeout(240)
def test_what_retention_took_is_told_before_anything_is_built_while_it_is_and_at_the_switch(
    tmp_path, stack, kafka_options, registry, topics
):
    topics(OUTPUT)
    taken = "what retention had taken of its input is not in it"
    with TotalsUser(tmp_path, stack, kafka_options, WireCodec(registry)) as user:
        user.start_worker(write_agent(user.folder / "old", step=1), log="old")
        user.until_ready("old")
        user.publish(400)
        user.until_right("old")
        retain(kafka_options, OUTPUT.named(kafka_options.topic_prefix), {0: 10, 2: 1})
        mended = write_agent(user.folder / "mended", step=1, more="\nGENERATION = 2\n")
        user.code(mended)
        code, _, err = user.run("reprocess", "totals", "--from", "earliest")
        assert code == 0, err
        assert taken in err
        built = user.reprocess(mended, "--from", "earliest", "--yes", log="built")
        assert built.wait(120) == 0, user.log("built")
        code, out, err = user.run("reprocess", "totals", "--json")
        assert code == 0, err
        told = json.loads(out)
        assert (told["loss"], told["cut"]) == (taken, True)
        switch = user.reprocess(mended, "--switch", "--yes", log="switch")
        assert switch.wait(150) == 0, user.log("switch")
        said = user.log("switch")
        assert said.index(f"takes its place with a gap: {taken}") < said.index("generation 1 stops")
