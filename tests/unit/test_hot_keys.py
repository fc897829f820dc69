"""The sketch of hot keys: what it promises of any input, and what it shows of a skewed one."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.chunk import EventChunk, Records, SourcePartition
from connectors.kafka.hot_keys import SAMPLES_MAX, HotKeys, Sketch

SOURCE = SourcePartition("streams.input.v1", 0)
KEYS = st.sampled_from([b"%d" % n for n in range(12)])


class Message:
    def __init__(self, key):
        self._key = key

    def key(self):
        return self._key


def chunk(keys):
    return Records(SOURCE, [Message(key) for key in keys])


@given(st.lists(st.lists(KEYS, max_size=30), max_size=30), st.integers(1, 8))
def test_a_count_is_never_too_high_and_by_no_more_too_low_than_the_bound(batches, counters):
    sketch, truth = Sketch(counters), Counter()
    for batch in batches:
        sketch.add(Counter(batch))
        truth.update(batch)
    assert sketch.total == truth.total()
    assert len(sketch.counts) <= counters
    bound = truth.total() / (counters + 1)
    for key, count in truth.items():
        assert count - bound <= sketch.counts.get(key, 0) <= count


def test_a_key_with_half_of_the_records_is_shown_with_its_share_and_no_other():
    random.seed(4)
    hot_keys = HotKeys()
    for _ in range(100):
        hot_keys.see(
            SOURCE, chunk(b"hot" if i % 2 else b"%d" % random.randrange(10**6) for i in range(2_000))
        )
    ((key, share),) = hot_keys.top()[SOURCE]
    assert key == b"hot"
    assert share == pytest.approx(0.5, abs=0.05)


def test_keys_that_come_in_turns_are_met_evenly():
    random.seed(4)
    hot_keys = HotKeys()
    for _ in range(200):  # a period that the steps of the sampling divide
        hot_keys.see(SOURCE, chunk(b"%d" % (i % 4) for i in range(4 * SAMPLES_MAX)))
    shares = [share for _, share in hot_keys.top()[SOURCE]]
    assert shares == pytest.approx([0.25] * 4, abs=0.1)


def test_few_records_say_nothing_and_none_is_missed_by_the_agent():
    hot_keys = HotKeys()
    made = []

    def chunker(epoch, records, _guard):
        made.append(len(records))
        return EventChunk(SOURCE, epoch, [], 0)

    watching = hot_keys.watching(chunker)
    watching(7, chunk([None]), None)
    watching(7, chunk([b"a"] * 98), None)
    assert made == [1, 98]
    assert hot_keys.top() == {SOURCE: []}
    watching(7, chunk([b"a"]), None)
    assert hot_keys.top()[SOURCE] == [(b"a", pytest.approx(0.99))]
