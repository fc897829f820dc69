"""A folder of agents is taken as it is, or refused with the file that is wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from ops.errors import Misused
from ops.scaffold import new_agent
from pipelines.errors import AgentRefused
from pipelines.extension import Extension, load
from schemas.preflight import problems_of
from schemas.topics import TOPICS

REGISTER = "def register(app, tools, options): ...\n"
KIND = """\
from dataclasses import replace
from schemas.kinds import JOB
KINDS = [replace(JOB, name="mine", runbooks=replace(JOB.runbooks, lag_growth={page!r}))]
"""


def test_without_a_folder_there_is_nothing_beside_ours():
    assert load(None) == Extension()
    assert Extension().all_topics() == TOPICS


def test_a_new_agent_loads_with_all_its_parts_and_passes_its_test(tmp_path):
    written = new_agent("word_count", tmp_path)
    assert len(written) == 4
    found = load(tmp_path)
    assert list(found.roles) == ["word_count"]
    assert [spec.name for spec in found.topics] == ["word_count.results.v1", "word_count.changelog.v1"]
    assert list(found.schemas) == ["agents.word_count.WordCount"]
    assert [problems_of(kind, found.all_topics()) for kind in found.kinds] == [[]]
    assert "word_count" in found.all_kinds()
    page = (tmp_path / "runbooks" / "word_count.md").read_text()
    assert {line for line in page.splitlines() if line.startswith("sluicegate lag")} == {
        "sluicegate lag word_count --partitions",
        "sluicegate lag word_count",
    }, "by its role, which has another group after a switch"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_two_agents_of_one_folder_load_together(tmp_path):
    new_agent("one", tmp_path)
    new_agent("two", tmp_path)
    assert sorted(load(tmp_path).roles) == ["one", "two"]


@pytest.mark.parametrize(
    "name",
    [
        "state",
        "json",
        "ingest",
        "log",
        "Bad",
        "9lives",
        "class",
        "a-b",
        "",
        "x" * 70,
        "../up",
        "faust",
        "pytest",
        "conftest",
        "yaml",
    ],
)
def test_a_name_that_cannot_be_a_roles_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(Misused):
        new_agent(name, tmp_path)
    assert list(tmp_path.rglob("*")) == []


def test_no_file_of_an_agent_is_overwritten(tmp_path):
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "mine.md").write_text("kept")
    with pytest.raises(Misused, match=r"mine\.md exists"):
        new_agent("mine", tmp_path)
    assert (tmp_path / "runbooks" / "mine.md").read_text() == "kept"
    assert not (tmp_path / "mine.py").exists()


def test_when_one_file_cannot_be_written_none_is_left(tmp_path):
    (tmp_path / "tests").write_text("kept")
    with pytest.raises(Misused, match=r"tests cannot be made: .*; nothing was written"):
        new_agent("mine", tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["tests"]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("mine.py", "x = 1\n", "no register"),
        ("mine.py", "import nothing_of_that_name\n", "ModuleNotFoundError"),
        ("mine.py", "def broken(:\n", "SyntaxError"),
        ("mine.py", REGISTER + "TOPICS = ['a name']\n", "no TopicSpec"),
        ("ingest.py", REGISTER, "no name for a role"),
        ("Mine.py", REGISTER, "no name for a role"),
        (
            "mine.py",
            REGISTER + "from dataclasses import replace\nfrom schemas.topics import OUTPUT\n"
            "TOPICS = [replace(OUTPUT, partitions=9)]\n",
            "declared elsewhere",
        ),
        ("mine.py", REGISTER + "from schemas.kinds import LOG\nKINDS = [LOG]\n", "declared elsewhere"),
        ("schemas/a.b.C.avsc", "{}", "no record"),
        ("schemas/a.b.C.avsc", '{"type": "record", "namespace": "x", "name": "Y", "fields": []}', "name the"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_file(tmp_path, file, text, said):
    (tmp_path / "schemas").mkdir()
    (tmp_path / file).write_text(text)
    with pytest.raises(AgentRefused, match=said) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy


def test_who_goes_on_without_what_cannot_be_used_has_all_else_of_the_folder(tmp_path):
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "a.b.C.avsc").write_text("{}")
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "half.py").write_text(REGISTER + "MIGRATIONS = ()\nTOPICS = ['a name']\n")
    (tmp_path / "whole.py").write_text(REGISTER + "GENERATION = 3\n")
    told: list[AgentRefused] = []
    found = load(tmp_path, told.append)
    assert [str(one).split(": ")[0] for one in told] == [
        str(tmp_path / name) for name in ("broken.py", "half.py", "schemas")
    ]
    assert (list(found.roles), list(found.access), found.generations) == (["whole"], ["whole"], {"whole": 3})
    assert not found.schemas


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AgentRefused, match="no such folder"):
        load(tmp_path / "missing")


@pytest.mark.parametrize("page", ["lag-growth", "https://wiki.test/lag", "mine"])
def test_a_runbook_that_a_kind_names_is_one_of_ours_an_address_or_a_page_of_the_folder(tmp_path, page):
    (tmp_path / "runbooks").mkdir()
    (tmp_path / "runbooks" / "mine.md").write_text("# What to do")
    (tmp_path / "mine.py").write_text(REGISTER + KIND.format(page=page))
    assert [kind.runbooks.lag_growth for kind in load(tmp_path).kinds] == [page]


def test_a_runbook_that_is_nowhere_is_refused_before_it_is_needed(tmp_path):
    (tmp_path / "mine.py").write_text(REGISTER + KIND.format(page="lag-grwoth"))
    with pytest.raises(AgentRefused, match=r"runbooks\.lag_growth is 'lag-grwoth', and there is no"):
        load(tmp_path)


@pytest.mark.parametrize("given", ["", "__version__ = '2026.3'\n"])
def test_the_version_of_code_is_what_it_says_or_follows_from_its_text(tmp_path, given):
    file = tmp_path / "mine.py"
    versions = []
    for more in ("", "# mended\n"):
        file.write_text(given + REGISTER + more)
        versions.append(load(tmp_path).versions["mine"])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert versions[1] == ("2026.3" if given else f"sha256:{digest[:12]}")
    assert (versions[0] == versions[1]) is bool(given)


def test_the_code_that_runs_is_the_files_whatever_was_compiled_of_it_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for generation in (1, 2):
        text = f"GENERATION = {generation}\ndef register(app, tools, options): ...\n"
        file.write_text(text)
        os.utime(file, (1_700_000_000, 1_700_000_000))  # as an archive or an image sets it
        assert load(tmp_path).generation("mine") == generation
