"""How far a partition of requests is done with, while its requests end in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.chunk import SourcePartition
from connectors.llm.offsets import Offsets

SOURCE = SourcePartition("llm.requests.v1", 2)


def test_the_oldest_request_under_way_holds_the_position_with_the_ledger_as_it_was_then():
    offsets = Offsets()
    tenure = offsets.start(SOURCE, 10, note=400, until=10)
    assert offsets.position(tenure, 500) == (10, 500)
    offsets.take(tenure, 10, 500)
    offsets.take(tenure, 12, 501)  # offsets are not consecutive: transactions have marks of their own
    offsets.finish(tenure, 12)
    assert offsets.position(tenure, 900) == (10, 500)
    assert offsets.under_way() == 1
    offsets.finish(tenure, 10)
    assert offsets.position(tenure, 900) == (13, 900)
    assert offsets.under_way() == 0


def test_what_a_dead_owner_may_have_begun_keeps_the_position_that_it_was_taken_over_with():
    offsets = Offsets()
    tenure = offsets.start(SOURCE, 10, note=400, until=13)
    assert offsets.position(tenure, 900) == (10, 400), "also before any of it is taken"
    for offset in range(10, 15):
        offsets.take(tenure, offset, 900)
    assert offsets.position(tenure, 950) == (10, 400)
    for offset in (10, 11):
        offsets.finish(tenure, offset)
    assert offsets.position(tenure, 950) == (12, 400)
    offsets.finish(tenure, 12)
    assert offsets.position(tenure, 950) == (13, 900)
    offsets.finish(tenure, 13)
    offsets.finish(tenure, 14)
    assert offsets.position(tenure, 950) == (15, 950)


def test_a_partition_that_is_gone_has_no_position_and_one_that_came_back_is_another_tenure():
    offsets = Offsets()
    first = offsets.start(SOURCE, 0, note=0, until=0)
    offsets.take(first, 0, 0)
    offsets.stop([SOURCE])
    offsets.finish(first, 0)
    assert offsets.tenure(SOURCE) is None
    assert offsets.position(first, 7) is None
    second = offsets.start(SOURCE, 0, note=5, until=1)
    assert not offsets.lasts(first)
    assert offsets.lasts(second)
    assert offsets.position(first, 7) is None, "what was begun then is not committed now"
    assert offsets.position(second, 7) == (0, 5)


@given(st.permutations(range(8)), st.integers(0, 8))
def test_whatever_the_order_nothing_that_is_not_done_is_passed(order, done):
    offsets = Offsets()
    tenure = offsets.start(SOURCE, 0, note=50, until=3)
    for offset in range(8):
        offsets.take(tenure, offset, 100 + offset)
    for offset in order[:done]:
        offsets.finish(tenure, offset)
        offsets.finish(tenure, offset)
    left = set(range(8)) - set(order[:done])
    expected = (min(left), 50 if min(left) < 3 else 100 + min(left)) if left else (8, 999)
    assert offsets.position(tenure, 999) == expected
    assert offsets.under_way() == len(left)
