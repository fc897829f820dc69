"""Chunks that wait: partitions take turns, what failed comes first, and what is let go of is counted."""

from __future__ import annotations

from connectors.kafka.backlog import Backlog
from connectors.kafka.chunk import EventChunk, SourcePartition
from schemas.record import Record

ONE, TWO = SourcePartition("input", 1), SourcePartition("input", 2)


def chunk(source, offset, records=1, epoch=None):
    """A chunk; unless told otherwise of an epoch of its own, so that none is joined with another."""
    offsets = range(offset, offset + records)
    items = [(Record(*source, at, 0, None, b""), at) for at in offsets]
    return EventChunk(source, offset if epoch is None else epoch, items, offset + records, 10 * records)


def backlog(*sources):
    void = []
    made = Backlog(void.append)
    for source in sources:
        made.open(source)
    return made, void


def taken(made, stopped=(), topic="input"):
    found = []
    while (chunk := made.take(topic, stopped)) is not None:
        found.append((chunk.source.partition, chunk.first.offset))
    return found


def test_partitions_take_turns_and_each_keeps_its_order():
    made, _ = backlog(ONE, TWO)
    for offset in (5, 6, 7):
        made.add(chunk(ONE, offset))
    made.add(chunk(TWO, 1))

    assert taken(made, topic="another") == []
    assert taken(made) == [(1, 5), (2, 1), (1, 6), (1, 7)]


def test_what_trickled_in_is_handed_out_as_one_and_what_is_large_as_it_came():
    made, _ = backlog(ONE)
    for offset in range(3):
        made.add(chunk(ONE, offset, epoch=7))
    made.add(chunk(ONE, 3, records=300, epoch=7))
    made.add(chunk(ONE, 303, epoch=7))
    found = []
    while (one := made.take("input", ())) is not None:
        found.append(([at for _, at in one.items], one.next_offset, one.size_bytes, one.epoch))

    assert found == [
        ([0, 1, 2], 3, 30, 7),
        (list(range(3, 303)), 303, 3_000, 7),
        ([303], 304, 10, 7),
    ]


def test_what_failed_before_is_not_joined_with_what_comes_after_it():
    made, _ = backlog(ONE)
    failed = chunk(ONE, 0, epoch=7)
    failed.attempts = 1
    made.put_back(failed)
    made.add(chunk(ONE, 1, epoch=7))

    assert taken(made) == [(1, 0), (1, 1)]


def test_what_is_put_back_comes_first_and_in_its_order():
    made, _ = backlog(ONE)
    made.add(chunk(ONE, 9))
    made.put_back(chunk(ONE, 7), chunk(ONE, 8))

    assert taken(made) == [(1, 7), (1, 8), (1, 9)]


def test_a_partition_that_is_held_or_stopped_lets_the_others_by(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("connectors.kafka.backlog.time.monotonic", lambda: now[0])
    made, _ = backlog(ONE, TWO)
    made.put_back(chunk(ONE, 5), pause_s=2.0)
    made.add(chunk(TWO, 1))
    made.add(chunk(TWO, 2))

    assert taken(made, stopped={TWO}) == []
    assert taken(made) == [(2, 1), (2, 2)]
    now[0] += 2.0
    assert taken(made) == [(1, 5)]


def test_what_nobody_will_handle_is_told():
    made, void = backlog(ONE)
    first, second, late, failed = (chunk(ONE, offset) for offset in range(4))
    made.add(first)
    made.clear()
    made.add(second)
    made.close(ONE)
    made.add(late)
    made.put_back(failed)

    assert void == [first, second, late, failed]
    assert taken(made) == []


def test_what_is_put_back_to_a_partition_that_takes_none_is_void_and_said_to_be():
    made, void = backlog()
    given = chunk(ONE, 5)
    assert not made.put_back(given, pause_s=1.0)
    assert void == [given]

    made.open(ONE)
    assert made.put_back(given)
    assert taken(made) == [(1, 5)]
