"""Late events: counted always, and kept with their bytes where the agent's source says so."""

from __future__ import annotations

import pytest

from pipelines.late import SUBJECT, LateEventMaker
from schemas.record import Record
from schemas.topics import LATE_EVENTS, TopicSpec
from state.effects import PartitionScope
from state.memory import MemoryBackend
from tests.unit.support_scope import CODEC, LATE, LETTERS

RECORD = Record(
    "clicks.v1", 6, 2**34, 1_700_000_000_000_000, b"ann", b"\x00\x00\x00\x00\x09clicked",
    (("trace", b"1"),),
)  # fmt: skip
TIMES = {"time_us": 1_699_999_000_000_000, "watermark_us": 1_699_999_999_000_000}


def scope(late=LATE):
    return PartitionScope("clicks", 6, MemoryBackend(), None, LETTERS, late)


def test_a_late_event_is_appended_with_its_bytes_coordinates_and_the_watermark():
    made = scope()
    made.late(RECORD, **TIMES, detail="window of 10:02")
    (append,) = made.take_appends()
    assert (append.topic, append.key) == (LATE_EVENTS, b"ann")
    assert append.partition == 6 % LATE_EVENTS.partitions, "an agent's own input may have more"
    assert CODEC.decode(append.value, SUBJECT) == {
        "topic": "clicks.v1",
        "partition": 6,
        "offset": 2**34,
        "key": b"ann",
        "value": RECORD.value,
        "schema_id": int.from_bytes(RECORD.value[1:5], "big"),
        "agent": "clicks",
        "detail": "window of 10:02",
        "event_time_us": TIMES["time_us"],
        "watermark_us": TIMES["watermark_us"],
        "time_us": RECORD.timestamp_us,
        "headers": [{"name": "trace", "value": b"1"}],
    }
    assert made.counts == {"late": 1}


def test_without_a_topic_it_is_counted_and_dropped():
    made = scope(late=None)
    made.late(RECORD, **TIMES, outcome="late_for_window")
    assert made.take_appends() == []
    assert made.counts == {"late_for_window": 1}


def test_a_step_that_is_undone_leaves_no_late_event():
    made = scope()
    made.savepoint()
    made.late(RECORD, **TIMES)
    made.undo()
    assert made.take_appends() == []
    assert made.counts == {}


@pytest.mark.parametrize("key", [None, b"ann", b"k" * 5_000])
def test_what_the_topic_does_not_take_is_cut_and_the_event_says_so(key):
    topic = TopicSpec("small.late.v1", "key", SUBJECT, 2, -1, "delete", "Late.", max_message_bytes=20_000)
    large = Record("clicks.v1", 1, 0, 0, key, b"v" * 50_000)
    append = LateEventMaker(CODEC, topic).event(large, agent="a" * 300, detail="d" * 2_000, **TIMES)
    assert len(append.value) + len(append.key or b"") < topic.max_message_bytes
    late = CODEC.decode(append.value, SUBJECT)
    assert 0 < len(late["value"]) < 50_000
    assert f"value of {50_000} bytes" in late["detail"]
