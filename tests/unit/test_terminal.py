"""What is shown at a terminal, a real one: a bar or a spinner beside what is said and logged."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading

import pytest

SHOWS = """
import sys
from rich.progress import Progress
from ops import console
from ops.logs import configure_logs
import structlog
configure_logs()
with {shown}:
    console.note("said beside it")
    structlog.get_logger().warning("logged beside it")
    print("printed beside it", file=sys.stderr)
"""


@pytest.mark.parametrize("shown", ["Progress(console=console.err())", "console.err().status('working')"])
def test_a_bar_at_a_terminal_lets_through_what_is_said_beside_it_and_ends(shown: str) -> None:
    ours, theirs = pty.openpty()
    said = bytearray()

    def read() -> None:
        while True:
            try:
                said.extend(os.read(ours, 65_536))
            except OSError:  # the terminal was let go of
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", SHOWS.format(shown=shown)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            timeout=30,
            check=False,
        )
    finally:
        os.close(theirs)
        reader.join(10)
        os.close(ours)
    assert done.returncode == 0, bytes(said)
    for line in (b"said beside it", b"logged beside it", b"printed beside it"):
        assert line in said
