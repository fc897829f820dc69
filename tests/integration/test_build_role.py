"""A role as it is built from its options: what it needs is there before it runs, what is wrong is said."""

from __future__ import annotations

import re
import secrets
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from structlog.testing import capture_logs

from connectors.kafka.admin import topic_ids
from connectors.kafka.at_least_once import AtLeastOnce
from connectors.kafka.errors import TopicMismatch, TopicsAbsent
from connectors.kafka.transaction import KafkaTransaction
from connectors.registry import Registry
from ops.errors import REFUSED, exit_code_of
from pipelines.app import build_role
from pipelines.blueprint import blueprint
from pipelines.changelogs import Retention
from pipelines.checks import check
from pipelines.errors import AgentRefused, DeployRefused, OptionsRefused
from pipelines.extension import Extension
from pipelines.options import WorkerOptions
from schemas.catalog import PAYLOAD_PREFIX, subjects
from schemas.errors import RegistryUnavailable
from schemas.kinds import JOB
from schemas.topics import DEAD_LETTERS, TOPICS, TopicSpec
from tests.contract.golden_records import RECORDS

if TYPE_CHECKING:
    from pipelines.tools import Tools


@pytest.fixture
def options(kafka_options, registered_schemas, tmp_path) -> WorkerOptions:
    return WorkerOptions(
        kafka=kafka_options,
        registry_url=registered_schemas,
        postgres_dsn=None,
        state_dir=tmp_path,
        create_topics=False,
    )


def test_a_role_that_is_built_needs_the_registry_for_none_of_our_schemas(options, topics, monkeypatch):
    topics(*TOPICS)
    given: list[Tools] = []
    extension = Extension(roles={"mine": [lambda _app, tools, _options: given.append(tools)]})
    app = build_role("mine", options, extension)
    assert app.role == "mine"

    def away(_registry, *_asked):
        raise RegistryUnavailable("http://registry", "it is away")

    monkeypatch.setattr(Registry, "_ask", away)
    (tools,) = given
    for subject in subjects():
        if subject.startswith(PAYLOAD_PREFIX):
            body, schema_id = tools.payloads.encode(subject.removeprefix(PAYLOAD_PREFIX), RECORDS[subject])
            assert tools.payloads.decode(schema_id, body)
        else:
            assert tools.codec.decode(tools.codec.encode(subject, RECORDS[subject]), subject)
    assert tools.dead_letters()


def test_a_module_of_a_users_that_cannot_be_used_is_named_and_is_no_defect_of_ours(options):
    def raises(_app, _tools, _options):
        raise KeyError("PRICES")

    with pytest.raises(AgentRefused, match="KeyError: 'PRICES'") as refused:
        build_role("mine", options, Extension(roles={"mine": [raises]}))
    assert str(refused.value).startswith(__file__)


def test_kinds_that_cannot_be_served_are_refused_before_anything_is_asked(options):
    nowhere = replace(options, registry_url="http://127.0.0.1:1")
    with pytest.raises(OptionsRefused, match="mine: doc is empty"):
        build_role("ingest", nowhere, Extension(kinds=(replace(JOB, name="mine", doc=" "),)))


def test_a_role_is_at_least_once_if_it_is_named_and_not_where_others_rely_on_more(options, topics):
    topics(*TOPICS)
    named = replace(options, at_least_once=("mine", "ingest"))
    mine = Extension(roles={"mine": [lambda *_: None], "other": [lambda *_: None]})

    assert isinstance(build_role("mine", named, mine).engine.transaction, AtLeastOnce)
    assert isinstance(build_role("other", named, mine).engine.transaction, KafkaTransaction)
    with pytest.raises(OptionsRefused, match="ingest is exactly once"):
        build_role("ingest", named, mine)


EMPTY = '{{"type":"record","namespace":"mine","name":"{name}","fields":[]}}'
READS = TopicSpec("kept.in.v1", "key", "", 2, -1, "delete", "What is read.")
KEPT = TopicSpec("kept.changelog.v1", "key", "", 2, -1, "compact", "What is kept.")


def keeping(kept: TopicSpec = KEPT, writes: tuple[TopicSpec, ...] = ()) -> Extension:
    """A role of one agent with state."""

    def register(app, _tools, _options):
        @app.agent(app.source(READS, agent="one", decode=list, changelog=kept, writes=writes))
        async def one(stream):
            async for _ in stream:
                pass

    return Extension(roles={"one": [register]}, topics=(READS, kept))


@pytest.mark.parametrize("create_topics", [True, False])
def test_topics_that_do_not_fit_are_refused_whoever_made_them(options, topics, create_topics):
    topics(*TOPICS, READS, replace(KEPT, cleanup="compact,delete", retention_ms=60_000))
    told = replace(options, create_topics=create_topics)
    with pytest.raises(TopicMismatch, match=r"kept\.changelog\.v1: has cleanup\.policy=compact,delete"):
        build_role("one", told, keeping())


def test_another_number_of_partitions_is_refused_where_topics_are_not_made_either(options, topics):
    topics(*TOPICS, replace(READS, partitions=3), KEPT)
    with pytest.raises(TopicMismatch, match=r"kept\.in\.v1: has 3 partitions, must have 2"):
        build_role("one", options, keeping())


@pytest.mark.parametrize("lacks", [READS, KEPT, DEAD_LETTERS], ids=lambda spec: spec.name)
def test_a_role_that_makes_no_topics_does_not_start_without_one_that_it_reads_writes_or_keeps(
    options, topics, lacks
):
    topics(*({*TOPICS, READS, KEPT} - {lacks}))
    name = lacks.named(options.kafka.topic_prefix)
    with pytest.raises(TopicsAbsent, match=f"there is no topic {re.escape(name)}$") as refused:
        build_role("one", options, keeping())
    assert "sluicegate topics create" in refused.value.remedy
    topics(lacks)
    assert build_role("one", options, keeping()).role == "one", "nothing was left behind by the one refused"


def test_a_topic_that_an_agent_says_it_writes_and_nothing_declares_refuses_the_start(options):
    stray = TopicSpec("stray.out.v1", "key", "", 2, 60_000, "delete", "What nobody makes.")
    told = replace(options, create_topics=True)
    with pytest.raises(TopicsAbsent, match=r"there is no topic .*stray\.out\.v1$") as refused:
        build_role("one", told, keeping(writes=(stray,)))
    assert "TOPICS of the agent's module" in refused.value.remedy


def test_an_output_without_a_schema_refuses_the_start_and_the_check_before_it(options, topics):
    subject = f"mine.Sum{secrets.token_hex(6)}"
    sums = TopicSpec("kept.sums.v1", "key", subject, 2, -1, "delete", "Sums.")
    topics(*TOPICS, READS, KEPT, sums)
    extension = keeping(writes=(sums,))

    def problems() -> list[str]:
        plans = [blueprint("one", extension, options.kafka)]
        return [found.problem for found in check(plans, extension, options) if found.problem]

    (problem,) = problems()
    assert f"kept.sums.v1: there is no schema of its subject {subject}" in problem
    with pytest.raises(DeployRefused, match=subject) as refused:
        build_role("one", options, extension)
    assert exit_code_of(refused.value) == REFUSED
    with closing(Registry(options.registry_url)) as registry:
        registry.register(subject, EMPTY.format(name=subject.removeprefix("mine.")))
    assert problems() == []
    assert build_role("one", options, extension).role == "one"


def test_a_changelog_that_nothing_declares_refuses_the_start_and_the_check_before_it(options, topics):
    topics(*TOPICS, READS)
    told, extension = replace(options, create_topics=True), replace(keeping(), topics=(READS,))
    (found,) = [
        one for one in check([blueprint("one", extension, told.kafka)], extension, told) if one.problem
    ]
    assert found.what == "topics"
    assert "kept.changelog.v1 is missing, and not in TOPICS" in found.problem
    with pytest.raises(TopicsAbsent, match=r"there is no topic .*kept\.changelog\.v1$") as refused:
        build_role("one", told, extension)
    assert "TOPICS of the agent's module" in refused.value.remedy
    assert build_role("one", told, keeping()).role == "one", "nothing was left behind by the one refused"


def test_a_later_generation_where_none_ran_before_has_its_changelog_made(options, topics):
    topics(*TOPICS, READS, KEPT)
    extension, ids = replace(keeping(), generations={"one": 2}), set()
    for _ in range(2):
        (source,) = build_role("one", options, extension).sources.values()
        assert source.changelog.name == "kept.changelog.g2.v1"
        name = source.changelog.named(options.kafka.topic_prefix)
        ids.add(topic_ids(options.kafka, [name])[name])
    assert len(ids) == 1


@pytest.mark.parametrize("cleanup", ["compact", "compact,delete"])
def test_a_changelog_is_asked_for_how_long_it_keeps_what_and_differences_are_told(options, topics, cleanup):
    kept = replace(KEPT, cleanup=cleanup, retention_ms=7_200_000)
    topics(*TOPICS, READS)
    admin = AdminClient(options.kafka.client_config())
    name = KEPT.named(options.kafka.topic_prefix)
    config = kept.config() | {"delete.retention.ms": "3600000"}
    admin.create_topics([NewTopic(name, num_partitions=2, config=config)])[name].result(20)
    with capture_logs() as logs:
        app = build_role("one", replace(options, create_topics=True), keeping(kept))
    assert app.engine.retention == {name: Retention(-1 if cleanup == "compact" else 7_200_000, 3_600_000)}
    (told,) = [line for line in logs if line["event"] == "topic differs from its declaration"]
    assert f"topic {name} has delete.retention.ms=3600000" in told["what"]
