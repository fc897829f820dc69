"""A set of what was seen, by group."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from state.dedupe import DedupeSet, Seen, SeenOptions, read_note, write_note
from state.memory import MemoryBackend
from state.store import StagedView

SEEN = DedupeSet(b"d")


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_note_is_read_as_it_was_written(number):
    assert read_note(write_note(number)) == number


def test_an_entry_whose_member_the_changelog_lost_does_not_forget_the_member_taken_in_anew():
    view, seen = StagedView(MemoryBackend()), Seen(b"s", SeenOptions(ttl_ms=10))
    assert seen.add(view, 0, b"a", -1)
    view.delete(b"sm" + b"a")
    assert seen.add(view, 5_000, b"a", -1)
    assert seen.expire(view, 12_000, 9) == 1
    assert not seen.add(view, 12_000, b"a", 12_000), "it is known until 15,000"
    assert seen.expire(view, 15_000, 9) == 1
    assert not any(value is not None for value in view.staged.values())


def test_forgetting_is_done_in_bounded_bites():
    view = StagedView(MemoryBackend())
    for number in range(25):
        view.put(SEEN.key(b"g", b"%02d" % number), write_note(number))
    bites = [len(SEEN.forget(view, b"g", 10)) for _ in range(4)]
    assert bites == [10, 10, 5, 0]


names = st.text("ab/", max_size=3).map(str.encode)


@given(st.lists(st.tuples(names, names)), names)
def test_forgetting_a_group_touches_no_other_whatever_they_are_called(members, gone):
    view, model = StagedView(MemoryBackend()), set()
    for group, member in members:
        view.put(SEEN.key(group, member), write_note(0))
        model.add((group, member))
    keys = SEEN.forget(view, gone, 1_000)
    assert keys == sorted(SEEN.key(group, member) for group, member in model if group == gone)
    for group, member in model:
        assert (view.get(SEEN.key(group, member)) is None) == (group == gone)
