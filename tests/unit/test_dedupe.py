"""A set of what was seen, by group."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from state.dedupe import DedupeSet
from state.memory import MemoryBackend
from state.store import StagedView

SEEN = DedupeSet(b"d")


def test_a_member_is_known_with_its_note_until_it_is_taken_back():
    view = StagedView(MemoryBackend())
    assert SEEN.note(view, b"g", b"m") is None
    SEEN.mark(view, b"g", b"m", 7)
    assert SEEN.note(view, b"g", b"m") == 7
    SEEN.mark(view, b"g", b"m", -1)
    assert SEEN.note(view, b"g", b"m") == -1
    SEEN.unmark(view, b"g", b"m")
    assert SEEN.note(view, b"g", b"m") is None


def test_forgetting_is_done_in_bounded_bites():
    view = StagedView(MemoryBackend())
    for number in range(25):
        SEEN.mark(view, b"g", b"%02d" % number)
    bites = [len(SEEN.forget(view, b"g", 10)) for _ in range(4)]
    assert bites == [10, 10, 5, 0]


names = st.text("ab/", max_size=3).map(str.encode)


@given(st.lists(st.tuples(names, names)), names)
def test_forgetting_a_group_touches_no_other_whatever_they_are_called(members, gone):
    view, model = StagedView(MemoryBackend()), set()
    for group, member in members:
        SEEN.mark(view, group, member)
        model.add((group, member))
    keys = SEEN.forget(view, gone, 1_000)
    assert keys == sorted(SEEN.key(group, member) for group, member in model if group == gone)
    for group, member in model:
        assert (SEEN.note(view, group, member) is None) == (group == gone)
