"""Session windows against a plain list: the same sessions, each closed once, and none left behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.binary import pack_time
from state.memory import MemoryBackend
from state.sessions import SessionOptions, SessionWindows
from state.store import Position, StagedView

GAP_US, GRACE_US, TTL_US = 10_000, 5_000, 20_000
WAIT_US = GAP_US + GRACE_US


def sessions():
    return SessionWindows(b"s", SessionOptions(10, 5, 20))


def fresh():
    return StagedView(MemoryBackend()), sessions()


def count(values):
    return b"%d" % (sum(int(value) for value in values) + 1)


def spans(found):
    return [(one.start_us, one.end_us, int(one.value)) for one in found]


def test_events_within_a_gap_are_one_session_and_a_bridge_joins_two():
    view, windows = fresh()
    windows.add(view, 0, b"k", -1, count)
    windows.add(view, 20_000, b"k", -1, count)
    assert spans(windows.open(view, b"k")) == [(0, 0, 1), (20_000, 20_000, 1)]
    made, superseded = windows.add(view, 10_000, b"k", -1, count)
    assert spans([made]) == [(0, 20_000, 3)]
    assert spans(superseded) == [(20_000, 20_000, 1)]
    assert spans(windows.open(view, b"k")) == [(0, 20_000, 3)]
    assert windows.open(view, b"") == []


def test_one_of_more_open_sessions_than_are_read_at_a_time_is_joined_too():
    view, windows = fresh()
    for n in range(10_050):
        windows.add(view, n * 3 * GAP_US, b"k", -1, count)
    made, superseded = windows.add(view, 10_040 * 3 * GAP_US + 1, b"k", -1, count)
    assert (spans([made]), superseded) == ([(10_040 * 3 * GAP_US, 10_040 * 3 * GAP_US + 1, 2)], [])
    counts = []
    while closed := windows.closed(view, 1 << 60, 1_000):
        counts += [int(one.value) for one in closed]
    assert (len(counts), sum(counts)) == (10_050, 10_051)


def test_a_session_closes_once_also_over_a_restart_and_is_not_opened_again():
    view, windows = fresh()
    windows.add(view, 0, b"k", -1, count)
    assert windows.next_close_us(view) == WAIT_US
    assert windows.closed(view, WAIT_US - 1, 9) == []
    assert spans(windows.closed(view, WAIT_US, 9)) == [(0, 0, 1)]
    again = sessions()
    assert again.closed(view, WAIT_US, 9) == []
    assert again.next_close_us(view) is None
    assert again.add(view, 0, b"k", WAIT_US, count) is None
    made, superseded = again.add(view, 5_000, b"k", WAIT_US, count)
    assert (spans([made]), superseded) == ([(5_000, 5_000, 1)], [])
    assert spans(again.kept(view, b"k", 9)) == [(0, 0, 1)]


def test_an_entry_whose_session_the_changelog_lost_is_passed_over():
    view, windows = fresh()
    for time_us in (0, 20_000, 40_000):
        windows.add(view, time_us, b"k", -1, count)
    view.delete(b"so" + b"\x00\x01k" + pack_time(0))
    assert spans(windows.closed(view, 1 << 40, 1)) == [(20_000, 20_000, 1)]
    assert spans(windows.closed(view, 1 << 40, 9)) == [(40_000, 40_000, 1)]
    assert windows.next_close_us(view) is None


def test_an_expired_session_leaves_nothing_behind():
    view, windows = fresh()
    windows.add(view, 0, b"k", -1, count)
    windows.closed(view, WAIT_US, 9)
    assert windows.expire(view, WAIT_US + TTL_US - 1, 9) == 0
    assert windows.expire(view, WAIT_US + TTL_US, 9) == 1
    assert [key for key, value in view.staged.items() if value is not None] == []


@pytest.mark.parametrize("wrong", [{"gap_ms": 0}, {"grace_ms": -1}, {"ttl_ms": -1}])
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="gap_ms"):
        SessionOptions(**wrong)


@given(
    st.lists(
        st.tuples(st.integers(0, 200_000), st.sampled_from([b"a", b"ab", b"\xff"]), st.integers(0, 30_000)),
        max_size=60,
    ),
    st.data(),
)
def test_any_events_at_any_watermark_give_the_sessions_of_a_plain_list(arrivals, data):
    """``arrivals``: time, key, and how far the watermark moves first; units commit at random moments."""
    backend = MemoryBackend()
    view, windows = StagedView(backend), sessions()
    open_, closed, seen = [], [], []
    watermark = -1
    for time_us, key, moves in arrivals:
        watermark += moves
        due = sorted((s for s in open_ if s[2] + WAIT_US <= watermark), key=lambda s: s[2])
        open_ = [s for s in open_ if s not in due]
        closed += due
        while found := windows.closed(view, watermark, data.draw(st.integers(1, 3))):
            seen += [(s.key, s.start_us, s.end_us, int(s.value)) for s in found]
        added = windows.add(view, time_us, key, watermark, count)
        if time_us + WAIT_US <= watermark:
            assert added is None
        else:
            joined = [s for s in open_ if s[0] == key and s[1] - GAP_US <= time_us <= s[2] + GAP_US]
            open_ = [s for s in open_ if s not in joined]
            bounds = [time_us, *(s[1] for s in joined)], [time_us, *(s[2] for s in joined)]
            open_.append((key, min(bounds[0]), max(bounds[1]), sum(s[3] for s in joined) + 1))
        if data.draw(st.booleans()):
            backend.write(view.staged, Position("t", 0, 0))
            view, windows = StagedView(backend), sessions()
    for key in {s[0] for s in open_}:
        expected = sorted(s[1:] for s in open_ if s[0] == key)
        assert spans(windows.open(view, key)) == expected
    assert sorted(seen) == sorted(closed)
    while windows.closed(view, 10**9, 7):
        pass
    while windows.expire(view, 10**9, 7):
        pass
    assert list(view.scan(b"", b"\xff" * 20, 10)) == []
