"""The heap of a role's process: how Python collects it, and what malloc keeps of what was freed."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from typing import Final

# A collection of Faust's heap costs more than the work between two of them: see docs/adr/0002.
_GC_THRESHOLDS: Final = (100_000, 50, 50)
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
    the same processor time (benchmarks/README.md, state). Other C libraries have no such settings.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def freeze() -> None:
    """Take all that is there by now out of collections, and collect seldom from here on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
