"""Histograms of latencies that writers add up and readers take quantiles of: counts by upper bound."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

BOUNDS_MS: Final = (
    25, 50, 100, 150, 200, 300, 400, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000,
    20_000, 30_000, 60_000,
)  # fmt: skip
"""Upper bounds, each included; each is at most twice the one before, so a quantile is off by less.
The longest is twice a first content's usual time-out; what is beyond stands under ``BEYOND``."""
BEYOND: Final = "inf"
_NAMES: Final = (*map(str, BOUNDS_MS), BEYOND)


def bucket_of(ms: int) -> str:
    """Return the name under which a latency is counted: the least bound that is not below it."""
    return _NAMES[bisect_left(BOUNDS_MS, ms)]


def quantile_ms(counts: Mapping[str, int], share: float, max_ms: int | None = None) -> float | None:
    """Return the latency that ``share`` of all are not above, or None if there are none.

    Within a bucket they are taken to lie evenly, as Prometheus' ``histogram_quantile`` does; ``max_ms``, the
    longest there was, bounds the last of them. Counts by bounds of another version are read as well.
    """
    rows = sorted((float(name), count) for name, count in counts.items() if count > 0)
    wanted = share * sum(count for _, count in rows)
    below = 0
    for bound, count in rows:
        if below + count >= wanted:
            least = max((known for known in BOUNDS_MS if known < bound), default=0)
            most = min(bound, float("inf") if max_ms is None else max(max_ms, least))
            if most == float("inf"):
                return float(least)
            return least + (most - least) * (wanted - below) / count
        below += count
    return None
