"""What is due is found by time, and what was put off is not lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.memory import MemoryBackend
from state.store import Position, StagedView
from state.ttl import ExpiryIndex


def fresh() -> tuple[StagedView, ExpiryIndex]:
    return StagedView(MemoryBackend()), ExpiryIndex(b"x")


def test_what_is_due_comes_earliest_first_and_no_more_than_asked_for():
    view, index = fresh()
    for due_us, key in ((30, b"c"), (10, b"a"), (20, b"b"), (40, b"d")):
        index.put(view, due_us, key)
    assert index.due(view, 30, 2) == [(10, b"a"), (20, b"b")]
    assert index.due(view, 30, 9) == [(10, b"a"), (20, b"b"), (30, b"c")]
    assert index.due(view, 9, 9) == []
    assert index.earliest_us(view) == 10


def test_an_entry_taken_out_is_not_due():
    view, index = fresh()
    index.put(view, 10, b"a")
    index.remove(view, 10, b"a")
    assert index.due(view, 99, 9) == []
    assert index.earliest_us(view) is None


def test_neighbours_in_the_store_are_not_its_entries():
    view, index = fresh()
    view.put(b"w\xff", b"")
    view.put(b"y", b"")
    assert index.due(view, 1 << 60, 9) == []


def test_before_time_began_nothing_is_due():
    view, index = fresh()
    index.put(view, 0, b"a")
    assert index.due(view, -1, 9) == []
    assert index.due(view, 0, 9) == [(0, b"a")]


class Asked(MemoryBackend):
    """Knows from where on it was last asked for how many."""

    def scan(self, start, end, limit):
        self.asked = start, limit
        return super().scan(start, end, limit)


@pytest.mark.parametrize("steps_a_unit", [1, 10, 100])
def test_what_was_taken_out_is_not_passed_over_again_each_time_something_is_due(steps_a_unit):
    """A store has deletes in the way of who reads from the front on, until it has compacted them."""
    backend = Asked()
    view, index = StagedView(backend), ExpiryIndex(b"x")
    for now_us in range(1_000):
        index.put(view, now_us + 50, b"key")
        for due_us, key in index.due(view, now_us, 256):
            assert due_us == now_us
            index.remove(view, due_us, key)
        if now_us > 100:
            start, limit = backend.asked
            assert start >= index.key(now_us - 1, b"")
            assert limit <= 256 + 2
        if now_us % steps_a_unit == 0:
            backend.write(view.staged, Position("", 0, 0))
            view.written()
            view.drop()


def test_the_earliest_of_many_that_were_just_entered_has_the_store_asked_for_no_more_than_itself():
    backend = Asked()
    view, index = StagedView(backend), ExpiryIndex(b"x")
    for due_us in range(1_000, 0, -1):
        index.put(view, due_us, b"key")
    index.remove(view, 1, b"key")
    assert index.earliest_us(view) == 2
    _, limit = backend.asked
    assert limit == 1 + 1, "one, and one that what was taken out may hide"


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("touch"), st.sampled_from([b"a", b"ab", b"b", b"\x00", b"\xff"]), st.integers(1, 20)
        ),
        st.tuples(st.just("sweep"), st.integers(1, 3), st.integers(0, 10)),
        st.tuples(st.just("flush"), st.none(), st.none()),
    ),
    max_size=40,
)


@given(steps)
def test_a_key_refreshed_in_the_same_flush_outlives_the_sweep(moves):
    """The owner's discipline, as ingest has it: its own due time is the truth, the entry may be stale."""
    backend = MemoryBackend()
    view, index, now_us = StagedView(backend), ExpiryIndex(b"x"), 0
    due: dict[bytes, int] = {}
    for move, first, second in moves:
        if move == "touch":
            due[first] = now_us + second
            stored = view.get(b"k" + first)
            if stored is None:
                index.put(view, due[first], first)
            view.put(b"k" + first, b"%d" % due[first])
        elif move == "flush":
            backend.write(view.staged, Position("", 0, 0))
            view = StagedView(backend)
        else:
            now_us += second
            for entry_us, key in index.due(view, now_us, first):
                index.remove(view, entry_us, key)
                truth_us = int(view.get(b"k" + key) or b"0")
                if truth_us > now_us:
                    index.put(view, truth_us, key)
                else:
                    view.delete(b"k" + key)
        alive = {key[1:]: int(value) for key, value in view.scan(b"k", b"l", 99)}
        assert {key for key, until_us in due.items() if until_us > now_us} <= alive.keys()
        assert len(index.due(view, 1 << 60, 99)) == len(alive)
