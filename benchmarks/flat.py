"""Whether a figure that was sampled over time stays where it is, saw teeth of compaction and all."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES_MIN: Final = 12

Sample = tuple[float, float]
"""When (seconds), and the figure."""


def growth(samples: Sequence[Sample], tooth_s: float = 0.0) -> float | None:
    """Return by which share of the middle figure the trend rises from the first sample to the last.

    The trend is the middle one of the slopes between all pairs (Theil and Sen's): a single tooth does not
    move it. Where teeth are as long as a fair part of the run they do: then it is the trend of what they come
    down to, the lowest figure of each ``tooth_s``, the longest that a tooth may take. A figure without bound
    takes that up with it; teeth that grow higher, and come down to where they were, do not. None = there are
    too few samples to tell.
    """
    roots = _roots(samples, tooth_s)
    if len(roots) < SAMPLES_MIN:
        return None
    slopes = [
        (later - earlier) / (end - start)
        for number, (start, earlier) in enumerate(roots)
        for end, later in roots[number + 1 :]
        if end > start
    ]
    middle = median(figure for _, figure in samples)
    span_s = samples[-1][0] - samples[0][0]
    return round(median(slopes) * span_s / middle, 3) if middle and slopes else 0.0


def _roots(samples: Sequence[Sample], tooth_s: float) -> list[Sample]:
    """Return the lowest figure of the ``tooth_s`` up to each sample, from when on that is a whole tooth."""
    return [
        (at, min(figure for before, figure in samples[: number + 1] if before >= at - tooth_s))
        for number, (at, _) in enumerate(samples)
        if at - tooth_s >= samples[0][0]
    ]


def flat(share: float | None, most: float) -> bool | None:
    """Tell whether it grew by at most this share; to shrink is flat too. None = it cannot be told."""
    return None if share is None else share <= most
