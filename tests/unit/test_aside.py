"""Records that no agent is given: found in either kind of chunk, and put aside in their places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.aside import SetAside, put_aside
from connectors.kafka.chunk import EventChunk, SourcePartition
from pipelines.controls import Controls
from schemas.controls import PAUSE, QUARANTINE, SKIP, KeyTarget, RecordTarget, Target, target_of
from schemas.errors import BadMagic
from schemas.record import Record
from tests.unit.test_columns import SOURCE, chunk_of, offsets
from tests.unit.test_isolation import Effects

PREFIX = "p."


def judge_of(*asides):
    return lambda record: SetAside("skipped", "why") if record.offset in asides else None


def events(count):
    items = [(Record(*SOURCE, 3 * n, 100 * n, b"k", b"v"), n) for n in range(count)]
    return EventChunk(SOURCE, 0, items, 1_000, 10 * count, 100 * (count - 1), attempts=2)


def test_a_chunk_without_any_is_left_as_it_is():
    for chunk in (events(3), chunk_of([True, False, True])):
        assert chunk.screened(judge_of(1, 2)) is chunk


def test_an_event_that_is_set_aside_keeps_its_place_and_its_chunk_what_was_known_of_it():
    chunk = events(4).screened(judge_of(3, 9))

    assert [type(item).__name__ for _, item in chunk.items] == ["int", "SetAside", "int", "SetAside"]
    assert [record.offset for record, _ in chunk.items] == [0, 3, 6, 9]
    assert (chunk.attempts, chunk.next_offset, chunk.size_bytes, chunk.append_us) == (2, 1_000, 40, 300)
    assert all(part.has_asides for part in chunk.split(1))


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.sets(st.integers(0, 11)))
def test_a_row_that_is_set_aside_is_no_row_any_more_and_stands_among_the_errors_in_order(decodes, which):
    chunk = chunk_of(decodes)
    rows = [record.offset for record in chunk.records]
    asides = {3 * n for n in which}.intersection(rows)

    screened = chunk.screened(judge_of(*asides))

    assert screened.batch["offset"].to_pylist() == [offset for offset in rows if offset not in asides]
    assert [record.offset for record in screened.records] == screened.batch["offset"].to_pylist()
    found = [record.offset for record, _ in screened.errors]
    assert found == sorted(found)
    assert offsets(screened) == offsets(chunk)
    assert {record.offset for record, e in screened.errors if isinstance(e, SetAside)} == asides


def test_a_letter_says_why_and_how_often_the_event_was_tried():
    effects = Effects()
    record = Record(*SOURCE, 7, 0, b"k", b"v")
    put_aside(effects, record, SetAside("skipped", "by ops"))
    put_aside(effects, record, SetAside("ProcessDied", "3 times", 3))
    put_aside(effects, record, BadMagic(b"v"))

    assert effects.letters == [(7, "skipped", 0), (7, "ProcessDied", 3), (7, "BadMagic", 1)]
    assert effects.counted == ["dead_letter"] * 3


@pytest.mark.parametrize(
    "target",
    [
        Target("ingest", None),
        Target("ingest", 2),
        RecordTarget("ingest", "streams.input.v1", 2, 17),
        KeyTarget("ingest", b"acme/run 7"),
        KeyTarget("ingest", b"\x00\xff/="),
        KeyTarget("ingest", b"17"),
    ],
)
def test_what_a_control_is_about_is_read_back_from_its_key(target):
    assert target_of(str(target).encode()) == target


@pytest.mark.parametrize("key", ["", "/1", "a/b", "a/-1", "a/", "a/t/1", "a/t/1/x", "a//1/2", "a/t/1/2/3"])
def test_a_key_of_another_form_is_no_control(key):
    assert target_of(key.encode()) is None


def told(*batch):
    controls = Controls(KafkaStub(), "ingest", None)
    heard = []
    controls._on_change = heard.append
    controls.tail_batch(
        [
            (target, None if action is None else {"action": action, "by": "ann@host", "reason": "r"})
            for target, action in batch
        ],
        {},
    )
    return controls, heard


class KafkaStub:
    topic_prefix = PREFIX


def aside(controls, topic, partition, offset, key=b"k"):
    record = Record(topic, partition, offset, 0, key, b"v")
    chunk = EventChunk(SourcePartition(topic, partition), 0, [(record, 1)], offset + 1)
    judge = controls.judge_of(chunk)
    found = None if judge is None else judge(record)
    assert found is controls.set_aside(record)
    skip = controls.skips_of(chunk)
    assert (None if skip is None else skip(record)) is (found if found and found.cause == "skipped" else None)
    return None if found is None else (found.cause, str(found))


def test_a_skip_is_of_one_record_and_a_quarantine_of_a_key_in_all_topics():
    controls, _ = told(
        (RecordTarget("ingest", "in", 2, 17), SKIP), (KeyTarget("ingest", b"acme/run"), QUARANTINE)
    )

    assert aside(controls, "p.in", 2, 17) == ("skipped", "skipped by ann@host: r")
    assert aside(controls, "p.in", 2, 18) is None
    assert aside(controls, "p.in", 1, 17) is None
    assert aside(controls, "in", 2, 17) is None
    for topic in ("p.in", "p.other"):
        assert aside(controls, topic, 0, 5, b"acme/run") == ("quarantined", "quarantined by ann@host: r")
    assert aside(controls, "p.other", 0, 5, None) is None


def test_what_is_taken_back_holds_no_more_and_nothing_is_looked_at_any_more():
    skip, key = RecordTarget("ingest", "in", 2, 17), KeyTarget("ingest", b"acme/run")
    controls, heard = told((skip, SKIP), (key, QUARANTINE), (skip, None), (key, None))

    assert aside(controls, "p.in", 2, 17, b"acme/run") is None
    assert heard == [[skip, key]]


def test_a_chunk_is_looked_through_only_if_it_may_hold_a_record_to_skip():
    controls, _ = told((RecordTarget("ingest", "in", 2, 17), SKIP))

    def looked_through(partition, first, end):
        source = SourcePartition("p.in", partition)
        items = [(Record(*source, offset, 0, b"k", b"v"), offset) for offset in range(first, end)]
        return controls.judge_of(EventChunk(source, 0, items, end)) is not None

    assert looked_through(2, 10, 18)
    assert looked_through(2, 17, 18)
    assert not looked_through(2, 18, 30), "it is passed"
    assert not looked_through(2, 10, 17)
    assert not looked_through(1, 10, 18)


def test_an_action_of_a_later_version_holds_nothing():
    controls, _ = told(
        (Target("ingest", 1), SKIP),
        (RecordTarget("ingest", "in", 2, 17), PAUSE),
        (KeyTarget("ingest", b"k"), "dance"),
    )

    assert not controls.is_paused(1)
    assert aside(controls, "p.in", 2, 17) is None
