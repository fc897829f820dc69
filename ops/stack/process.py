"""A process that outlives its starter, known by its id together with its start time."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Linux counts start times from the boot's, which moves as the clock is set; ids do not come round this fast.
CLOCK_TOLERANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process id, and when that process started (seconds since the epoch): together never another's."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """Record a process that runs now; raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Give the process if it is still the one that was recorded, else None."""
        try:
            found = psutil.Process(self.pid)
            if abs(found.create_time() - self.started) > CLOCK_TOLERANCE_S:
                return None  # the id went to a stranger
            if found.status() == psutil.STATUS_ZOMBIE:
                found.wait(0)  # reaps it where it is our child
                return None
        except psutil.Error:
            return None
        return found

    @property
    def runs(self) -> bool:
        """Whether that very process still runs."""
        return self.process() is not None


def start_detached(command: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str]) -> ProcessRecord:
    """Start a command in a session of its own, its output appended to ``log``.

    It gets exactly ``env``: a JAVA_TOOL_OPTIONS or PGDATA of the user's must not reach it.
    Raises OSError if the command cannot be started.
    """
    with log.open("ab") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    record = ProcessRecord.of(child.pid)
    child.returncode = (
        0  # it is the record's from here on: the object must not warn that the child still runs
    )
    return record


def stop(record: ProcessRecord, *, ask: signal.Signals, patience_s: float) -> str:
    """Stop a recorded process, and what is left of its session; tells how it went.

    Asks with ``ask`` and kills after ``patience_s``. A process that only wears the id is never touched.
    """
    process = record.process()
    if process is None:
        return "was not running"
    try:
        process.send_signal(ask)
        process.wait(patience_s)
    except psutil.NoSuchProcess:
        return "stopped"
    except psutil.TimeoutExpired:
        _kill_session(record.pid)
        psutil.wait_procs([process], timeout=patience_s)
        return f"killed, as it did not stop within {patience_s:.0f} s"
    return "stopped"


def _kill_session(pid: int) -> None:
    """Kill the process group that a detached process leads: its children would outlive it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
