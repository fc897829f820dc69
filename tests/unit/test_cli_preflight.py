"""`sluicegate preflight`: what a start would find, said before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from ops import console
from ops.cli import run
from ops.scaffold import new_agent

if TYPE_CHECKING:
    from pathlib import Path

AGENT = """\
from dataclasses import replace
from schemas.kinds import DeliveryPolicy, JOB
KINDS = [replace(JOB, name="mine", delivery=DeliveryPolicy({guarantee!r}))]
def register(app, tools, options): ...
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
    assert capsysbinary.readouterr().out == b"fits          kinds\n"


def test_what_is_declared_and_not_built_is_refused_by_name(tmp_path: Path, capsysbinary):
    (tmp_path / "mine.py").write_text(AGENT.format(guarantee="at_most_once"))
    assert run(["preflight", ".", "--offline", "--json"]) == 4
    told = orjson.loads(capsysbinary.readouterr().out)
    assert told["fits"] is False
    (found,) = told["found"]
    assert found["what"] == "kinds"
    assert found["problem"].startswith("mine: delivery.guarantee=at_most_once is not built")


def test_a_folder_that_cannot_be_loaded_and_a_stack_that_is_away_are_told_apart(tmp_path: Path, capsys):
    (tmp_path / "mine.py").write_text(AGENT.format(guarantee="exactly_once"))
    assert run(["preflight", "none", "--offline"]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    assert run(["preflight", "."]) == 3
    assert "error: no " in capsys.readouterr().err
