"""``python -m benchmarks.llm``: measures answers and their peers; a table a work, or JSON=1 an object a line.

``asked.py`` beside it has the settings, ``works.py`` the works, ``servers.py`` the servers.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks.asked import Misspelt
from benchmarks.bench import say
from benchmarks.edge.generator import NoGo, program
from benchmarks.edge.servers import files_max
from benchmarks.llm.asked import asked
from benchmarks.llm.bench import LlmBench
from benchmarks.llm.clients import SOURCE
from benchmarks.llm.provider import Provider
from benchmarks.llm.works import measure
from benchmarks.results import failed, show
from ops.settings import Settings
from ops.stack.down import down
from ops.stack.up import ensure_up


def main() -> int:
    """Measure; the exit code is 1 if a result of ours was not verified, 2 if something cannot be had."""
    try:
        wanted = asked(os.environ)
    except Misspelt as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped then too
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-", ignore_cleanup_errors=True) as name:
        settings = Settings(data_dir=Path(name))
        try:
            say(f"limit of open files: {files_max()}; building the clients")
            program(settings, SOURCE)
        except NoGo as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            say("starting Kafka, registry and PostgreSQL")
            bench = LlmBench(ensure_up(settings), settings, wanted)
            with Provider(bench) as provider:
                done = [_done(bench, work, provider) for work in wanted.works]
        finally:
            down(settings)
    return 0 if all(done) else 1


def _done(bench: LlmBench, work: str, provider: Provider) -> bool:
    """Do one work and show it; one that breaks does not take the figures of the others with it."""
    lines = []
    whole = True
    try:
        for line in measure(bench, work, provider):
            lines.append(line)
            if bench.asked.as_json:
                show([line], as_json=True)
    except Exception:  # noqa: BLE001  whatever it is: the other works are still measured
        say(f"{work} failed")
        traceback.print_exc()
        whole = False
    if not bench.asked.as_json:
        show(lines, as_json=False)
    return whole and not failed(lines)


if __name__ == "__main__":
    sys.exit(main())
