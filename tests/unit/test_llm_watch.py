"""The timers of an attempt: which of them ends it, and what moves them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.llm.plan import Timers
from connectors.llm.watch import Watch

TIMERS = Timers(connect_ms=1_000, first_content_ms=5_000, between_contents_ms=2_000, total_ms=20_000)


class Loop:
    """A loop whose time a test moves."""

    def __init__(self):
        self.now_s = 100.0
        self.due = []

    def time(self):
        """See asyncio."""
        return self.now_s

    def call_at(self, when_s, call):
        """See asyncio."""
        entry = [when_s, call, False]
        self.due.append(entry)
        return Handle(entry)

    def go_to(self, seconds):
        """Let it be so many seconds after the beginning; do what is due until then, in order."""
        while True:
            ready = sorted(
                (entry for entry in self.due if not entry[2] and entry[0] <= 100.0 + seconds),
                key=lambda entry: entry[0],
            )
            if not ready:
                break
            self.due.remove(ready[0])
            self.now_s = ready[0][0]
            ready[0][1]()
        self.now_s = 100.0 + seconds


class Handle:
    """What a loop gives for a call that is due later."""

    def __init__(self, entry):
        self.entry = entry

    def cancel(self):
        """See asyncio."""
        self.entry[2] = True

    def when(self):
        """See asyncio."""
        return self.entry[0]


class Task:
    """What reads."""

    cancels = 0

    def cancel(self):
        """See asyncio."""
        self.cancels += 1


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def task():
    return Task()


def test_no_status_in_time_is_a_time_out_of_the_connection(loop, task):
    watch = Watch(loop, task, TIMERS, 60)
    loop.go_to(0.9)
    assert watch.why is None
    loop.go_to(1)
    assert (watch.why, task.cancels) == ("timeout_connect", 1)


def test_a_status_without_content_is_a_time_out_of_the_first_content(loop, task):
    watch = Watch(loop, task, TIMERS, 60)
    loop.go_to(0.5)
    watch.connect()
    loop.go_to(4.9)
    assert watch.why is None
    loop.go_to(5)
    assert watch.why == "timeout_first_content"


SLOW = Timers(connect_ms=60_000, first_content_ms=30_000, between_contents_ms=2_000, total_ms=50_000)


@pytest.mark.parametrize(
    ("timers", "connected_s", "content_s", "due_s", "why"),
    [
        (replace(SLOW, first_content_ms=1_000), 0.5, None, 1, "timeout_first_content"),
        (replace(SLOW, first_content_ms=1_000), None, None, 1, "timeout_first_content"),
        (SLOW, 0.5, 1, 3, "timeout_between_contents"),
        (replace(SLOW, connect_ms=20_000), 0.5, 1, 3, "timeout_between_contents"),
        (replace(SLOW, total_ms=1_500), 0.5, 1, 1.5, "timeout_total"),
        (replace(SLOW, total_ms=1_500), None, None, 1.5, "timeout_total"),
        (replace(SLOW, first_content_ms=90_000, total_ms=90_000), None, None, 60, "timeout_connect"),
    ],
    ids=[
        "first", "first-while-connecting", "between", "between-before-the-first-was-due", "total",
        "total-while-connecting", "connect",
    ],
)  # fmt: skip
def test_a_timer_is_in_time_however_long_another_that_no_longer_counts_is(
    loop, task, timers, connected_s, content_s, due_s, why
):
    watch = Watch(loop, task, timers, 600)
    for at_s, note in ((connected_s, watch.connect), (content_s, watch.content)):
        if at_s is not None:
            loop.go_to(at_s)
            note()
    loop.go_to(due_s - 0.1)
    assert watch.why is None
    loop.go_to(due_s)
    assert (watch.why, task.cancels) == (why, 1)


def test_each_content_moves_the_deadline_and_no_timer_is_set_for_it(loop, task):
    watch = Watch(loop, task, TIMERS, 60)
    watch.connect()
    for tenth in range(5, 70, 5):
        loop.go_to(tenth / 10)
        watch.content()
        assert len([entry for entry in loop.due if not entry[2]]) == 1
    loop.go_to(8.4)
    assert watch.why is None
    loop.go_to(8.5)
    assert (watch.why, task.cancels) == ("timeout_between_contents", 1)


@pytest.mark.parametrize(("total_s", "at_s"), [(60, 20), (7, 7)], ids=["attempt", "operation"])
def test_content_that_never_ends_is_over_when_the_whole_time_is(loop, task, total_s, at_s):
    watch = Watch(loop, task, TIMERS, total_s)
    watch.connect()
    for second in range(1, at_s):
        loop.go_to(second)
        watch.content()
    assert watch.why is None
    loop.go_to(at_s)
    assert watch.why == "timeout_total"


def test_the_first_reason_counts_and_a_watch_that_is_closed_ends_nothing(loop, task):
    watch = Watch(loop, task, TIMERS, 60)
    watch.stop("cancelled")
    watch.stop("timeout_total")
    assert (watch.why, task.cancels) == ("cancelled", 1)
    other = Watch(loop, task, TIMERS, 60)
    other.close()
    loop.go_to(90)
    assert other.why is None


def test_while_nothing_is_read_of_it_no_timer_but_the_last_ends_it(loop, task):
    watch = Watch(loop, task, TIMERS, 60)
    watch.connect()
    loop.go_to(4)
    watch.hold()
    loop.go_to(9)
    watch.go_on()
    loop.go_to(9.9)
    assert watch.why is None, "one second was left to the first content"
    watch.content()
    loop.go_to(10.9)
    watch.hold()
    loop.go_to(15)
    watch.go_on()
    loop.go_to(15.9)
    assert watch.why is None
    loop.go_to(16.1)
    assert watch.why == "timeout_between_contents"
    held = Watch(loop, task, TIMERS, 3)
    held.hold()
    loop.go_to(20)
    assert held.why == "timeout_total"
