"""``python -m benchmarks.llm``: measures answers and their peers; a table a work, or JSON=1 an object a line.

``asked.py`` beside it has the settings, ``works.py`` the works, ``servers.py`` the servers.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.bench import say
from benchmarks.call import call
from benchmarks.edge.generator import program
from benchmarks.llm.asked import asked
from benchmarks.llm.bench import LlmBench
from benchmarks.llm.clients import SOURCE
from benchmarks.llm.provider import Provider
from benchmarks.llm.works import GOALS, measure
from connectors.files import files_max

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.llm.asked import Asked
    from benchmarks.llm.results import Answered
    from ops.settings import Settings
    from ops.stack.addresses import Addresses


def prepare(settings: Settings) -> None:
    """Have as many files as may be had, and the clients; raises NoGo."""
    say(f"limit of open files: {files_max()}; building the clients")
    program(settings, SOURCE)


@contextmanager
def works(
    where: Addresses, settings: Settings, wanted: Asked
) -> Iterator[Callable[[str], Iterator[Answered]]]:
    """Give what does a work by its name, before one provider."""
    bench = LlmBench(where, settings, wanted)
    with Provider(bench) as provider:
        yield lambda work: measure(bench, work, provider)


if __name__ == "__main__":
    sys.exit(call(asked, works, prepare=prepare, goals=GOALS))
