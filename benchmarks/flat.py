"""Whether a figure that was sampled over time stays where it is, saw teeth of compaction and all."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES_MIN: Final = 12

Sample = tuple[float, float]
"""When (seconds), and the figure."""


def growth(samples: Sequence[Sample]) -> float | None:
    """Return by which share of the middle figure the trend rises from the first sample to the last.

    The trend is the middle one of the slopes between all pairs (Theil and Sen's): a single tooth does not
    move it. None = there are too few samples to tell.
    """
    if len(samples) < SAMPLES_MIN:
        return None
    slopes = [
        (later - earlier) / (end - start)
        for number, (start, earlier) in enumerate(samples)
        for end, later in samples[number + 1 :]
        if end > start
    ]
    middle = median(figure for _, figure in samples)
    span_s = samples[-1][0] - samples[0][0]
    return round(median(slopes) * span_s / middle, 3) if middle and slopes else 0.0


def flat(share: float | None, most: float) -> bool | None:
    """Tell whether it grew by at most this share; to shrink is flat too. None = it cannot be told."""
    return None if share is None else share <= most
