"""Who works with a data folder is known by process and role; `down` names them before it stops anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ops import console
from ops.cli import run
from ops.commands.demo import only_demo
from ops.stack.process import ProcessRecord
from ops.stack.state import RunningPart, write_state
from ops.stack.users import User, how_to_stop, listed, users_of
from pipelines.slots import Slot

from .test_cli_app import sluicegate

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ROLE = """
import sys
from pathlib import Path
from pipelines.slots import Slot
slots = [Slot(Path(sys.argv[1]), role) for role in sys.argv[3:]]
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _fresh_consoles(tmp_path, monkeypatch):
    """A console keeps the stream that it was made with; and nothing of this folder's settings counts."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLUICEGATE_")]:
        monkeypatch.delenv(name)
    console.out.cache_clear()
    console.err.cache_clear()
    yield
    console.out.cache_clear()
    console.err.cache_clear()


@contextmanager
def holding(state_dir: Path, word: str, *roles: str) -> Iterator[int]:
    """A process that holds a slot of each role."""
    words = [sys.executable, "-c", ROLE, str(state_dir), word, *roles]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process.pid
        process.kill()


def test_a_worker_is_told_as_it_was_started_with_the_roles_that_it_runs(tmp_path):
    state = tmp_path / "state"
    assert users_of(tmp_path) == []
    with holding(state, "--role-process", "ingest"), holding(state, "--role-process", "archive"):
        assert users_of(tmp_path) == [User("worker", os.getpid(), ("archive", "ingest"))]
    with holding(state, "alone", "mine") as pid:
        (user,) = users_of(tmp_path)
        assert user == User("worker", pid, ("mine",))
        assert str(user) == f"worker (process {pid}: mine)"
    assert users_of(tmp_path) == [], "a slot that nobody holds any more"


def test_an_edge_and_who_left_no_id_are_told_too(tmp_path):
    slot = Slot(tmp_path / "state", "ingest")
    (slot.folder / "LOCK").write_text("")  # as a version before this one leaves it
    edge = tmp_path / "edge.json"
    edge.write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": os.getpid()}))
    found = users_of(tmp_path)
    assert listed(found) == f"worker (ingest) and edge (process {os.getpid()})"
    assert how_to_stop(found).endswith(f"`kill {os.getpid()}`")
    os.utime(edge, (1, 1))  # older than this process: left by one that is gone and had its id
    slot.close()
    assert users_of(tmp_path) == []


def test_what_a_demo_started_is_not_told_beside_it(tmp_path):
    with only_demo(tmp_path), holding(tmp_path / "state", "alone", "mine"):
        assert users_of(tmp_path) == [User("demo", os.getpid())]


def test_down_names_who_still_works_with_what_it_stops(tmp_path, capsys):
    folder = tmp_path / ".sluicegate"
    part = subprocess.Popen(["sleep", "60"])
    slot = Slot(folder / "state", "ingest")
    with closing(slot):
        write_state(
            folder, {"kafka": RunningPart("kafka", ProcessRecord.of(part.pid), 1, "127.0.0.1:1", "log")}
        )
        assert run(["down"]) == 0
    told = capsys.readouterr()
    assert f"in use by worker (process {os.getpid()}: ingest)" in told.err
    assert f"`kill {os.getpid()}`" in told.err
    assert "kafka       stopped" in told.out
    assert not psutil.pid_exists(part.pid)
    part.wait(10)
    with closing(Slot(folder / "state", "ingest")):
        assert run(["down"]) == 0, "nothing of the stack runs: who works with it has another"
    assert "in use" not in capsys.readouterr().err


def test_a_second_demo_of_a_folder_is_refused_before_it_starts_anything(tmp_path):
    with only_demo(tmp_path / ".sluicegate"):
        done = sluicegate(tmp_path, "demo")
    told = done.stderr
    assert done.returncode == 1
    assert f"a demo runs from this folder already (process {os.getpid()})" in told
    assert "SLUICEGATE_DATA_DIR" in told
    assert [path.name for path in (tmp_path / ".sluicegate").iterdir()] == ["demo.lock"]
