"""Many keys at once are what one by one are: over both stores, under savepoints, in windows and in time."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.topics import TopicSpec
from state.columns import effective_us, place, see_all
from state.effects import PartitionScope
from state.errors import EffectTooLarge
from state.memory import MemoryBackend
from state.store import RECORD_OVERHEAD_BYTES, Position, StagedView
from state.watermark import AHEAD_US_MAX, Watermark
from state.windows import TimeWindows, WindowOptions

AT = Position("topic-1", 10, 1_000)
TOPIC = TopicSpec("totals.v1", "key", "", 4, -1, "compact", "Totals.", max_message_bytes=1_000)
KEYS = st.binary(max_size=2)
VALUES = st.one_of(st.none(), st.binary(max_size=3))
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=8)


def columns(pairs):
    return [key for key, _ in pairs], [value for _, value in pairs]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PAIRS, st.lists(KEYS, max_size=8), st.booleans()), max_size=5))
def test_what_is_put_at_once_is_read_at_once_before_and_after_a_commit(backend, steps):
    backend.clear()
    view, model = StagedView(backend), {}
    for pairs, asked, commits in steps:
        view.put_many(*columns(pairs))
        model.update(pairs)
        assert view.multi_get(asked) == [model.get(key) for key in asked]
        assert [view.get(key) for key in asked] == [model.get(key) for key in asked]
        if commits:
            backend.write(view.staged, AT)
            view.drop()
            assert backend.multi_get(asked) == [model.get(key) for key in asked]
    there = sorted((key, value) for key, value in model.items() if value is not None)
    assert list(view.scan(b"", b"\xff\xff\xff", 1_000)) == there


class ManyAtOnce(RuleBasedStateMachine):
    """A scope that writes state and updates in batches, under nested savepoints, against plain dicts."""

    def __init__(self):
        super().__init__()
        self.backend = MemoryBackend()
        self.scope = PartitionScope("agent", 0, self.backend, None, None)
        self.state, self.updates, self.saved = {}, {}, []

    @rule(pairs=PAIRS)
    def put_many(self, pairs):
        self.scope.state.put_many(*columns(pairs))
        self.state.update(pairs)

    @rule(key=KEYS, value=st.binary(max_size=3))
    def put(self, key, value):
        self.scope.state.put(key, value)
        self.state[key] = value

    @rule(pairs=PAIRS, partition=st.sampled_from([None, 1]))
    def update_many(self, pairs, partition):
        self.scope.update_many(TOPIC, *columns(pairs), partition=partition)
        self.updates.update({(key, partition): value for key, value in pairs})

    @rule(key=KEYS, value=VALUES)
    def update(self, key, value):
        self.scope.update(TOPIC, key, value)
        self.updates[key, None] = value

    @rule()
    def savepoint(self):
        self.scope.savepoint()
        self.saved.append((dict(self.state), dict(self.updates)))

    @precondition(lambda self: self.saved)
    @rule()
    def keep(self):
        self.scope.keep()
        self.saved.pop()

    @precondition(lambda self: self.saved)
    @rule()
    def undo(self):
        self.scope.undo()
        self.state, self.updates = self.saved.pop()

    @precondition(lambda self: not self.saved)
    @rule()
    def commit(self):
        appended = {(append.key, append.partition): append.value for append in self.scope.take_appends()}
        assert appended == self.updates
        self.backend.write(self.scope.view.staged, AT)
        self.scope.drop()
        self.updates = {}

    @rule(keys=st.lists(KEYS, max_size=5))
    def multi_get(self, keys):
        assert self.scope.state.multi_get(keys) == [self.state.get(key) for key in keys]

    @invariant()
    def scans_agree(self):
        there = sorted((key, value) for key, value in self.state.items() if value is not None)
        assert list(self.scope.state.scan(b"", b"\xff\xff\xff", 1_000)) == there

    @invariant()
    def the_unit_knows_at_least_what_it_holds(self):
        staged = self.scope.view.staged
        assert self.scope.effect_records == len(staged) + len(self.updates)
        held = sum(len(key) + len(value or b"") for key, value in staged.items())
        held += sum(len(key) + len(value or b"") for (key, _), value in self.updates.items())
        assert self.scope.effect_bytes >= held or self.saved


TestManyAtOnce = ManyAtOnce.TestCase
TestManyAtOnce.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_what_its_topic_does_not_take_is_refused_before_anything_is_staged():
    changelog = TopicSpec(
        "small.changelog.v1", "key", "", 1, -1, "compact", "State.", max_message_bytes=1_000
    )
    scope = PartitionScope("agent", 0, MemoryBackend(), changelog, None)
    room = 1_000 - RECORD_OVERHEAD_BYTES
    fits, large = bytes(room - 1), bytes(room)
    scope.state.put_many([b"a"], [fits])
    scope.state.put_many([b"k" * 200, b"a"], [b"", fits])  # the longest key has the shortest value
    with pytest.raises(EffectTooLarge, match="state value"):
        scope.state.put_many([b"b", b"a"], [b"1", large])
    with pytest.raises(EffectTooLarge, match=r"totals\.v1"):
        scope.update_many(TOPIC, [b"b", b"a"], [b"1", large])
    with pytest.raises(ValueError, match="zip"):
        scope.state.put_many([b"a", b"b"], [b"1"])
    for put in (scope.state.put_many, partial(scope.update_many, TOPIC)):
        with pytest.raises(ValueError, match="a key is null"):
            put([b"b", None], [None, b"1"])
    assert scope.view.staged.keys() == {b"a", b"k" * 200}
    assert scope.take_appends() == []


MS = 1_000
MINUTES = TimeWindows(b"m", WindowOptions())
EVENTS = st.lists(
    st.tuples(st.integers(0, 60 * MS), st.sampled_from([b"a", b"b"]), st.integers(0, 60 * MS)), max_size=20
)


def add_up(counts, rows, values):
    return [b"%d" % (counts[row] + int(value or 0)) for row, value in zip(rows, values, strict=True)]


@given(EVENTS, st.integers(0, 3), st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_windows_of_batches_are_those_of_events_however_they_are_cut(events, grace, cuts):
    """Each event with its append time; one by one as an event agent, and by columns in cuts of any size."""
    windows = TimeWindows(b"w", WindowOptions(10, grace, 1_000))
    one_view, one_clock, late = StagedView(MemoryBackend()), Watermark(2 * MS), 0
    for time_us, key, append_us in events:
        one_clock.see(time_us, append_us)
        late += not windows.add(
            one_view, time_us, key, one_clock.now_us, lambda value: b"%d" % (int(value or 0) + 1)
        )

    view, clock, missed, rest = StagedView(MemoryBackend()), Watermark(2 * MS), 0, list(events)
    while rest:
        size = cuts[len(rest) % len(cuts)]
        batch, rest = rest[:size], rest[size:]
        times = pa.array([time_us for time_us, _, _ in batch], pa.int64())
        appends = pa.array([append_us for _, _, append_us in batch], pa.int64())
        begins = clock.now_us
        placed = place(windows, times, see_all(clock, times, appends))
        missed += placed.in_time.false_count
        sums = {}
        for row, open_then in enumerate(placed.in_time.to_pylist()):
            if open_then:
                at = (placed.start_us[row].as_py(), batch[row][1])
                sums[at] = sums.get(at, 0) + 1
        starts, keys = [start for start, _ in sums], [key for _, key in sums]
        fold = partial(add_up, list(sums.values()))
        assert windows.add_batch(view, starts, keys, begins, fold) == []
    assert (view.staged, missed, clock.now_us) == (one_view.staged, late, one_clock.now_us)


def test_rows_whose_window_has_closed_are_told_and_nothing_is_folded_into_them():
    windows, view = TimeWindows(b"w", WindowOptions(10, 5, 1_000)), StagedView(MemoryBackend())
    seen = []

    def fold(rows, values):
        seen.append((list(rows), values))
        return [b"1" for _ in rows]

    starts, keys = [0, 20 * MS, 10 * MS], [b"a", b"b", b"c"]
    assert windows.add_batch(view, starts, keys, 15 * MS, fold) == [0], "closed at its end and grace"
    assert seen == [([1, 2], [None, None])]
    assert windows.get(view, 0, b"a") is None
    assert windows.get(view, 20 * MS, b"b") == windows.get(view, 10 * MS, b"c") == b"1"


MILLIS = st.integers(0, 10**10)


@given(
    st.lists(st.tuples(st.none() | MILLIS, MILLIS), min_size=1, max_size=30), st.sampled_from(["us", "ms"])
)
def test_the_watermark_after_each_row_is_that_of_one_event_after_another(times, unit):
    """Rows without a time move nothing; a unit is what the schema says."""
    us = 1_000 if unit == "ms" else 1
    plain, at_once = Watermark(7), Watermark(7)
    expected, effective = [], []
    for event, append in times:
        effective.append(None if event is None else plain.see(event * us, append * us))
        expected.append(plain.now_us)
    events, appends = (pa.array(column, pa.timestamp(unit, "UTC")) for column in zip(*times, strict=True))
    watermarks = see_all(at_once, events, appends)
    assert watermarks.to_pylist() == expected
    assert effective_us(events, appends, watermarks).to_pylist() == effective
    assert at_once.max_us == plain.max_us
    assert max(expected) <= max(append for _, append in times) * us + AHEAD_US_MAX
    placed = place(MINUTES, events, pa.array(expected))
    assert placed.start_us.to_pylist() == [
        None if at is None else MINUTES.start_us(at * us) for at, _ in times
    ]
    assert placed.in_time.is_null().to_pylist() == [at is None for at, _ in times]


def test_an_empty_batch_moves_nothing():
    clock = Watermark(7, max_us=100)
    none = pa.array([], pa.int64())
    assert len(see_all(clock, none, none)) == 0
    assert clock.max_us == 100
