"""The heap of a process that runs for long: how Python collects it, what malloc keeps of what was freed."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from typing import Final

SELDOM: Final = 100_000
"""Of a worker: a collection of Faust's heap costs more than the work between two of them (docs/adr/0002)."""
BY_THE_THOUSAND: Final = 20_000
"""Of what serves frames, tokens and connections, which hold no cycles: with Python's own thresholds a
twentieth of an edge's time went into collections that found nothing. A request's leftovers wait a little
longer."""
_OLDER: Final = 50
_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
_LARGE_BYTES: Final = 256 * 1_024


def bound_what_is_free() -> None:
    """Have malloc keep little of what was freed; to be called before threads are started.

    By default glibc gives each thread an arena of its own, up to eight a core, and a unit of work goes
    through many: fetched by a thread of librdkafka, made records in the poll thread, staged on the loop,
    written by the unit's thread. What was freed in one no other can use. And once a block of up to 32 MB
    was freed, it takes those of that size from arenas, too, where they leave holes. A worker with values of
    1 KB had up to 430 MB of both, and 100 MB less with two arenas and large blocks given back at once, for
    the same processor time (benchmarks/README.md, state). An edge kept up to 260 MB less after 1,000 clients
    that had stalled, likewise for the same time. Other C libraries have no such settings.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def freeze(allocations: int) -> None:
    """Take all that is there out of collections, and collect once in so many allocations from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(allocations, _OLDER, _OLDER)
