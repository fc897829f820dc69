"""Tumbling and hopping windows against a plain dict."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.memory import MemoryBackend
from state.store import Position, StagedView
from state.windows import TimeWindows, WindowOptions

MS = 1_000


def fresh(window_ms: int = 10, grace_ms: int = 5, ttl_ms: int = 20) -> tuple[StagedView, TimeWindows]:
    return StagedView(MemoryBackend()), TimeWindows(b"w", WindowOptions(window_ms, grace_ms, ttl_ms))


def one_more(value: bytes | None) -> bytes:
    return b"%d" % (int(value or b"0") + 1)


def add(view: StagedView, windows: TimeWindows, time_us: int, key: bytes, now_us: int) -> int | None:
    """Count an event in its one window: its start, None when it comes late."""
    starts = windows.add(view, time_us, key, now_us, one_more)
    assert len(starts) <= 1
    return starts[0] if starts else None


def test_an_event_belongs_to_the_window_that_holds_its_time():
    view, windows = fresh()
    assert add(view, windows, 19_999, b"k", -1) == 10 * MS
    assert add(view, windows, 20_000, b"k", -1) == 20 * MS
    assert add(view, windows, 10_000, b"k", -1) == 10 * MS
    assert windows.get(view, 10 * MS, b"k") == b"2"


def test_a_window_takes_events_until_its_grace_is_over_and_not_at_its_end():
    view, windows = fresh()
    assert add(view, windows, 0, b"k", 14_999) == 0
    assert add(view, windows, 0, b"k", 15_000) is None


def test_a_window_closes_once_also_over_a_restart():
    view, windows = fresh()
    add(view, windows, 0, b"k", -1)
    assert windows.closed(view, 14_999, 9) == []
    assert [window.key for window in windows.closed(view, 15_000, 9)] == [b"k"]
    assert windows.closed(view, 15_000, 9) == []
    again = TimeWindows(b"w", WindowOptions(10, 5, 20))
    assert again.closed(view, 99_000, 9) == []


@settings(max_examples=200, deadline=None)
@given(
    ttl_ms=st.integers(0, 30),
    steps=st.lists(
        st.tuples(st.integers(0, 40), st.booleans(), st.integers(1, 4), st.integers(1, 4)), max_size=20
    ),
)
def test_no_window_is_deleted_before_it_was_closed_whatever_the_order_and_the_limits(ttl_ms, steps):
    view, windows = fresh(ttl_ms=ttl_ms)
    opened, closed, now_us = set(), [], 0
    for step, (ms, expire_first, close_limit, expire_limit) in enumerate(steps):
        now_us += ms * MS
        key = b"%d" % (step % 3)
        start_us = add(view, windows, now_us, key, now_us)
        opened.add((start_us, key))
        calls = [
            lambda now=now_us, limit=close_limit: closed.extend(windows.closed(view, now, limit)),
            lambda now=now_us, limit=expire_limit: windows.expire(view, now, limit),
        ]
        for call in reversed(calls) if expire_first else calls:
            call()
    while found := windows.closed(view, now_us + 60 * MS, 2):
        closed.extend(found)
    assert sorted((one.start_us, one.key) for one in closed) == sorted(opened)
    assert windows.expire(view, now_us + 600 * MS, 1_000) <= len(opened)
    assert not list(view.scan(b"ww", b"ww" + b"\xff" * 9, 1_000)), "all are gone in the end"


def test_an_agent_that_never_closes_has_its_windows_deleted_all_the_same():
    view, windows = fresh()
    add(view, windows, 0, b"k", -1)
    assert windows.expire(view, 99_000, 9) == 1


def test_the_next_close_is_told_for_the_ticker():
    view, windows = fresh()
    assert windows.next_close_us(view) is None
    add(view, windows, 25_000, b"k", -1)
    assert windows.next_close_us(view) == 35_000
    windows.closed(view, 35_000, 9)
    assert windows.next_close_us(view) is None


def test_a_closed_window_is_kept_for_its_ttl_and_then_deleted():
    view, windows = fresh()
    add(view, windows, 0, b"k", -1)
    assert not windows.is_forgotten(0, 34_999)
    assert windows.expire(view, 34_999, 9) == 0
    assert windows.get(view, 0, b"k") == b"1"
    assert windows.is_forgotten(0, 35_000)
    assert windows.expire(view, 35_000, 9) == 1
    assert windows.get(view, 0, b"k") is None


def test_windows_of_one_start_are_found_by_the_beginning_of_their_key():
    view, windows = fresh()
    for key in (b"a1", b"a2", b"b1"):
        windows.put(view, 0, key, b"")
    windows.put(view, 10 * MS, b"a3", b"")
    assert [window.key for window in windows.of(view, 0, b"a", 9)] == [b"a1", b"a2"]
    windows.put(view, 0, b"a" + b"\xff" * 9, b"")
    assert windows.of(view, 0, b"a", 9)[-1].key == b"a" + b"\xff" * 9


WRONG = [
    {"window_ms": 0}, {"grace_ms": -1}, {"ttl_ms": -1}, {"advance_ms": -1}, {"advance_ms": 60_001},
    {"window_ms": 86_400_000, "advance_ms": 10},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="window_ms"):
        WindowOptions(**wrong)


def test_an_event_is_in_each_hopping_window_that_holds_its_time_and_in_none_before_1970():
    view = StagedView(MemoryBackend())
    windows = TimeWindows(b"w", WindowOptions(10, 5, 20, advance_ms=4))
    assert windows.add(view, 9_000, b"k", -1, one_more) == [0, 4 * MS, 8 * MS]
    assert windows.add(view, 10_000, b"k", -1, one_more) == [4 * MS, 8 * MS]
    assert windows.add(view, 9_000, b"k", 16_000, one_more) == [4 * MS, 8 * MS], (
        "one has closed, two have not"
    )
    assert windows.next_close_us(view) == 15 * MS


moves = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([b"", b"k", b"k\x00", b"\xff"]), st.integers(0, 120_000)),
        st.tuples(st.just("time"), st.integers(1, 3), st.integers(0, 30_000)),
        st.tuples(st.just("flush"), st.none(), st.none()),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(moves, st.sampled_from([0, 5]), st.sampled_from([0, 20]), st.sampled_from([0, 10, 5, 4, 3]))
def test_any_use_equals_a_plain_dict(moves, grace_ms, ttl_ms, advance_ms):
    options = WindowOptions(10, grace_ms, ttl_ms, advance_ms)
    step_us = (advance_ms or 10) * MS
    backend = MemoryBackend()
    view, windows, now_us = StagedView(backend), TimeWindows(b"w", options), -1
    model: Counter[tuple[int, bytes]] = Counter()
    closed: dict[tuple[int, bytes], int] = {}
    view.put(b"v", b"before")
    view.put(b"x", b"after")
    for move, first, second in moves:
        if move == "add":
            starts = [at for at in range(0, second + 1, step_us) if at + 10_000 > second]
            open_ = [at for at in starts if at + 10_000 + grace_ms * MS > now_us]
            assert windows.add(view, second, first, now_us, one_more) == open_
            model.update((at, first) for at in open_)
        elif move == "flush":
            backend.write(view.staged, Position("", 0, 0))
            view, windows = StagedView(backend), TimeWindows(b"w", options)
        else:
            now_us += second
            while page := windows.closed(view, now_us, first):
                assert len(page) <= first
                for window in page:
                    assert (window.start_us, window.key) not in closed
                    closed[window.start_us, window.key] = int(window.value)
            while windows.expire(view, now_us, first):
                pass
        assert closed == {
            at: count for at, count in model.items()
            if at[0] + 10_000 + grace_ms * MS <= now_us
        }  # fmt: skip
        for (start_us, key), count in model.items():
            over = start_us + 10_000 + (grace_ms + ttl_ms) * MS <= now_us
            assert windows.get(view, start_us, key) == (None if over else b"%d" % count)
    assert (view.get(b"v"), view.get(b"x")) == (b"before", b"after")
