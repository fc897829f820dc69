"""When followers are written to: at once, or when their stream's tick is over."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from edge.channel import Channel
from edge.encode import FrameJson
from edge.flush import TICK_S_MAX, TICK_S_MIN, Flusher
from edge.frame import declared, frame_of
from edge.group import MEMBERS_MAX
from edge.metrics import EdgeMetrics
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.kinds import JOB, KindTable
from schemas.payloads import PayloadCodec

WRITE_BYTES_MAX = 65_536
JSON = FrameJson(PayloadCodec(LocalSchemas()))


class Joined:
    """An encoder whose bytes are the frames' seqs."""

    name = "seqs"

    def encode(self, frames):
        """Give one write of these frames."""
        return b" ".join(b"%d" % frame.seq for frame in frames)


class Member:
    """One who is abreast, and is not passed in these tests."""

    def is_passed(self):
        """See Member."""
        raise AssertionError


@pytest.fixture
def channel():
    """A stream without events."""
    return Channel("default", "s", b"default/s")


def add(channel, count=1):
    """Have the next frames come into a stream."""
    for seq in range(max(channel.ring.next_seq, 0), max(channel.ring.next_seq, 0) + count):
        channel.append(declared("log", {}, cursor="", seq=seq, offset=seq))


def follow(channel, write, count=1):
    """Have so many follow it from its beginning."""
    for _ in range(count):
        channel.group(Joined(), 0).add(Member(), write, 0, 0)


def only_group(channel):
    """Give the one group of a stream that has one."""
    (group,) = channel.all_groups()
    return group


class Clock:
    """A loop whose time a test tells."""

    def __init__(self):
        self.now_s = 100.0
        self.due = []

    def time(self):
        """See asyncio."""
        return self.now_s

    def call_at(self, when_s, call, *args):
        """See asyncio."""
        self.due.append((when_s, call, args))

    def go_on(self, seconds):
        """Let time pass, and do what is due by then."""
        self.now_s += seconds
        due, self.due = self.due, []
        for when_s, call, args in due:
            if when_s > self.now_s:
                self.due.append((when_s, call, args))
            else:
                call(*args)


def test_what_comes_into_an_idle_stream_is_written_at_once_and_what_follows_in_one_write_a_tick_later(
    channel,
):
    written = []
    follow(channel, written.append)
    flusher, clock = Flusher(EdgeMetrics(), JSON, WRITE_BYTES_MAX), Clock()
    flusher.start(clock)
    add(channel)
    flusher.touch(channel)
    assert written == [b"0"]
    for _ in range(3):
        add(channel)
        flusher.touch(channel)
    assert written == [b"0"]
    clock.go_on(TICK_S_MIN)
    assert written == [b"0", b"1 2 3"]
    assert not clock.due


def test_a_stream_that_costs_much_to_write_gets_a_longer_tick_and_never_more_than_half_a_core(channel):
    def costly(_data):
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass

    follow(channel, costly, 100)
    flusher = Flusher(EdgeMetrics(), JSON, WRITE_BYTES_MAX)
    add(channel)
    flusher.flush(channel)
    assert channel.cost_s >= 0.1
    assert flusher.tick_of(channel) == pytest.approx(2 * channel.cost_s)

    only_group(channel).cost_s = 0.01
    assert flusher.tick_of(channel) == pytest.approx(0.04)
    only_group(channel).cost_s = 0.04
    assert flusher.tick_of(channel) == TICK_S_MAX
    only_group(channel).cost_s = 0.0
    assert flusher.tick_of(channel) == TICK_S_MIN


def test_of_many_followers_one_group_is_written_in_a_turn_of_the_loop_with_all_that_came_by_then(channel):
    """Three groups; events come while the first, and then the second, is written."""
    written = []
    follow(channel, written.append, 2 * MEMBERS_MAX + 1)
    flusher, clock = Flusher(EdgeMetrics(), JSON, WRITE_BYTES_MAX), Clock()
    flusher.start(clock)
    add(channel)
    flusher.touch(channel)
    assert written == [b"0"] * MEMBERS_MAX, "one group"
    add(channel)
    flusher.touch(channel)
    clock.go_on(0)
    assert written[MEMBERS_MAX:] == [b"0 1"] * MEMBERS_MAX, "the second, and not the first again"
    add(channel)
    flusher.touch(channel)
    clock.go_on(0)
    assert written[2 * MEMBERS_MAX :] == [b"0 1 2"]
    written.clear()
    clock.go_on(TICK_S_MAX)
    while clock.due:
        clock.go_on(0)
    assert sorted(written) == sorted([b"1 2"] * MEMBERS_MAX + [b"2"] * MEMBERS_MAX)


def test_nobody_waits_for_longer_than_a_tick_while_events_come_all_the_time(channel, monkeypatch):
    """Four groups whose writing takes 5 ms each, an event each 4 ms, for two seconds of a clock."""
    clock = Clock()
    spent_s, waits_s = [0.0], []
    monkeypatch.setattr("edge.flush.time", SimpleNamespace(thread_time=lambda: spent_s[0]))

    def written_to(number):
        def write(data):
            if number % MEMBERS_MAX == 0:
                clock.now_s += 0.005
                spent_s[0] += 0.005
            waits_s.append(max(clock.now_s - came_s[int(seq)] for seq in data.split()))

        return write

    came_s = {}
    for number in range(4 * MEMBERS_MAX):
        follow(channel, written_to(number))
    flusher = Flusher(EdgeMetrics(), JSON, WRITE_BYTES_MAX)
    flusher.start(clock)
    came = 0
    while clock.now_s < 102:
        came_s[came] = clock.now_s
        add(channel)
        came += 1
        flusher.touch(channel)
        clock.go_on(0.004)
    assert flusher.tick_of(channel) == pytest.approx(0.08)
    assert max(waits_s) < 0.08 + 2 * 0.005 + 2 * 0.004, "a tick, two turns of the loop, two of this test"
    assert len(waits_s) > 20 * 4 * MEMBERS_MAX


def test_one_who_has_more_than_the_first_group_stands_in_one_that_has_it_too(channel):
    add(channel, 5)
    first = channel.group(Joined(), 3)
    first.add(Member(), lambda _data: None, 3, 3)
    assert channel.group(Joined(), 2) is first, "it can be caught up with"
    assert channel.group(Joined(), 5) is first, "it has room: it will catch up"
    for _ in range(MEMBERS_MAX - 1):
        first.add(Member(), lambda _data: None, 3, 3)
    second = channel.group(Joined(), 3)
    assert second is not first
    second.add(Member(), lambda _data: None, 5, 5)
    first.members.popitem()
    assert channel.group(Joined(), 4) is second
    assert channel.group(Joined(), 3) is first
    assert channel.abreast == MEMBERS_MAX


def test_time_that_passes_while_others_have_the_processor_makes_no_tick_longer(channel):
    follow(channel, lambda _data: time.sleep(0.001), 100)
    flusher = Flusher(EdgeMetrics(), JSON, WRITE_BYTES_MAX)
    add(channel)
    flusher.flush(channel)
    assert channel.cost_s < 0.05


HOUR_MS = 3_600_000


@pytest.mark.parametrize(("target_ms", "stale"), [(2 * HOUR_MS, 3), (HOUR_MS // 2, 6)])
def test_what_is_written_later_than_its_kind_s_target_is_counted_as_stale(channel, target_ms, stale):
    """Events that are three hours, one hour and no time old, to three clients."""
    kind = replace(JOB, observability=replace(JOB.observability, freshness_target_ms=target_ms))
    metrics = EdgeMetrics(KindTable([kind]))
    follow(channel, lambda _data: None, 3)
    for seq, age_ms in enumerate((3 * HOUR_MS, HOUR_MS, 0)):
        event = Event(
            f"e-{seq}", "default", "s", seq, "job", "log", time.time_ns() // 1_000 - age_ms * 1_000,
            "", "", "", "", "", epoch=0, attempt=0, payload=b"", payload_schema=1,
        )  # fmt: skip
        channel.append(frame_of(event, topic_version=1, partition=0, offset=seq, read_ms=0))
    Flusher(metrics, JSON, WRITE_BYTES_MAX).flush(channel)

    def counted(name):
        return metrics.registry.get_sample_value(f"sluicegate_edge_{name}_events_total", {"kind": "job"})

    assert (counted("live"), counted("stale")) == (9, stale)
