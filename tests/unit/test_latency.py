"""Quantiles of a histogram lie within the bucket that holds the true one."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.latency import BEYOND, BOUNDS_MS, bucket_of, quantile_ms


def test_each_bound_is_at_most_twice_the_one_before_it_so_that_the_page_is_right():
    assert all(before < after <= 2 * before for before, after in pairwise(BOUNDS_MS))


@pytest.mark.parametrize(
    ("ms", "name"), [(0, "25"), (25, "25"), (26, "50"), (60_000, "60000"), (60_001, BEYOND)]
)
def test_a_latency_is_counted_under_the_least_bound_that_is_not_below_it(ms, name):
    assert bucket_of(ms) == name


def test_of_nothing_there_is_no_quantile():
    assert quantile_ms({}, 0.5) is None
    assert quantile_ms({"25": 0}, 0.95) is None


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(latencies, share):
    counts = Counter(map(bucket_of, latencies))
    ordered = sorted(latencies)
    true = ordered[max(ceil(share * len(ordered)), 1) - 1]
    found = quantile_ms(counts, share, ordered[-1])
    at = bisect_left(BOUNDS_MS, true)
    least = BOUNDS_MS[at - 1] if at else 0
    most = BOUNDS_MS[at] if at < len(BOUNDS_MS) else ordered[-1]
    assert found is not None
    assert least <= found <= most
    assert found <= max(ordered[-1], least)


def test_beyond_the_last_bound_the_longest_is_the_bound_if_it_is_known():
    assert quantile_ms({BEYOND: 4}, 1.0, 90_000) == 90_000
    assert quantile_ms({BEYOND: 4}, 1.0) == 60_000


def test_counts_by_bounds_of_another_version_are_read_too():
    assert quantile_ms({"40": 1, "45": 1}, 1.0) == 45
