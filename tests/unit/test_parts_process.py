"""What is recorded of a started process, and that nothing else is ever stopped."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from ops.stack.down import down
from ops.stack.errors import BadState, StackBusy
from ops.stack.filelock import FileLock
from ops.stack.process import ProcessRecord, start_detached, stop
from ops.stack.progress import Silent
from ops.stack.state import RunningPart, read_ports, read_state, write_ports, write_state
from ops.stack.status import status
from ops.stack.up import addresses_of
from tests.unit.support_stack import settings_in

STUBBORN = textwrap.dedent("""
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    time.sleep(600)
""")


@pytest.fixture
def stranger():
    """A process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def detached(tmp_path, code: str) -> ProcessRecord:
    command = (sys.executable, "-c", code)
    return start_detached(command, log=tmp_path / "log", cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})


def part(record: ProcessRecord) -> RunningPart:
    return RunningPart("kafka", record, 1, "127.0.0.1:1", "/nowhere/kafka.log")


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.02)


def test_a_detached_process_leads_a_session_and_gets_only_the_environment_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dmean=true")
    record = detached(tmp_path, "import os, time; print(sorted(os.environ), flush=True); time.sleep(600)")
    log = tmp_path / "log"
    wait_for(log.read_text)

    assert os.getsid(record.pid) == record.pid != os.getsid(0)
    assert "JAVA_TOOL_OPTIONS" not in log.read_text()
    assert stop(record, ask=signal.SIGTERM, patience_s=5) == "stopped"
    assert not record.runs


def test_a_process_that_does_not_heed_is_killed_with_its_children(tmp_path):
    record = detached(tmp_path, STUBBORN)
    wait_for(lambda: (tmp_path / "log").read_text().endswith("\n"))
    child = int((tmp_path / "log").read_text())

    assert "killed" in stop(record, ask=signal.SIGTERM, patience_s=0.3)
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    assert not record.runs


def test_a_stranger_that_wears_the_recorded_id_is_never_touched(stranger):
    there = ProcessRecord.of(stranger.pid)
    recorded = ProcessRecord(stranger.pid, there.started - 3_600)

    assert stop(recorded, ask=signal.SIGTERM, patience_s=1) == "was not running"
    assert stranger.poll() is None
    assert there.runs
    assert not recorded.runs


def test_down_leaves_a_stranger_alone_and_forgets_the_stale_record(tmp_path, stranger):
    settings = settings_in(tmp_path)
    settings.data_dir.mkdir()
    started = psutil.Process(stranger.pid).create_time()
    write_state(settings.data_dir, {"kafka": part(ProcessRecord(stranger.pid, started - 3_600))})

    assert down(settings) == {"kafka": "was not running"}
    assert stranger.poll() is None
    assert read_state(settings.data_dir) == {}


def test_a_record_of_a_stack_that_is_gone_is_told_as_gone(tmp_path, stranger):
    settings = settings_in(tmp_path)
    settings.data_dir.mkdir()
    write_state(settings.data_dir, {"kafka": part(ProcessRecord(stranger.pid, 1.0))})

    assert [told.state for told in status(settings)] == ["gone", "stopped", "stopped"]
    assert addresses_of(settings) is None


def test_a_child_that_ended_counts_as_gone_though_nobody_waited_for_it(tmp_path):
    record = detached(tmp_path, "pass")

    wait_for(lambda: not record.runs)


def test_the_record_is_read_back_as_it_was_written_and_readable_by_its_owner_alone(tmp_path):
    running = part(ProcessRecord(12, 34.5))
    write_state(tmp_path, {"kafka": running})

    assert read_state(tmp_path) == {"kafka": running}
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["stack.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": 1, "parts": {"kafka": {}}}', '{"version": 2, "parts": {}}']
)
def test_a_record_that_cannot_be_read_is_told_with_its_path(tmp_path, text):
    (tmp_path / "stack.json").write_text(text)

    with pytest.raises(BadState, match=r"stack\.json"):
        read_state(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[1]", '{"kafka": "x"}'])
def test_ports_of_the_last_time_are_only_a_preference(tmp_path, text):
    if text is not None:
        (tmp_path / "ports.json").write_text(text)
    assert read_ports(tmp_path) == {}

    write_ports(tmp_path, {"kafka": 9092})
    assert read_ports(tmp_path) == {"kafka": 9092}


def test_down_without_a_stack_does_nothing(tmp_path):
    assert down(settings_in(tmp_path)) == {}
    assert list(tmp_path.iterdir()) == []


class TestFileLock:
    HOLDER = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from ops.stack.filelock import FileLock
        from ops.stack.progress import Silent
        with FileLock(Path(sys.argv[1]), 1.0, Silent()):
            print("held", flush=True)
            time.sleep(600)
    """)

    def test_another_process_waits_its_bound_and_is_told_of_the_lock(self, tmp_path):
        path = tmp_path / "stack.lock"
        command = [sys.executable, "-c", self.HOLDER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdout.readline() == "held\n"
                with pytest.raises(StackBusy, match=r"stack\.lock"), FileLock(path, 0.2, Silent()):
                    pytest.fail("two hold one lock")
            finally:
                holder.kill()
        with FileLock(path, 5.0, Silent()):  # the lock of a process that was killed is free
            pass

    def test_who_waits_is_told_once(self, tmp_path):
        told = []

        class Progress(Silent):
            def note(self, text: str) -> None:
                told.append(text)

        with FileLock(tmp_path / "x", 1.0, Silent()), pytest.raises(StackBusy):
            FileLock(tmp_path / "x", 0.5, Progress()).__enter__()
        assert len(told) == 1


def test_the_record_holds_no_more_than_is_needed_to_find_and_stop_a_part(tmp_path):
    write_state(tmp_path, {"kafka": part(ProcessRecord(12, 34.5))})

    document = json.loads((tmp_path / "stack.json").read_text())
    assert set(document["parts"]["kafka"]) == {"pid", "started", "port", "address", "log"}
