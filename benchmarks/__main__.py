"""``python -m benchmarks``: measures on a stack of its own; a table, or with JSON=1 an object a line."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import Result, run
from ops.settings import Settings
from ops.stack.down import down
from ops.stack.up import ensure_up

STREAMS, LINES = 200, 1_000


def main() -> int:
    """Measure; the exit code is 1 if a result was not verified."""
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-") as folder:
        settings = Settings(data_dir=Path(folder))
        where = ensure_up(settings)
        try:
            results = run(where, Path(folder), STREAMS, LINES)
        finally:
            down(settings)
    if os.environ.get("JSON"):
        for result in results:
            print(json.dumps(result.row()))
    else:
        _table(results)
    return 0 if all(result.verified for result in results) else 1


def _table(results: list[Result]) -> None:
    rows = [result.row() for result in results]
    table = Table(*(name for name in rows[0] if name != "work"), title=str(rows[0]["work"]))
    for row in rows:
        table.add_row(*(str(value) for name, value in row.items() if name != "work"))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
