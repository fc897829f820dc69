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
    """Whether that window was open when the row came, bool; null, as its start, where the row has no time."""


def see_all(clock: Watermark, event_us: pa.Array, append_us: pa.Array) -> pa.Array:
    """Take the times of rows in, in their order; return the watermark as it stood after each, int64.

    As ``Watermark.see`` for each row: what is late does not depend on how the rows were cut into batches.
    A row without a time (null) moves nothing. Times are microseconds, or timestamps of any unit.
    """
    capped = _capped(event_us, append_us).fill_null(clock.max_us)
    greatest = pc.max_element_wise(pc.cumulative_max(capped), clock.max_us)
    if len(greatest):
        clock.max_us = greatest[-1].as_py()
    return pc.max_element_wise(pc.subtract(greatest, clock.disorder_us), BEGINNING_US)


def effective_us(event_us: pa.Array, append_us: pa.Array, watermark_us: pa.Array) -> pa.Array:
    """Return the effective time of each row, which ``Watermark.see`` returns for one, int64.

    ``watermark_us`` is what ``see_all`` returned of the same rows. With it TTL is counted. A row without a
    time has none.
    """
    capped = _capped(event_us, append_us)
    return pc.max_element_wise(capped, watermark_us, skip_nulls=False)


def place(windows: TimeWindows, event_us: pa.Array, watermark_us: pa.Array) -> Placed:
    """Return the window of each row, and whether it was open at the row's watermark (see ``see_all``)."""
    times = _micros(event_us)
    start = pc.multiply(pc.divide(times, windows.step_us), windows.step_us)
    return Placed(start, pc.greater(pc.add(start, windows.closes_after_us), watermark_us))


def _capped(event_us: pa.Array, append_us: pa.Array) -> pa.Array:
    bound = pc.add(_micros(append_us), AHEAD_US_MAX)
    return pc.min_element_wise(_micros(event_us), bound, skip_nulls=False)


def _micros(times: pa.Array) -> pa.Array:
    """Return times as numbers of microseconds."""
    if pa.types.is_timestamp(times.type) or pa.types.is_date(times.type):
        times = times.cast(pa.timestamp("us", getattr(times.type, "tz", None)), safe=False)
    return times.cast(pa.int64())
