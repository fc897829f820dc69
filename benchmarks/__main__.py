"""``python -m benchmarks``: measures on a stack of its own; a table a work, or with JSON=1 an object a line.

``benchmarks/asked.py`` has the settings, ``benchmarks/works.py`` the works.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Final

from benchmarks.asked import Misspelt, asked
from benchmarks.bench import Bench, say
from benchmarks.results import failed, show
from benchmarks.works import WORKS
from ops.settings import Settings, StackSettings
from ops.stack.down import down
from ops.stack.up import ensure_up

GROUP_WAIT_MS: Final = 1_000
"""So that processes, and threads, that are started together share the work from its first record on."""


def main() -> int:
    """Measure; the exit code is 1 if a result of ours was not verified, 2 if something was misspelt."""
    try:
        wanted = asked(os.environ)
    except Misspelt as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped then too
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-", ignore_cleanup_errors=True) as name:
        settings = Settings(data_dir=Path(name), stack=StackSettings(kafka_group_wait_ms=GROUP_WAIT_MS))
        try:
            say("starting Kafka, registry and PostgreSQL")
            bench = Bench(ensure_up(settings), settings, wanted)
            done = [_done(bench, work) for work in wanted.works]
        finally:
            down(settings)
    return 0 if all(done) else 1


def _done(bench: Bench, work: str) -> bool:
    """Do one work and show it; one that breaks does not take the figures of the others with it."""
    try:
        lines = WORKS[work](bench)
    except Exception:  # noqa: BLE001  whatever it is: hours of other works may be behind or before it
        say(f"{work} failed")
        traceback.print_exc()
        return False
    show(lines, as_json=bench.asked.as_json)
    return not failed(lines)


if __name__ == "__main__":
    sys.exit(main())
