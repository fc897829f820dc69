"""Where commands find an edge: the one that was started last of those that run from a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ops.edge import Listening, address_left

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST, SECOND = "http://127.0.0.1:8600", "http://127.0.0.1:8700"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another edge's process, which runs until its input ends."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "edge.json"


def left_by(pid: int) -> str:
    return json.dumps({"url": FIRST, "grpc": "", "pid": pid})


def test_another_that_still_runs_is_found_again(file: Path, other: subprocess.Popen[bytes]) -> None:
    file.parent.mkdir()
    file.write_text(left_by(other.pid))
    with address_left(file, Listening(SECOND, "127.0.0.1", -1)):
        assert json.loads(file.read_text()) == {"url": SECOND, "grpc": "", "pid": os.getpid()}
    assert file.read_text() == left_by(other.pid)
    assert list(file.parent.iterdir()) == [file], "no draft is left"


def test_another_that_ended_meanwhile_is_not(file: Path, other: subprocess.Popen[bytes]) -> None:
    file.parent.mkdir()
    file.write_text(left_by(other.pid))
    with address_left(file, Listening(SECOND, "127.0.0.1", -1)):
        other.kill()
        other.wait()
    assert not file.exists()


@pytest.mark.parametrize("before", ["", "nonsense", "[]", '{"url": "x"}', "our own"])
def test_what_names_no_other_process_is_not(file: Path, before: str) -> None:
    """Our own: in a container, each process of an edge has the same number as the one before it."""
    before = left_by(os.getpid()) if before == "our own" else before
    file.parent.mkdir()
    file.write_text(before)
    with address_left(file, Listening(SECOND, "127.0.0.1", -1)):
        pass
    assert not file.exists()


def test_one_that_was_started_later_keeps_its_address(file: Path) -> None:
    with address_left(file, Listening(FIRST, "127.0.0.1", -1)):
        file.write_text(left_by(1))
    assert file.read_text() == left_by(1)
