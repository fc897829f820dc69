"""``python -m benchmarks.edge``: measures the edge and its peers; a table a work, or JSON=1 an object a line.

``asked.py`` beside it has the settings, ``works.py`` the works, ``servers.py`` the servers.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.bench import say
from benchmarks.call import call
from benchmarks.edge.asked import asked
from benchmarks.edge.bench import EdgeBench
from benchmarks.edge.generator import program
from benchmarks.edge.results import show
from benchmarks.edge.works import GOALS, WORKS
from connectors.files import files_max

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.edge.asked import Asked
    from benchmarks.edge.results import Served
    from ops.settings import Settings
    from ops.stack.addresses import Addresses


def prepare(settings: Settings) -> None:
    """Have as many files as may be had, and the clients; raises NoGo."""
    say(f"limit of open files: {files_max()}; building the load generator")
    program(settings)


@contextmanager
def works(where: Addresses, settings: Settings, wanted: Asked) -> Iterator[Callable[[str], Iterator[Served]]]:
    """Give what does a work by its name."""
    bench = EdgeBench(where, settings, wanted)
    yield lambda work: WORKS[work](bench)


if __name__ == "__main__":
    sys.exit(call(asked, works, prepare=prepare, printed=show, goals=GOALS))
