"""Values and sets that expire, over both stores and against plain dicts: what has expired is gone."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from state.columns import effective_us, see_all
from state.dedupe import Seen, SeenOptions
from state.keyvalue import KeyValue, KeyValueOptions, KeyValues
from state.memory import MemoryBackend
from state.store import Position, StagedView
from state.watermark import Watermark

MS = 1_000
AT = Position("topic-1", 10, 1_000)
TTL_MS = 10
TTL_US = TTL_MS * MS
NAMES = (b"", b"k", b"k\x00", b"\xff")
KEYS = st.sampled_from(NAMES)
TIMES = st.integers(0, 30 * MS)


def values():
    return KeyValues(b"v", KeyValueOptions(ttl_ms=TTL_MS))


def seen():
    return Seen(b"s", SeenOptions(ttl_ms=TTL_MS))


def stored(view):
    return list(view.scan(b"", b"\xff" * 8, 1_000))


def commit(view, backend, changelog):
    """As a unit of work: the changelog gets what the store gets, and keeps the last of each key."""
    changelog.update(view.staged)
    backend.write(view.staged, AT)
    return StagedView(backend)


@pytest.mark.parametrize("options", [KeyValueOptions, SeenOptions])
@pytest.mark.parametrize("ttl_ms", [0, -1])
def test_a_time_to_live_that_is_none_is_refused(options, ttl_ms):
    with pytest.raises(ValueError, match="ttl_ms must be positive"):
        options(ttl_ms=ttl_ms)


def test_a_value_lives_for_its_ttl_after_its_last_write_and_is_not_seen_at_its_end(backend):
    view, kept = StagedView(backend), values()
    kept.put(view, 0, b"k", b"1")
    kept.put(view, 4 * MS, b"k", b"2")
    assert kept.get(view, b"k", TTL_US + 4 * MS - 1) == b"2"
    assert kept.get(view, b"k", TTL_US + 4 * MS) is None, "though it is not deleted yet"
    assert kept.get_many(view, [b"x", b"k"], 0) == [None, b"2"]
    assert kept.expire(view, TTL_US + 4 * MS - 1, 9) == [], "the entry of the first write deletes nothing"
    assert kept.expire(view, TTL_US + 4 * MS, 9) == [KeyValue(b"k", b"2")]
    assert kept.expire(view, TTL_US + 4 * MS, 9) == []
    assert stored(view) == []


def test_what_is_written_late_does_not_shorten_a_life(backend):
    view, kept = StagedView(backend), values()
    kept.put(view, 8 * MS, b"k", b"1")
    kept.put(view, 0, b"k", b"2")
    assert kept.get(view, b"k", TTL_US + 7 * MS) == b"2"


def test_a_key_that_is_deleted_and_put_again_and_again_leaves_one_entry(backend):
    view, kept = StagedView(backend), values()
    for time_us in range(100):
        kept.put(view, time_us, b"k", b"v")
        kept.delete(view, b"k")
    assert stored(view) == []
    for time_us in range(100):
        kept.put(view, time_us, b"k", b"v")
    assert len(stored(view)) == 2, "the value, and one entry in the index"
    assert kept.next_expiry_us(view) == TTL_US
    kept.delete(view, b"nobody")
    assert len(stored(view)) == 2


@pytest.mark.parametrize("batch", [False, True])
def test_a_value_whose_entry_was_lost_is_entered_anew_by_the_first_write_after_its_time(backend, batch):
    view, kept = StagedView(backend), values()

    def write(time_us):
        if batch:
            kept.add_batch(view, [time_us], [b"k"], [time_us], lambda _found: [b"1"])
        else:
            kept.put(view, time_us, b"k", b"1")

    write(0)
    write(9 * MS)
    entry, _ = stored(view)[-1]
    view.delete(entry)  # a changelog that deletes by age forgot it, and the disk was built anew from there
    assert kept.next_expiry_us(view) is None
    write(TTL_US)
    assert kept.expire(view, 2 * TTL_US, 9) == [KeyValue(b"k", b"1")]
    assert stored(view) == []


def test_a_fold_reads_what_is_there_and_begins_anew_after_the_end(backend):
    view, kept = StagedView(backend), values()

    def one_more(value):
        return b"%d" % (int(value or 0) + 1)

    assert [kept.add(view, at, b"k", at, one_more) for at in (0, 1, TTL_US, 2 * TTL_US)] == [
        b"1", b"2", b"3", b"1"
    ]  # fmt: skip


def test_values_are_found_by_the_beginning_of_their_key(backend):
    view, kept = StagedView(backend), values()
    for time_us, key in ((0, b"a1"), (5 * MS, b"a2"), (5 * MS, b"b1")):
        kept.put(view, time_us, key, key)
    assert kept.of(view, b"a", 0, 9) == [KeyValue(b"a1", b"a1"), KeyValue(b"a2", b"a2")]
    assert kept.of(view, b"", TTL_US, 9) == [KeyValue(b"a2", b"a2"), KeyValue(b"b1", b"b1")]


def test_a_member_is_new_once_within_its_ttl_and_a_duplicate_does_not_prolong_it(backend):
    view, ids = StagedView(backend), seen()
    assert ids.add(view, 0, b"a", 0)
    assert not ids.add(view, 5 * MS, b"a", 5 * MS)
    assert ids.knows(view, b"a", TTL_US - 1)
    assert not ids.knows(view, b"a", TTL_US)
    assert ids.add(view, TTL_US, b"a", TTL_US), "nobody has swept, and it is new again"
    assert len(stored(view)) == 2
    assert ids.expire(view, 2 * TTL_US - 1, 9) == 0
    assert ids.expire(view, 2 * TTL_US, 9) == 1
    assert stored(view) == []


def test_forgetting_is_done_in_bounded_bites(backend):
    view, ids, kept = StagedView(backend), seen(), values()
    for number in range(25):
        ids.add(view, 0, b"%d" % number, 0)
        kept.put(view, 0, b"%d" % number, b"")
    assert [ids.expire(view, TTL_US, 10) for _ in range(4)] == [10, 10, 5, 0]
    assert [len(kept.expire(view, TTL_US, 10)) for _ in range(4)] == [10, 10, 5, 0]


class ExpiringValues(RuleBasedStateMachine):
    """Values that expire against a plain dict, with commits, aborts and sweeps at any step."""

    def __init__(self):
        super().__init__()
        self.backend = MemoryBackend()
        self.view, self.kept, self.now_us = StagedView(self.backend), values(), 0
        self.changelog = {}
        self.model = {}  # until when, and the value; what was told as gone is out
        self.committed = {}
        self.writes = 0

    def alive(self, key):
        until_us, value = self.model.get(key, (0, b""))
        return value if until_us > self.now_us else None

    def written(self, key, time_us, value):
        self.model[key] = max(self.model.get(key, (0, b""))[0], time_us + TTL_US), value

    def next(self):
        self.writes += 1
        return b"%d," % self.writes

    @rule(key=KEYS, time_us=TIMES)
    def put(self, key, time_us):
        value = self.next()
        self.kept.put(self.view, time_us, key, value)
        self.written(key, time_us, value)

    @rule(key=KEYS, time_us=TIMES)
    def add(self, key, time_us):
        more = self.next()
        expected = (self.alive(key) or b"") + more
        assert expected == self.kept.add(
            self.view, time_us, key, self.now_us, lambda value: (value or b"") + more
        )
        self.written(key, time_us, expected)

    @rule(keys=st.lists(KEYS, unique=True), time_us=TIMES)
    def add_batch(self, keys, time_us):
        more = self.next()
        expected = [(self.alive(key) or b"") + more for key in keys]
        times, nows = [time_us] * len(keys), [self.now_us] * len(keys)
        self.kept.add_batch(
            self.view, times, keys, nows, lambda found: [(value or b"") + more for value in found]
        )
        for key, value in zip(keys, expected, strict=True):
            self.written(key, time_us, value)

    @rule(key=KEYS)
    def delete(self, key):
        self.kept.delete(self.view, key)
        self.model.pop(key, None)

    @rule(us=st.integers(0, 12 * MS))
    def time(self, us):
        self.now_us += us

    @rule(limit=st.integers(1, 3))
    def expire(self, limit):
        for key, value in self.kept.expire(self.view, self.now_us, limit):
            until_us, expected = self.model.pop(key)
            assert until_us <= self.now_us
            assert value == expected

    @rule()
    def commit(self):
        self.view, self.kept = commit(self.view, self.backend, self.changelog), values()
        self.committed = dict(self.model)

    @rule()
    def abort(self):
        self.view.drop()
        self.model = dict(self.committed)

    @invariant()
    def what_is_alive_is_seen_and_has_one_entry(self):
        for key in NAMES:
            assert self.kept.get(self.view, key, self.now_us) == self.alive(key)
        assert len(stored(self.view)) == 2 * len(self.model)

    def teardown(self):
        self.now_us = 1 << 50
        while self.kept.next_expiry_us(self.view) is not None:
            self.expire(3)
        assert self.model == {}
        self.commit()
        assert len(self.backend) == 0
        assert set(self.changelog.values()) <= {None}, "tombstones alone are left in the changelog"


TestExpiringValues = ExpiringValues.TestCase
TestExpiringValues.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


events = st.lists(
    st.tuples(st.integers(0, 5 * MS), st.integers(-4 * MS, 4 * MS), st.sampled_from([b"a", b"b", b"ab"])),
    max_size=30,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 4))
def test_duplicates_of_batches_are_those_of_events_however_they_are_cut(backend, events, cuts, sweep):
    """Out of order by milliseconds; one by one with sweeps, and by columns in cuts of any size without."""
    backend.clear()
    rows, append_us = [], 10 * MS
    for after_us, off_us, member in events:
        append_us += after_us
        rows.append((append_us + off_us, append_us, member))

    until_us: dict[bytes, int] = {}
    duplicates, found = [], []
    view, ids, clock = StagedView(MemoryBackend()), seen(), Watermark(2 * MS)
    for row, (event_us, append_us, member) in enumerate(rows):
        time_us = clock.see(event_us, append_us)
        if until_us.get(member, 0) > clock.now_us:
            duplicates.append(row)
        else:
            until_us[member] = time_us + TTL_US
        ids.expire(view, clock.now_us, sweep)
        if not ids.add(view, time_us, member, clock.now_us):
            found.append(row)
    assert found == duplicates

    view, ids, clock = StagedView(backend), seen(), Watermark(2 * MS)
    changelog, found, at = {}, [], 0
    while at < len(rows):
        event_us, append_us, members = zip(*rows[at : at + cuts[at % len(cuts)]], strict=True)
        event, append = pa.array(event_us), pa.array(append_us)
        watermarks = see_all(clock, event, append)
        times = effective_us(event, append, watermarks)
        again = ids.add_batch(view, times.to_pylist(), members, watermarks.to_pylist())
        found += [at + row for row in again]
        view = commit(view, backend, changelog)
        at += len(members)
    assert found == duplicates
    while ids.expire(view, 1 << 60, 5):
        pass
    commit(view, backend, changelog)
    assert backend.scan(b"", b"\xff" * 8, 1_000) == []
    assert set(changelog.values()) <= {None}, "tombstones alone are left in the changelog"
