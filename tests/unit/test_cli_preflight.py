"""`sluicegate preflight`: what a start would find, said before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from ops import console
from ops.checking import told
from ops.cli import run
from ops.commands.levers import check_role
from ops.errors import Misused
from ops.scaffold import new_agent
from pipelines.checks import Finding
from pipelines.clocks import finding_of

if TYPE_CHECKING:
    from pathlib import Path

AGENT = """\
from dataclasses import replace
from schemas.kinds import DeliveryPolicy, JOB
KINDS = [replace(JOB, name="mine", delivery=DeliveryPolicy({guarantee!r}))]
def register(app, tools, options): ...
"""
STORING = """\
from schemas.topics import OUTPUT, TopicSpec
CHANGELOG = TopicSpec("mine.changelog.v1", "key", "", {partitions}, {retention_ms}, "{cleanup}", "Counts.")
TOPICS = (CHANGELOG,)
def register(app, tools, options):
    from state.schema import StoreSchema, kv
    part = kv("n", key="tenant", value=">q", ttl_ms=60_000)
    source = app.source(
        OUTPUT, agent="mine", decode=tools.decode_events, changelog=CHANGELOG, store=StoreSchema(1, (part,)),
    )
    @app.agent(source)
    async def mine(stream): ...
"""
UNLIKE = """\
from schemas.topics import OUTPUT, TopicSpec
OTHER = TopicSpec("mine.other.v1", "key", "", 2, -1, "delete", "Read beside.")
TOPICS = (OTHER,)
def register(app, tools, options):
    for number, topic in enumerate((OUTPUT, OTHER)):
        source = app.source(topic, agent=f"mine{number}", decode=tools.decode_events)
        @app.agent(source, name=f"mine{number}")
        async def mine(stream): ...
"""


@pytest.fixture(autouse=True)
def _fresh_consoles(tmp_path, monkeypatch):
    """A console keeps the stream that it was made with; and nothing of this folder's settings counts."""
    monkeypatch.chdir(tmp_path)
    console.out.cache_clear()
    console.err.cache_clear()
    yield
    console.out.cache_clear()
    console.err.cache_clear()


def test_a_new_agent_s_kinds_fit_where_nothing_runs(tmp_path: Path, capsysbinary):
    new_agent("words", tmp_path / "agents")
    assert run(["preflight", "agents", "--offline"]) == 0
    said = capsysbinary.readouterr().out.decode().splitlines()
    assert [line.split() for line in said] == [
        ["fits", "kinds"],
        ["fits", "agents", "words"],
        ["fits", "co-partitioning", "words"],
    ]


def test_what_is_declared_and_not_built_is_refused_by_name(tmp_path: Path, capsysbinary):
    (tmp_path / "mine.py").write_text(AGENT.format(guarantee="at_most_once"))
    assert run(["preflight", ".", "--offline", "--json"]) == 4
    told = orjson.loads(capsysbinary.readouterr().out)
    assert told["fits"] is False
    found = {each["what"]: each for each in told["found"]}
    assert found["kinds"]["problem"].startswith("mine: delivery.guarantee=at_most_once is not built")
    assert "register declares no agent" in found["agents"]["problem"]


@pytest.mark.parametrize(
    ("partitions", "cleanup", "what", "problem"),
    [
        (4, "compact", "", ""),
        (3, "compact", "agents", "must have as many partitions as streams.output.v1, 4, and has 3"),
        (4, "compact,delete", "agents", "the store needs its entries for 120000 ms"),
        (4, "delete", "agents", "it must be compact"),
    ],
)
def test_what_a_store_cannot_be_is_found_where_nothing_runs(
    partitions, cleanup, what, problem, tmp_path: Path, capsysbinary
):
    text = STORING.format(partitions=partitions, cleanup=cleanup, retention_ms=1_000)
    (tmp_path / "mine.py").write_text(text)
    assert run(["preflight", ".", "--offline", "--json"]) == (4 if what else 0)
    found = orjson.loads(capsysbinary.readouterr().out)["found"]
    assert [each["what"] for each in found if each["problem"]] == ([what] if what else [])
    assert all(problem in each["problem"] for each in found if each["problem"])
    assert {each["role"] for each in found if each["what"] == "agents"} == {"mine"}


def test_inputs_of_one_role_with_unlike_partitions_are_found_where_nothing_runs(tmp_path: Path, capsysbinary):
    (tmp_path / "mine.py").write_text(UNLIKE)
    assert run(["preflight", ".", "--offline"]) == 4
    said = " ".join(capsysbinary.readouterr().out.decode().split())
    assert "does not fit co-partitioning mine inputs differ in partitions" in said


def test_every_role_that_cannot_be_declared_is_told(tmp_path: Path, capsysbinary):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(f"def register(app, tools, options):\n    {name}()\n")
    assert run(["preflight", ".", "--offline"]) == 4
    said = capsysbinary.readouterr().out.decode()
    for name in ("one", "two"):
        assert f"{name}.py: register raises NameError: name '{name}' is not defined" in " ".join(said.split())


def test_a_folder_that_cannot_be_loaded_and_a_stack_that_is_away_are_told_apart(tmp_path: Path, capsys):
    (tmp_path / "mine.py").write_text(AGENT.format(guarantee="exactly_once"))
    assert run(["preflight", "none", "--offline"]) == 2
    said = capsys.readouterr().err
    assert "none: there is no such folder" in said
    assert "SLUICEGATE_PIPELINES" not in said, "it was not that which named it"
    assert run(["preflight", "."]) == 3
    assert "error: no " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("skew_s", "state", "code", "way"),
    [
        (0, "fits", 0, ""),
        (1.0, "fits", 0, ""),
        (1.2, "warning", 0, "1.2 s ahead of"),
        (-5.0, "warning", 0, "5.0 s behind"),
        (-5.1, "does not fit", 4, "5.1 s behind"),
        (3_600, "does not fit", 4, "3600.0 s ahead of"),
    ],
)
def test_clocks_that_differ_are_a_warning_and_by_more_they_do_not_fit(skew_s, state, code, way, capsysbinary):
    assert told([finding_of(skew_s)], as_json=False) == code
    first, _, rest = capsysbinary.readouterr().out.decode().partition("\n")
    assert first == f"{state:<14}clocks"
    assert way in rest
    assert ("timedatectl" in rest) is bool(way)


def test_programs_are_told_of_a_warning_and_that_all_fits(capsysbinary):
    assert told([Finding("kinds", "", ""), finding_of(2)], as_json=True) == 0
    told_json = orjson.loads(capsysbinary.readouterr().out)
    assert told_json["fits"] is True
    kinds, clocks = told_json["found"]
    assert (kinds["warning"], clocks["problem"]) == ("", "")
    assert "2.0 s ahead" in clocks["warning"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dlq list --limit 0", "give a number of letters"),
        ("dlq list --limit -1", "give a number of letters"),
        ("topics read x.v1 --limit 0", "give a number of records"),
        ("worker --json", "--json goes with --check"),
        ("worker --check --adopt", "--check changes nothing"),
        ("new agent mine --folder /proc/xx", "name a --folder that you may write to"),
        ("preflight --offline", "correct SLUICEGATE_PIPELINES"),
        ("topology", "correct SLUICEGATE_PIPELINES"),
    ],
)
def test_words_that_make_no_sense_are_refused_before_anything_is_done(words, said, capsys, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_PIPELINES", "missing")
    assert run(words.split()) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_was_just_broken_takes_no_command_away_that_looks_at_roles(
    capsysbinary, monkeypatch, tmp_path
):
    (tmp_path / "broken.py").write_text("def (")
    monkeypatch.setenv("SLUICEGATE_PIPELINES", str(tmp_path))
    assert run(["topology", "ingest"]) == 0
    out, err = (text.decode() for text in capsysbinary.readouterr())
    assert "ingest" in out
    assert err.count("left out, as it cannot be used") == 1
    assert "broken.py" in err
    assert "SyntaxError" in err
    check_role("ingest")
    with pytest.raises(Misused, match="there is no role 'broken'"):
        check_role("broken")
    assert run(["worker", "--roles", "ingest", "--check"]) != 0


def test_the_next_step_of_a_new_agent_can_be_pasted_whatever_its_folder_is_called(capsysbinary, tmp_path):
    folder = tmp_path / "my agents é"
    assert run(["new", "agent", "mine", "--folder", str(folder)]) == 0
    said = " ".join(capsysbinary.readouterr().err.decode().split())
    assert f"export SLUICEGATE_PIPELINES='{folder}' #" in said


def test_a_role_that_is_exactly_once_is_no_other_whoever_runs_it(capsys, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_WORKER__AT_LEAST_ONCE", "ingest")
    assert run(["worker", "--roles", "aggregate"]) == 2
    said = capsys.readouterr().err
    assert "names ingest, exactly once" in said
    assert "take ingest out of it" in said
