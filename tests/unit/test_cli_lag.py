"""Lag out of two looks: how much, how old, and whether it grows."""

from __future__ import annotations

import pytest

from ops.lag import LagWatch


class Part:
    """As much of a partition's lag as is looked at."""

    def __init__(self, partition: int, committed: int, stable: int, *, seconds: float = 0.0, high: int = 0):
        self.topic, self.partition = "t", partition
        self.committed, self.last_stable, self.high_watermark = committed, stable, max(high, stable)
        self.records, self.seconds = stable - committed, seconds

    def _asdict(self) -> dict[str, object]:
        return dict(vars(self))


def looked(first: list[Part], second: list[Part], after_s: float = 2.0):
    looks, times = iter([first, second]), iter([0.0, after_s])
    watch = LagWatch(["g"], lambda _: next(looks), clock=lambda: next(times))
    watch.look()
    return watch.look()[0]


@pytest.mark.parametrize(
    ("before", "after", "trend"),
    [
        ((100, 1_000), (200, 2_000), "growing"),
        ((0, 2_000), (1_500, 2_000), "shrinking"),
        ((0, 10), (10, 20), "even"),
    ],
)
def test_the_trend_is_what_changed_between_two_looks(
    before: tuple[int, int], after: tuple[int, int], trend: str
) -> None:
    assert looked([Part(0, *before)], [Part(0, *after)]).trend == trend


def test_rates_are_per_second_and_sums_are_over_partitions() -> None:
    lag = looked(
        [Part(0, 0, 100), Part(1, 0, 100)], [Part(0, 50, 300, seconds=7, high=310), Part(1, 100, 100)]
    )
    assert (lag.records, lag.seconds, lag.unstable_records) == (250, 7, 10)
    assert (lag.arriving_per_s, lag.consumed_per_s) == (100, 75)


def test_one_look_knows_no_trend_and_a_group_without_positions_is_not_known() -> None:
    watch = LagWatch(["g"], lambda _: [])
    found = watch.look()[0]
    assert (found.trend, found.known) == ("unknown", False)
    assert found.as_json()["worst"] is None
