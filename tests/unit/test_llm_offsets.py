"""How far a partition of requests is done with, while its requests end in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.chunk import SourcePartition
from connectors.llm.offsets import Offsets

SOURCE = SourcePartition("llm.requests.v1", 2)


def test_the_oldest_request_under_way_holds_the_position_with_the_ledger_as_it_was_then():
    offsets = Offsets()
    offsets.start(SOURCE, 10)
    assert offsets.position(SOURCE, 500) == (10, 500)
    offsets.take(SOURCE, 10, 500)
    offsets.take(SOURCE, 12, 501)  # offsets are not consecutive: transactions have marks of their own
    offsets.finish(SOURCE, 12)
    assert offsets.position(SOURCE, 900) == (10, 500)
    assert offsets.under_way() == 1
    offsets.finish(SOURCE, 10)
    assert offsets.position(SOURCE, 900) == (13, 900)
    assert offsets.under_way() == 0


def test_a_partition_that_is_gone_has_no_position_and_takes_nothing():
    offsets = Offsets()
    offsets.start(SOURCE, 0)
    offsets.take(SOURCE, 0, 0)
    offsets.stop([SOURCE])
    offsets.finish(SOURCE, 0)
    offsets.take(SOURCE, 1, 0)
    assert not offsets.owns(SOURCE)
    assert offsets.position(SOURCE, 7) is None


@given(st.permutations(range(8)), st.integers(0, 8))
def test_whatever_the_order_nothing_that_is_not_done_is_passed(order, done):
    offsets = Offsets()
    offsets.start(SOURCE, 0)
    for offset in range(8):
        offsets.take(SOURCE, offset, 100 + offset)
    for offset in order[:done]:
        offsets.finish(SOURCE, offset)
        offsets.finish(SOURCE, offset)
    left = set(range(8)) - set(order[:done])
    expected = (min(left), 100 + min(left)) if left else (8, 999)
    assert offsets.position(SOURCE, 999) == expected
    assert offsets.under_way() == len(left)
