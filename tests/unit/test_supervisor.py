"""The parent of the roles: one that made way leaves the others alone, any other end stops them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from ops import supervisor
from pipelines.app import MADE_WAY


@pytest.fixture
def roles(monkeypatch):
    """Roles whose processes end as their names say: a code at once, or one after some time."""

    def words(*given):
        code, _, after = given[-1].partition("@")
        return [sys.executable, "-c", f"import sys, time; time.sleep({after or 0}); sys.exit({code})"]

    monkeypatch.setattr(supervisor, "sluicegate", words)
    return lambda *names: asyncio.run(supervisor.supervise(dict.fromkeys(names, ())))


def test_a_role_that_made_way_ends_alone(roles, capfd):
    assert supervisor.MADE_WAY == MADE_WAY
    assert roles(str(MADE_WAY)) == 0
    assert roles(str(MADE_WAY), "7@0.5") == 7, "the other went on, and its end is told"
    said = capfd.readouterr().err
    assert "role 5 has made way" in said
    assert "role 7@0.5 ended by itself with exit code 7" in said


def test_a_role_that_ends_otherwise_takes_the_others_along(roles):
    assert roles("4", "0@60") == 4
    assert roles("0", "0@60") == 1, "nobody asked it to end"


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--migrate", "wider"), 130)])
def test_ctrl_c_before_a_role_runs_is_well_unless_its_state_was_to_be_migrated(
    monkeypatch, capfd, words, code
):
    monkeypatch.setattr(supervisor, "sluicegate", lambda *_: ["sleep", "60"])
    note = supervisor.console.note

    def interrupt(said):
        note(said)
        if "runs as process" in said:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(supervisor.console, "note", interrupt)
    assert asyncio.run(supervisor.supervise({"mine": words})) == code
    assert ("--abandon-migration" in capfd.readouterr().err) == bool(code)
