"""``python -m benchmarks``: measures on a stack of its own; a table a work, or with JSON=1 an object a line.

``benchmarks/asked.py`` has the settings, ``benchmarks/works.py`` the works.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.asked import asked
from benchmarks.bench import Bench
from benchmarks.call import call
from benchmarks.works import GOALS, WORKS
from ops.settings import Settings, StackSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.asked import Asked
    from benchmarks.results import Line
    from ops.stack.addresses import Addresses

GROUP_WAIT_MS: Final = 1_000
"""So that processes, and threads, that are started together share the work from its first record on."""


@contextmanager
def works(where: Addresses, settings: Settings, wanted: Asked) -> Iterator[Callable[[str], Sequence[Line]]]:
    """Give what does a work by its name: ``restore`` uses what ``state`` made."""
    bench = Bench(where, settings, wanted)
    yield lambda work: WORKS[work](bench)


if __name__ == "__main__":
    sys.exit(call(asked, works, stack=StackSettings(kafka_group_wait_ms=GROUP_WAIT_MS), goals=GOALS))
