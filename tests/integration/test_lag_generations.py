"""`sluicegate lag ROLE` tells of the generation that runs, whichever the code at hand is."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors.kafka.roster import Roster
from pipelines.generations import group_of
from schemas.topics import DEPLOYED, OUTPUT
from schemas.wire import WireCodec
from tests.support.command_line import CommandLine
from tests.support.totals_agent import write_agent

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions


def deploy(kafka: KafkaOptions, registry, generation: int, offset: int) -> None:
    """Leave on record what a switch leaves: the generation that runs; and where its group stands."""
    row = {
        "role": "totals", "generation": generation, "candidate": 0, "attempt": "", "from_ms": -1,
        "cut": False, "switching": False, "stores": [], "by": "", "reason": "",
    }  # fmt: skip
    with closing(Roster(kafka, WireCodec(registry))) as roster:
        roster.change("totals", lambda _before: row)
    group = group_of(kafka.topic_prefix, "totals", generation)
    with closing(Consumer(kafka.client_config() | {"group.id": group})) as consumer:
        at = TopicPartition(OUTPUT.named(kafka.topic_prefix), 0, offset)
        consumer.commit(offsets=[at], asynchronous=False)


@pytest.mark.parametrize(("runs", "code"), [(2, 1), (1, 2), (2, 2)])
def test_lag_of_a_role_is_that_of_the_generation_on_record_and_says_where_the_code_differs(
    tmp_path: Path, stack, kafka_options, registry, topics, runs: int, code: int
):
    topics(DEPLOYED, OUTPUT)
    deploy(kafka_options, registry, runs, offset=0)
    agents = write_agent(tmp_path / "agents", more=f"\nGENERATION = {code}\n")
    with CommandLine(tmp_path, stack, kafka_options) as line:
        line.environment["SLUICEGATE_PIPELINES"] = str(agents)
        exit_code, out, err = line.run("lag", "totals", "--json", "--every-s", "0.1")
        assert exit_code == 0, err
        (found,) = json.loads(out)["groups"]
        assert found["group"] == group_of(kafka_options.topic_prefix, "totals", runs)
        assert [one["committed"] for one in found["partitions"] if one["partition"] == 0] == [0]
        differs = f"totals: generation {runs} runs and is shown; this code is generation {code}"
        assert (differs in err) is (runs != code)


def test_lag_is_told_while_the_registry_is_away(tmp_path: Path, stack, kafka_options, registry, topics):
    topics(DEPLOYED, OUTPUT)
    deploy(kafka_options, registry, 1, offset=0)
    agents = write_agent(tmp_path / "agents")
    with CommandLine(tmp_path, stack, kafka_options) as line:
        line.environment |= {
            "SLUICEGATE_PIPELINES": str(agents), "SLUICEGATE_REGISTRY__URL": "http://127.0.0.1:9",
        }  # fmt: skip
        exit_code, out, err = line.run("lag", "totals", "--json", "--every-s", "0.1")
        assert exit_code == 0, err
        assert json.loads(out)["groups"][0]["records"] == 0
        assert "groups are those of this code" in err


def test_a_role_that_is_on_record_is_shown_by_its_name_also_where_its_agents_are_not_at_hand(
    tmp_path: Path, stack, kafka_options, registry, topics
):
    topics(DEPLOYED, OUTPUT)
    deploy(kafka_options, registry, 2, offset=0)
    with CommandLine(tmp_path, stack, kafka_options) as line:
        exit_code, out, err = line.run("lag", "totals", "--json", "--every-s", "0.1")
        assert exit_code == 0, err
        (found,) = json.loads(out)["groups"]
        assert found["group"] == group_of(kafka_options.topic_prefix, "totals", 2)
        exit_code, out, err = line.run("lag", "--json", "--every-s", "0.1")
        assert "totals" not in out
        assert "on record, and not shown: totals. SLUICEGATE_PIPELINES" in err
