"""`sluicegate lag` and the levers are about the generation that runs, whichever the code at hand is."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.kafka.lag import committed_offsets
from connectors.kafka.positions import metadata_of
from connectors.kafka.roster import Roster
from pipelines.generations import group_of
from schemas.topics import AUDIT, CONTROLS, DEPLOYED, OUTPUT
from schemas.wire import WireCodec
from tests.support.command_line import CommandLine
from tests.support.totals_agent import write_agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions


@pytest.fixture
def line(tmp_path: Path, stack, kafka_options: KafkaOptions, topics) -> Iterator[CommandLine]:
    topics(DEPLOYED, OUTPUT, CONTROLS, AUDIT)
    with CommandLine(tmp_path, stack, kafka_options) as running:
        yield running


def code(line: CommandLine, generation: int) -> None:
    """Have the commands be of a checkout whose agent is of a generation."""
    agents = write_agent(line.folder / "agents", more=f"\nGENERATION = {generation}\n")
    line.environment["SLUICEGATE_PIPELINES"] = str(agents)


def deploy(kafka: KafkaOptions, registry, generation: int, candidate: int = 0) -> None:
    """Leave on record what a switch leaves: the generation that runs, and one that is built beside it."""
    row = {
        "role": "totals", "generation": generation, "candidate": candidate, "attempt": "", "from_ms": -1,
        "cut": False, "switching": False, "stores": [], "by": "", "reason": "",
    }  # fmt: skip
    with closing(Roster(kafka, WireCodec(registry))) as roster:
        roster.change("totals", lambda _before: row)


def stand(kafka: KafkaOptions, generation: int, offset: int, why: str = "") -> None:
    """Have a generation be at an offset of partition 0, and say why it stands still there."""
    group = group_of(kafka.topic_prefix, "totals", generation)
    with closing(Consumer(kafka.client_config() | {"group.id": group})) as consumer:
        at = TopicPartition(OUTPUT.named(kafka.topic_prefix), 0, offset, metadata=metadata_of(1, why))
        consumer.commit(offsets=[at], asynchronous=False)


def position(kafka: KafkaOptions, generation: int) -> int:
    """Where a generation is on partition 0."""
    group = group_of(kafka.topic_prefix, "totals", generation)
    return committed_offsets(kafka, group)[OUTPUT.named(kafka.topic_prefix), 0]


def append(kafka: KafkaOptions, count: int, gone: int = 0) -> None:
    """Put records into partition 0, of which retention has taken the first."""
    topic, producer = OUTPUT.named(kafka.topic_prefix), Producer(kafka.client_config())
    for _ in range(count):
        producer.produce(topic, b"v", b"k", 0)
    assert producer.flush(20) == 0
    if gone:
        admin, cut = AdminClient(kafka.client_config()), TopicPartition(topic, 0, gone)
        admin.delete_records([cut])[cut].result(20)


def told(line: CommandLine, *words: str) -> Any:
    exit_code, out, err = line.run(*words, "--json")
    assert exit_code == 0, err
    return json.loads(out)


@pytest.mark.parametrize(("runs", "mine"), [(2, 1), (1, 2), (2, 2)])
def test_lag_of_a_role_is_that_of_the_generation_on_record_and_says_where_the_code_differs(
    line: CommandLine, kafka_options, registry, runs: int, mine: int
):
    deploy(kafka_options, registry, runs)
    stand(kafka_options, runs, 0)
    code(line, mine)
    exit_code, out, err = line.run("lag", "totals", "--json", "--every-s", "0.1")
    assert exit_code == 0, err
    (found,) = json.loads(out)["groups"]
    assert found["group"] == group_of(kafka_options.topic_prefix, "totals", runs)
    assert [one["committed"] for one in found["partitions"] if one["partition"] == 0] == [0]
    differs = f"totals: generation {runs} runs and is shown; this code is generation {mine}"
    assert (differs in err) is (runs != mine)


def test_lag_is_told_while_the_registry_is_away(line: CommandLine, kafka_options, registry):
    deploy(kafka_options, registry, 1)
    stand(kafka_options, 1, 0)
    code(line, 1)
    line.environment["SLUICEGATE_REGISTRY__URL"] = "http://127.0.0.1:9"
    exit_code, out, err = line.run("lag", "totals", "--json", "--every-s", "0.1")
    assert exit_code == 0, err
    assert json.loads(out)["groups"][0]["records"] == 0
    assert "groups are those of this code" in err


def test_a_role_that_is_on_record_is_shown_by_its_name_also_where_its_agents_are_not_at_hand(
    line: CommandLine, kafka_options, registry
):
    deploy(kafka_options, registry, 2)
    stand(kafka_options, 2, 0)
    exit_code, out, err = line.run("lag", "totals", "--json", "--every-s", "0.1")
    assert exit_code == 0, err
    (found,) = json.loads(out)["groups"]
    assert found["group"] == group_of(kafka_options.topic_prefix, "totals", 2)
    exit_code, out, err = line.run("lag", "--json", "--every-s", "0.1")
    assert "totals" not in out
    assert "on record, and not shown: totals. SLUICEGATE_PIPELINES" in err


@pytest.mark.parametrize(("runs", "mine"), [(2, 1), (1, 2)])
def test_levers_move_the_generation_that_runs(
    line: CommandLine, kafka_options, registry, runs: int, mine: int
):
    deploy(kafka_options, registry, runs)
    append(kafka_options, 10, gone=5)
    stand(kafka_options, runs, 2, "ValueError: what runs")
    stand(kafka_options, mine, 3, "ValueError: what does not run")
    code(line, mine)
    (row,) = told(line, "levers")["held"]
    assert (row["on"], row["why"]) == ("totals streams.output.v1 0 2", "ValueError: what runs")
    accepted = told(line, "accept-loss", "totals", "--reason", "a test", "--yes")
    assert [(one["first"], one["last"]) for one in accepted["lost"]] == [(2, 4)]
    assert (position(kafka_options, runs), position(kafka_options, mine)) == (5, 3)


@pytest.mark.parametrize("mine", [1, 2])
def test_levers_reach_a_generation_that_is_built_and_stands_still_behind_the_one_that_runs(
    line: CommandLine, kafka_options, registry, mine: int
):
    deploy(kafka_options, registry, 1, candidate=2)
    append(kafka_options, 10)
    stand(kafka_options, 1, 8)
    stand(kafka_options, 2, 3, "ValueError: it is built")
    code(line, mine)
    (row,) = told(line, "levers")["held"]
    assert row["on"] == "totals streams.output.v1 0 3"
    assert told(line, "resume", "totals", "0")["would_change"] == ["totals/0"]
    assert told(line, "skip", "totals", OUTPUT.name, "0", "3")["would_change"] != []
    exit_code, _, err = line.run("skip", "totals", OUTPUT.name, "0", "2")
    assert exit_code == 2
    assert "has passed" in err
