"""Ingest lists each stream in the index and writes its structured record."""

from __future__ import annotations

import pytest

from pipelines.ingest import Ingest, IngestOptions
from pipelines.listing import MARK_EVERY, MARKS_MAX, thinned
from schemas import topics
from schemas.kinds import BUILTIN_KINDS
from tests.unit.support_scope import CODEC, PAYLOADS, SECOND_US, START_US, Partition, make_event


@pytest.fixture
def partition() -> Partition:
    return Partition()


def feed(partition: Partition, *events) -> None:
    step = Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, IngestOptions(partitions=1))
    partition.feed(step, [partition.record(event) for event in events])


def offsets(partition: Partition) -> dict[int, int]:
    """Offset of each seq of the stream ``build``: see ``Partition._append``."""
    log = partition.events(topics.OUTPUT)
    return {event.seq: 2 * place for place, event in enumerate(log, 1) if event.stream_id == "build"}


def last_entry(partition: Partition):
    return partition.values(topics.INDEX)[-1]


def test_an_open_is_listed_with_the_offset_it_got_in_the_very_unit(partition):
    feed(partition, make_event("open", stream="other"))
    feed(partition, make_event("open", fields={"title": "make all", "labels": {"branch": "main"}}))
    entry = last_entry(partition)
    assert (entry["tenant"], entry["stream_id"], entry["kind"], entry["partition"]) == (
        "default", "build", "log", 0,
    )  # fmt: skip
    assert (entry["open_offset"], entry["opened_us"], entry["topic_version"]) == (4, START_US, 1)
    assert (entry["title"], entry["labels"]) == ("make all", {"branch": "main"})
    assert (entry["last_seq"], entry["end_offset"], entry["end_seq"], entry["ended_us"]) == (0, -1, -1, 0)


def test_an_end_is_listed_also_when_the_whole_stream_is_in_one_unit(partition):
    end = make_event("end", time=START_US + SECOND_US, fields={"reason": "upstream_error"})
    feed(partition, make_event("open"), make_event("log"), end)
    entry = last_entry(partition)
    assert (entry["open_offset"], entry["end_offset"], entry["end_seq"]) == (2, 6, 2)
    assert (entry["last_seq"], entry["end_reason"], entry["ended_us"]) == (2, "upstream_error", end.time)


def test_there_is_a_mark_every_thousand_events_at_the_right_offsets_and_sizes(partition):
    feed(partition, make_event("open"), make_event("open", stream="noise"))
    for start in range(0, 3_500, 500):
        lines = [
            make_event("log", event_id=f"e{number}", fields={"line": "x" * (number % 7)})
            for number in range(start, start + 500)
        ]
        feed(partition, *lines, make_event("log", stream="noise", event_id=f"n{start}"))
    sizes = [len(event.payload) for event in partition.events(topics.OUTPUT) if event.stream_id == "build"]
    assert last_entry(partition)["marks"] == [
        {"seq": seq, "offset": offsets(partition)[seq], "bytes": sum(sizes[:seq])}
        for seq in (1_000, 2_000, 3_000)
    ]
    assert (last_entry(partition)["last_seq"], last_entry(partition)["bytes"]) == (3_000, sum(sizes[:3_001]))
    feed(partition, make_event("end"))
    sizes.append(len(partition.events(topics.OUTPUT)[-1].payload))
    assert last_entry(partition)["bytes"] == sum(sizes)


def test_marks_are_thinned_so_that_their_number_is_bound_and_they_stay_evenly_spaced():
    marks: list[dict[str, int]] = []
    for seq in range(MARK_EVERY, 3_000 * MARK_EVERY, MARK_EVERY):
        if not marks or seq % marks[0]["seq"] == 0:
            marks = thinned([*marks, {"seq": seq, "offset": seq}])
        assert len(marks) <= MARKS_MAX
    spacing = marks[0]["seq"]
    assert [mark["seq"] for mark in marks] == list(range(spacing, marks[-1]["seq"] + 1, spacing))
    assert marks[-1]["seq"] > 2_990 * MARK_EVERY


def test_the_record_is_written_at_open_and_revised_at_marks_and_at_the_end(partition):
    feed(partition, make_event("open", request_id="r-1", task_id="t-1"))
    feed(partition, *[make_event("log", event_id=f"e{number}") for number in range(1_100)])
    feed(partition, make_event("end", time=START_US + SECOND_US))
    records = partition.values(topics.RECORDS)
    assert [(record["revision"] - START_US, record["last_seq"]) for record in records] == [
        (1, 0), (2, 1_000), (3, 1_101),
    ]  # fmt: skip
    assert {(record["request_id"], record["task_id"]) for record in records} == {("r-1", "t-1")}
    assert [record["end_reason"] for record in records] == ["", "", "completed"]


def test_the_record_holds_the_figures_of_the_stream(partition):
    sent = [
        make_event("open", time=START_US),
        make_event("log", event_id="a", time=START_US + 2 * SECOND_US, upstream_id="call-1"),
        make_event("usage", event_id="b", time=START_US + 3 * SECOND_US, upstream_id="call-2",
                   fields={"cost_nanos": 1_500}, attempt=1),
        make_event("usage", event_id="c", time=START_US + 9 * SECOND_US, upstream_id="call-1",
                   fields={"cost_nanos": 7, "provenance": "unknown"}),
        make_event("end", time=START_US + 10 * SECOND_US),
    ]  # fmt: skip
    feed(partition, *sent)
    record = partition.values(topics.RECORDS)[-1]
    end = partition.events(topics.OUTPUT)[-1]
    assert record == {
        "request_id": "", "task_id": "", "stream_id": "build", "tenant": "default", "kind": "log",
        "first_seq": 0, "last_seq": 4,
        "events_by_type": {"open": 1, "log": 1, "usage": 2, "end": 1},
        "bytes_by_type": {
            "open": len(sent[0].payload), "log": len(sent[1].payload),
            "usage": len(sent[2].payload) + len(sent[3].payload), "end": len(end.payload),
        },
        "opened_us": START_US, "first_data_us": START_US + 2 * SECOND_US,
        "last_data_us": START_US + 9 * SECOND_US, "ended_us": START_US + 10 * SECOND_US,
        "time_to_first_data_us": 2 * SECOND_US, "longest_silence_us": 6 * SECOND_US,
        "end_reason": "completed", "upstream_ids": ["call-1", "call-2"], "attempts": 2,
        "cost_nanos": 1_500, "cost_unknown_events": 1, "revision": START_US + 2,
    }  # fmt: skip


def test_a_cost_that_nobody_knows_is_null_and_not_0(partition):
    feed(partition, make_event("open"), make_event("usage"), make_event("end"))
    record = partition.values(topics.RECORDS)[-1]
    assert (record["cost_nanos"], record["cost_unknown_events"]) == (None, 1)


def test_types_and_upstream_ids_of_a_stream_are_bound(partition):
    calls = [make_event("log", event_id=f"e{n}", upstream_id=f"call-{n}") for n in range(100)]
    feed(partition, make_event("open"), *calls, make_event("end"))
    assert partition.values(topics.RECORDS)[-1]["upstream_ids"] == [f"call-{n}" for n in range(16)]


def test_the_revision_grows_also_over_the_lives_of_an_id(partition):
    """PostgreSQL keeps the highest revision of a stream: a second life must not be ignored there."""
    later_us = START_US + 4 * 86_400 * SECOND_US
    feed(partition, make_event("open"), make_event("end"))
    for _ in range(3):
        feed(partition, make_event("tick", time=later_us))
    feed(partition, make_event("open", time=START_US, event_id="its clock lags by days"))
    revisions = [record["revision"] for record in partition.values(topics.RECORDS) if record]
    assert len(revisions) == 3
    assert revisions == sorted(set(revisions))
