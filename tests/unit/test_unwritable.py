"""A topic that an agent writes to, and whose subject has no schema, is told before each result is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from connectors.kafka.options import KafkaOptions
from ops import console
from ops.cli import run
from pipelines.blueprint import blueprint
from pipelines.checks import check_subjects
from pipelines.errors import DeployRefused
from pipelines.extension import Extension
from schemas.catalog import LocalSchemas
from schemas.topics import INPUT, OUTPUT, TopicSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = '{"type":"record","namespace":"mine","name":"Sum","fields":[]}'
SUMS = TopicSpec("mine.sums.v1", "key", "mine.Sum", 4, -1, "delete", "Sums.")
RAW = TopicSpec("mine.raw.v1", "key", "", 4, -1, "delete", "JSON.")
MODULE = """\
from schemas.topics import OUTPUT, TopicSpec
SUMS = TopicSpec("mine.sums.v1", "key", "mine.Sum", 4, -1, "delete", "Sums.")
RAW = TopicSpec("mine.raw.v1", "key", "", 4, -1, "delete", "JSON.")
TOPICS = (SUMS, RAW)
def register(app, tools, options):
    source = app.source(OUTPUT, agent="mine", decode=tools.decode_events, writes={writes})
    @app.agent(source)
    async def mine(stream): ...
"""


@pytest.fixture(autouse=True)
def _fresh_console(monkeypatch, tmp_path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    console.out.cache_clear()
    yield
    console.out.cache_clear()


def writing(*specs: TopicSpec, schemas: dict[str, str] | None = None) -> Extension:
    def register(app, tools, _options):
        @app.agent(app.source(OUTPUT, agent="mine", decode=tools.decode_events, writes=specs))
        async def mine(_stream): ...

    return Extension({"mine": [register]}, specs, schemas or {})


def asked(extension: Extension, registered: dict[str, str] | None = None) -> None:
    agents = blueprint("mine", extension, KafkaOptions("")).agents
    check_subjects(LocalSchemas(registered), extension, agents)


def test_a_start_is_refused_that_would_write_what_nobody_has_a_schema_of():
    with pytest.raises(
        DeployRefused, match=r"mine\.sums\.v1: there is no schema of its subject mine\.Sum$"
    ) as no:
        asked(writing(RAW, SUMS))
    assert "schemas/<subject>.avsc" in no.value.remedy
    assert "sluicegate schemas register" in no.value.remedy


def test_what_has_a_file_or_is_registered_or_has_no_subject_is_written():
    asked(writing(RAW, INPUT))
    asked(writing(SUMS, schemas={"mine.Sum": SCHEMA}))
    asked(writing(SUMS), registered={"mine.Sum": SCHEMA})


@pytest.mark.parametrize("writes", ["(SUMS, RAW)", "()"])
def test_a_look_that_asks_nobody_warns_of_it(writes, tmp_path: Path, capsysbinary):
    (tmp_path / "mine.py").write_text(MODULE.format(writes=writes))
    assert run(["preflight", ".", "--offline", "--json"]) == 0
    told = orjson.loads(capsysbinary.readouterr().out)["found"]
    (warning,) = (one["warning"] for one in told if one["warning"])
    assert warning.startswith("mine.sums.v1: there is no schema of its subject mine.Sum. Write schemas/")
    assert warning.endswith("The registry was not asked")

    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "mine.Sum.avsc").write_text(SCHEMA)
    assert run(["preflight", ".", "--offline", "--json"]) == 0
    assert not any(one["warning"] for one in orjson.loads(capsysbinary.readouterr().out)["found"])
