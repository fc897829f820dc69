"""What a start learns of a process that ended with records in its agents' hands."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.kafka.aside import ProcessDied, SetAside
from connectors.kafka.backlog import Backlog
from connectors.kafka.chunk import EventChunk, SourcePartition
from connectors.kafka.handout import HandOut
from connectors.kafka.inflight import InFlight
from schemas.record import Record

NOTE_BYTES = 284
ONE, TWO, OTHER = SourcePartition("input", 1), SourcePartition("input", 2), SourcePartition("other", 1)


def chunk(source, first, end):
    items = [(Record(*source, offset, 0, None, b""), offset) for offset in range(first, end)]
    return EventChunk(source, 0, items, end)


def crashed(folder, *chunks, times=2):
    """A process that ends with chunks in hand, each of another topic; returns what the next one knows."""
    for _ in range(times):
        process = InFlight(folder)
        for one in chunks:
            process.handed_out(one)
    return InFlight(folder)


def suspects(of, source, offsets=range(12)):
    return [offset for offset in offsets if of.is_suspect(chunk(source, offset, offset + 1))]


def test_what_was_in_hand_is_suspected_the_second_time_and_nothing_else(tmp_path):
    assert suspects(crashed(tmp_path, chunk(ONE, 3, 6), times=1), ONE) == [], "whoever killed it"
    crashed(tmp_path, chunk(ONE, 5, 7), times=1)
    assert suspects(InFlight(tmp_path), ONE) == [5, 6]
    InFlight(tmp_path).passed({ONE: 9})

    found = crashed(tmp_path, chunk(ONE, 3, 6), chunk(OTHER, 8, 9))

    assert suspects(found, ONE) == [3, 4, 5]
    assert suspects(found, OTHER) == [8]
    assert suspects(found, TWO) == []


def test_nothing_is_suspected_that_was_given_back_or_that_a_process_ended_with_on_purpose(tmp_path):
    process = crashed(tmp_path, chunk(ONE, 0, 5), times=1)
    process.handed_out(chunk(ONE, 0, 5))
    process.taken_back("input")
    assert suspects(InFlight(tmp_path), ONE) == []

    process = InFlight(tmp_path)
    process.handed_out(chunk(ONE, 0, 5))
    process.close()
    process.handed_out(chunk(ONE, 5, 6))
    assert suspects(InFlight(tmp_path), ONE) == []


def test_a_crash_with_others_does_not_have_earlier_suspects_forgotten(tmp_path):
    crashed(tmp_path, chunk(ONE, 3, 6))
    found = crashed(tmp_path, chunk(TWO, 1, 2))

    assert suspects(found, ONE) == [3, 4, 5]
    assert suspects(found, TWO) == [1]


def test_an_event_is_counted_alone_from_the_chunk_that_it_was_in(tmp_path):
    event = chunk(ONE, 4, 5)
    found = crashed(tmp_path, chunk(ONE, 3, 6), times=1)
    assert found.crashes_alone(event) == 0
    for crashes in (2, 3):
        found.handed_out(event)
        found = InFlight(tmp_path)
        assert found.crashes_alone(event) == crashes
        assert found.crashes_alone(chunk(ONE, 5, 6)) == 0


def test_what_is_committed_is_no_suspect_any_more_at_the_next_start_either(tmp_path):
    found = crashed(tmp_path, chunk(ONE, 3, 6), chunk(OTHER, 3, 6))
    found.passed({ONE: 5, OTHER: 6})

    for process in (found, InFlight(tmp_path)):
        assert suspects(process, ONE) == [3, 4, 5]
        assert suspects(process, OTHER) == []


def test_an_event_that_its_partition_stands_still_at_is_counted_anew(tmp_path):
    event = chunk(ONE, 4, 5)
    found = crashed(tmp_path, chunk(ONE, 3, 6))
    found.handed_out(event)
    found = InFlight(tmp_path)
    found.acquit(event)

    for process in (found, InFlight(tmp_path)):
        assert process.crashes_alone(event) == 0
        assert suspects(process, ONE) == [3, 4, 5], "its neighbours may yet be the cause"


def test_suspects_are_bounded(tmp_path):
    for offset in range(300):
        crashed(tmp_path, chunk(ONE, offset, offset + 1))
    found = InFlight(tmp_path)

    assert len(suspects(found, ONE, range(300))) == 256
    assert found.is_suspect(chunk(ONE, 299, 300))


@pytest.mark.parametrize("broken", [b"", b"{", b"[1]", b'[{"topic": 1}]', b"\xff"])
def test_a_file_that_cannot_be_read_is_no_reason_not_to_start(tmp_path, broken):
    (tmp_path / "SUSPECTS").write_bytes(broken)
    (tmp_path / "IN_FLIGHT").write_bytes(broken)

    assert suspects(InFlight(tmp_path), ONE) == []


@pytest.mark.parametrize("room", [0, 16])
@pytest.mark.parametrize("says_so", [True, False], ids=["refused", "cut short"])
def test_a_disk_that_takes_no_note_is_no_reason_not_to_hand_out(tmp_path, monkeypatch, room, says_so):
    write = os.pwrite

    def full(file, data, at):
        left = max(room * NOTE_BYTES - at, 0)
        if says_so and len(data) > left:
            raise OSError(28, "No space left on device")
        return write(file, data[:left], at)

    monkeypatch.setattr("connectors.kafka.inflight.os.pwrite", full)
    process = InFlight(tmp_path)
    for number in range(20):
        process.handed_out(chunk(SourcePartition(f"topic-{number}", 0), 0, 1))
        process.taken_back(f"topic-{number}")
    process.close()


def test_there_is_room_for_a_note_of_each_topic(tmp_path):
    topics = [SourcePartition(f"topic-{number}", 0) for number in range(40)]
    found = crashed(tmp_path, *(chunk(source, 3, 5) for source in topics))

    assert [suspects(found, source) for source in topics] == [[3, 4]] * 40


def handouts(in_flight, *chunks, topics=("input",)):
    backlog = Backlog(lambda _: None)
    for one in chunks:
        backlog.open(one.source)
    for one in chunks:
        backlog.add(one)
    return HandOut(backlog, in_flight, {"input": 3, "other": 3})


def test_suspects_are_handed_out_one_by_one_and_what_comes_after_them_as_it_is(tmp_path):
    handout = handouts(crashed(tmp_path, chunk(ONE, 2, 5)), chunk(ONE, 0, 8), chunk(ONE, 8, 12))
    given = []
    while (one := handout.next("input", (), at_work=False)) is not None:
        given.append([record.offset for record, _ in one.items])
        handout.returned("input")

    assert given == [[0], [1], [2], [3], [4], [5, 6, 7, 8, 9, 10, 11]]


def test_a_suspect_is_alone_in_the_role(tmp_path):
    handout = handouts(crashed(tmp_path, chunk(ONE, 0, 2)), chunk(ONE, 0, 2), chunk(OTHER, 0, 9))

    assert handout.next("input", (), at_work=True) is None, "others are at work"
    alone = handout.next("input", (), at_work=False)
    assert len(alone) == 1
    assert handout.next("other", (), at_work=True) is None, "a crash would have two causes"
    handout.returned("input")
    assert len(handout.next("other", (), at_work=False)) == 9


def test_an_event_with_which_the_process_ended_three_times_is_given_up(tmp_path):
    process = handouts(crashed(tmp_path, chunk(ONE, 0, 4)), chunk(ONE, 0, 4))
    for _ in range(2):  # it ends with the second
        given = process.next("input", (), at_work=False)
        assert given.items[0][1] == given.first.offset
        if given.first.offset == 0:
            process.returned("input")

    process = handouts(InFlight(tmp_path), chunk(ONE, 0, 4))
    found = []
    while (one := process.next("input", (), at_work=False)) is not None:
        found += [item for _, item in one.items]
        process.returned("input")
    assert [type(item) for item in found] == [int, ProcessDied, int, int]
    assert found[1].attempts == 3


def test_an_operators_skip_goes_before_a_suspicion(tmp_path):
    handout = handouts(crashed(tmp_path, chunk(ONE, 0, 1)), chunk(ONE, 0, 1))
    handout.judges = lambda _source: lambda _record: SetAside("skipped", "by ops")

    assert type(handout.next("input", (), at_work=False).items[0][1]) is SetAside


@settings(max_examples=60)
@given(
    st.integers(1, 20),
    st.sets(st.integers(0, 19), max_size=3),
    st.integers(1, 7),
    st.integers(1, 7),
)
def test_whatever_crashes_is_found_and_nothing_else_is_given_up(
    tmp_path_factory, count, poison, chunk_size, attempts_max
):
    """A role whose process ends at each poison, started again and again; the log is committed at its end."""
    folder = tmp_path_factory.mktemp("slot")
    poison = {offset for offset in poison if offset < count}
    starts = 0
    while True:
        starts += 1
        backlog = Backlog(lambda _: None)
        backlog.open(ONE)
        for first in range(0, count, chunk_size):
            backlog.add(chunk(ONE, first, min(first + chunk_size, count)))
        handout = HandOut(backlog, InFlight(folder), {"input": attempts_max})
        handled, given_up = [], {}
        while (one := handout.next("input", (), at_work=False)) is not None:
            values = dict((record.offset, item) for record, item in one.items)  # noqa: C402
            if any(offset in poison for offset, item in values.items() if not isinstance(item, SetAside)):
                break  # the process ends
            given_up |= {o: item.attempts for o, item in values.items() if isinstance(item, SetAside)}
            handled += [o for o, item in values.items() if not isinstance(item, SetAside)]
            handout.returned("input")
        else:
            break
        assert starts < 100
    assert sorted(given_up) == sorted(poison)
    assert handled == [offset for offset in range(count) if offset not in poison]
    assert starts <= 1 + len(poison) * 3
    assert all(min(attempts_max, 3) <= attempts <= 3 for attempts in given_up.values())
