"""Sessions, deadlines of groups, results that supersede and offsets of one's own records against plain dicts,
over units of work that end at any step, and processes that are killed, cut, lost and restored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from pipelines.streams import KnownStreams, Status, Stream
from pipelines.turn import Turn
from state.binary import after, pack_time, unpack_time
from state.sessions import SessionOptions, SessionWindows
from tests.unit.support_checkpoints import (
    FAILS,
    KEYS,
    MS,
    PARTS,
    SAID,
    Checkpoints,
    Model,
    topic,
)

SESSIONS = SessionWindows(b"v", SessionOptions(gap_ms=6, grace_ms=5, ttl_ms=20))
GAP_US, WAIT_US, TTL_US = 6 * MS, 11 * MS, 20 * MS
EVER_US, BITE = 1 << 50, 2
LISTED, FOLLOWING = topic("property.listed.v1"), topic("property.following.v1")
TOTALS = topic("property.totals.v1", "compact")
KNOWN = KnownStreams()
"""One for all: what an earlier world knew must not be believed in this one."""


def after_us(*after_ms: int) -> st.SearchStrategy[int]:
    """One of these times, that lie on both sides of what ends something."""
    return st.sampled_from([ms * MS for ms in after_ms])


VISITS = st.lists(
    st.tuples(st.sampled_from([b"", b"b\x00"]), after_us(-11, -10, -6, -3, 0, 3, 6, 7, 18)),
    min_size=1,
    max_size=4,
)
JOINS = st.lists(
    st.tuples(
        st.sampled_from([b"g", b"g/", b"h"]),
        st.sampled_from(["a", "a\x00", "b", ""]),
        after_us(1, 5, 20),
    ),
    min_size=1,
    max_size=4,
)


@dataclass
class Waiting(Model):
    """What one partition should hold."""

    open: dict[tuple[bytes, int], tuple[int, int]] = field(default_factory=dict)
    """End and count of each session, by key and start."""
    kept: dict[tuple[bytes, int], tuple[int, int]] = field(default_factory=dict)
    groups: dict[bytes, tuple[int, dict[str, int]]] = field(default_factory=dict)
    """When each is forgotten, and its members with their notes."""
    listed: list[bytes] = field(default_factory=list)
    totals: list[dict[bytes, bytes | None]] = field(default_factory=list)
    """Of each unit of work that committed, the last value a key."""
    now_totals: dict[bytes, bytes | None] = field(default_factory=dict)

    def commit(self):
        self.totals.append(self.now_totals)
        self.now_totals = {}

    def due(self, sessions, after_us):
        """Return what has fallen due of ``sessions``, in the order of their index, one bite of it."""
        found = [
            (end_us + after_us, len(key), key, start_us)
            for (key, start_us), (end_us, _) in sessions.items()
            if end_us + after_us <= self.now_us
        ]
        return [(key, start_us) for *_, key, start_us in sorted(found)[:BITE]]


def total_of(key, start_us):
    return key + pack_time(start_us)


class Deadlines(Checkpoints):
    MODEL = Waiting
    OUTPUTS = (LISTED, FOLLOWING, TOTALS)

    @rule(number=PARTS, visits=VISITS, fails=FAILS)
    def visit(self, number, visits, fails):
        """Each session has a total, which is taken back when it becomes part of another."""

        def act(scope, model):
            turn = Turn(scope, 0, KNOWN)
            assert turn.clock.now_us == model.now_us, "time is where it was left"
            for key, ahead_us in visits:
                time_us = max(model.now_us + ahead_us, 0)
                turn.clock.tick(time_us)
                model.now_us = max(model.now_us, time_us)
                self.add_to_session(scope, model, number, time_us, key)
            turn.save()

        self.step(number, act, fails=fails)

    @classmethod
    def add_to_session(cls, scope, model, number, time_us, key):
        found = SESSIONS.add(
            scope.state, time_us, key, model.now_us, lambda values: b"%d" % (sum(map(int, values)) + 1)
        )
        if time_us + WAIT_US <= model.now_us:
            assert found is None
            return
        joined = {
            start_us: model.open.pop((key, start_us))
            for of, start_us in sorted(model.open)
            if of == key and start_us - GAP_US <= time_us <= model.open[key, start_us][0] + GAP_US
        }
        start_us, end_us = min([time_us, *joined]), max([time_us, *(end for end, _ in joined.values())])
        count = sum(n for _, n in joined.values()) + 1
        model.open[key, start_us] = (end_us, count)
        made, void = found
        assert (made.start_us, made.end_us, int(made.value)) == (start_us, end_us, count)
        assert [session.start_us for session in void] == [at for at in joined if at != start_us]
        for session in void:
            cls.tell_total(scope, model, number, total_of(key, session.start_us), None)
        cls.tell_total(scope, model, number, total_of(key, start_us), made.value)

    @staticmethod
    def tell_total(scope, model, number, key, value):
        scope.update(TOTALS, key, value, partition=number)
        model.now_totals[key] = value

    @rule(number=PARTS, joins=JOINS, fails=FAILS)
    def join_groups(self, number, joins, fails):
        """As ingest keeps its streams: a deadline that moves later costs the index nothing."""

        def act(scope, model):
            turn = Turn(scope, 0, KNOWN)
            for group, member, wait_us in joins:
                self.join_group(turn, model, group, member, wait_us)
            turn.save()

        self.step(number, act, fails=fails)

    @staticmethod
    def join_group(turn, model, group, member, wait_us):
        stream = turn.stream(group)
        assert (stream is None) == (group not in model.groups)
        if stream is None:
            stream = Stream(group, "", Status.OPEN, total_timeout_us=EVER_US)
        _, members = model.groups.get(group, (0, {}))
        assert turn.note(stream, member) == members.get(member)
        if member not in members:
            turn.mark(stream, member, model.position)
            members = {**members, member: model.position}
        stream.active_at_us, stream.idle_timeout_us = max(model.now_us, 0), wait_us
        turn.keep(stream, 0)
        model.groups[group] = (max(model.now_us, 0) + wait_us, members)

    @rule(number=PARTS, key=KEYS, fails=FAILS)
    def list_where_it_stands(self, number, key, fails):
        """What is appended is found by its offset, and what follows from that stands in the same unit."""

        def act(scope, model):
            def follow(offset):
                scope.state.put(b"o" + key, pack_time(offset))
                scope.emit(FOLLOWING, key, b"%d" % offset, partition=number)

            value = b"%d" % model.position
            scope.emit(LISTED, key, value, partition=number, on_offset=follow)
            model.listed.append(value)

        self.step(number, act, fails=fails)

    @rule(number=PARTS, us=after_us(0, 4, 11, 31), fails=FAILS)
    def time_passes(self, number, us, fails):
        def act(scope, model):
            turn = Turn(scope, 0, KNOWN)
            model.now_us = max(model.now_us, 0) + us
            turn.clock.tick(model.now_us)
            while entries := turn.deadlines.due(model.now_us, BITE):
                for due_us, group in entries:
                    self.end_group(turn, scope, model, number, due_us, group)
                turn.deadlines.look_again()
            assert all(until_us > model.now_us for until_us, _ in model.groups.values())
            turn.save()
            self.close_sessions(scope, model, number)

        self.step(number, act, fails=fails)

    @staticmethod
    def end_group(turn, scope, model, number, due_us, group):
        stream = turn.stream(group)
        assert stream is not None
        assert turn.deadlines.owns(stream, due_us)
        if stream.deadline_us() > model.now_us:  # it was moved since
            turn.deadlines.drop(stream)
            turn.keep(stream, 0)
        elif turn.forget_members(stream, BITE) < BITE:
            turn.drop(stream)
            until_us, _ = model.groups.pop(group)
            assert until_us <= model.now_us
            said = b"%s was silent" % group
            scope.emit(SAID, b"k", said, partition=number)
            model.said.append(said)

    @staticmethod
    def close_sessions(scope, model, number):
        """A bite of what is due: the rest is due still, whatever happens until it is asked for."""
        due = model.due(model.open, WAIT_US)
        closed = SESSIONS.closed(scope.state, model.now_us, BITE)
        assert [(session.key, session.start_us) for session in closed] == due
        for session, name in zip(closed, due, strict=True):
            model.kept[name] = model.open.pop(name)
            assert (session.end_us, int(session.value)) == model.kept[name]
            said = b"%s %d %s" % (session.key, session.start_us, session.value)
            scope.emit(SAID, b"k", said, partition=number)
            model.said.append(said)
        expired = model.due(model.kept, WAIT_US + TTL_US)
        assert SESSIONS.expire(scope.state, model.now_us, BITE) == len(expired)
        for name in expired:
            del model.kept[name]

    def compare(self, number, view, model):
        for found, sessions in ((SESSIONS.open, model.open), (self.kept, model.kept)):
            for key in {key for key, _ in sessions}:
                assert [(each.start_us, each.end_us, int(each.value)) for each in found(view, key)] == [
                    (start_us, *sessions[of, start_us]) for of, start_us in sorted(sessions) if of == key
                ]
        counts = [len(list(view.scan(begin, after(begin), 1_000))) for begin in (b"vc", b"vx")]
        assert counts == [len(model.open), len(model.kept)], "an entry of the index each"
        members = {key: unpack_time(value) for key, value in view.scan(b"d", b"e", 1_000)}
        assert members == {
            b"d" + group + b"\x00" + member.encode(): note
            for group, (_, of) in model.groups.items()
            for member, note in of.items()
        }
        assert len(list(view.scan(b"a", b"b", 1_000))) == len(model.groups), "an alarm each"
        listed = self.committed_records(LISTED, number)
        assert [record.value() for record in listed] == model.listed
        where = {b"o" + record.key(): pack_time(record.offset()) for record in listed}
        assert dict(view.scan(b"o", b"p", 1_000)) == where
        following = self.committed_records(FOLLOWING, number)
        assert [int(record.value()) for record in following] == [record.offset() for record in listed]
        totals = iter(self.committed_records(TOTALS, number))
        for unit in model.totals:
            assert {(each := next(totals)).key(): each.value() for _ in unit} == unit
        assert next(totals, None) is None, "one of each, a unit"

    @staticmethod
    def kept(view, key):
        return SESSIONS.kept(view, key, 1_000)


TestDeadlines = Deadlines.TestCase
TestDeadlines.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
