"""Event time of a batch at once, as Arrow columns: the same decisions as event by event, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from state.watermark import AHEAD_US_MAX, BEGINNING_US

if TYPE_CHECKING:
    from state.watermark import Watermark
    from state.windows import TimeWindows


class Placed(NamedTuple):
    """Where each row of a batch belongs."""

    start_us: pa.Array
    """Start of the row's window (of hopping windows the last), int64."""
    in_time: pa.Array
    """Whether that window was open when the row came, bool."""


def see_all(clock: Watermark, event_us: pa.Array, append_us: pa.Array) -> pa.Array:
    """Take the times of rows in, in their order; return the watermark as it stood after each, int64.

    As ``Watermark.see`` for each row: what is late does not depend on how the rows were cut into batches.
    """
    capped = pc.min_element_wise(_int64(event_us), pc.add(_int64(append_us), AHEAD_US_MAX))
    greatest = pc.max_element_wise(pc.cumulative_max(capped), clock.max_us)
    if len(greatest):
        clock.max_us = greatest[-1].as_py()
    return pc.max_element_wise(pc.subtract(greatest, clock.disorder_us), BEGINNING_US)


def place(windows: TimeWindows, event_us: pa.Array, watermark_us: pa.Array) -> Placed:
    """Return the window of each row, and whether it was open at the row's watermark (see ``see_all``)."""
    times = _int64(event_us)
    start = pc.multiply(pc.divide(times, windows.step_us), windows.step_us)
    return Placed(start, pc.greater(pc.add(start, windows.closes_after_us), watermark_us))


def _int64(times: pa.Array) -> pa.Array:
    """Return times as numbers, timestamps of microseconds as they are stored."""
    return times.cast(pa.int64())
