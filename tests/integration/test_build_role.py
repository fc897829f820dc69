"""A role as it is built from its options: what it needs is there before it runs, what is wrong is said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from connectors.kafka.at_least_once import AtLeastOnce
from connectors.kafka.transaction import KafkaTransaction
from connectors.registry import Registry
from pipelines.app import build_role
from pipelines.errors import OptionsRefused
from pipelines.extension import Extension
from pipelines.options import WorkerOptions
from schemas.catalog import PAYLOAD_PREFIX, subjects
from schemas.errors import RegistryUnavailable
from schemas.kinds import JOB
from schemas.topics import TOPICS
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
