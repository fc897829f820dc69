"""A recording made of shown events, and the stream that is made of a recording."""

from __future__ import annotations

from dataclasses import replace

import orjson

from ops.player import Rewriter
from ops.recorder import Recorder
from schemas.published import time_text
from schemas.recording import RecordedEvent


def shown(seq: int, event_type: str = "log", *, at_s: float = 0.0, **fields: object) -> dict[str, object]:
    time = time_text(1_700_000_000_000_000 + int(at_s * 1e6))
    return {"type": event_type, "seq": seq, "time": time, "event_id": f"e{seq}", **fields}


def test_the_cadence_is_that_of_the_events_own_times_and_never_goes_back() -> None:
    recorder = Recorder()
    taken = [recorder.take(shown(n, at_s=at)) for n, at in enumerate((0, 1.5, 1.2, 4))]
    assert [event.at_ms for event in taken if event] == [0, 1500, 1500, 4000]


def test_what_the_edge_says_to_one_client_is_no_part_of_the_stream_but_not_forgotten() -> None:
    recorder = Recorder()
    recorder.take(shown(0, "open"))
    assert recorder.take({"type": "gap", "seq": 5, "from_seq": 1, "to_seq": 5, "reason": "retention"}) is None
    in_stream = recorder.take(shown(6, "gap", from_seq=9, to_seq=9, count=1, reason="missing_input"))
    assert in_stream is not None
    assert recorder.take(shown(7, "gap", from_seq=7, to_seq=7, count=1, reason="unreadable")) is None
    assert recorder.missing == ["seq 1 to 5", "seq 7 to 7"]
    assert not recorder.ended
    recorder.take(shown(8, "end", reason="completed"))
    assert recorder.ended


def recorded(seq: int, event_type: str, at_ms: int = 0, **payload: object) -> RecordedEvent:
    return RecordedEvent(
        at_ms, f"e{seq}", event_type, seq, "2026-01-01T00:00:00Z", payload, {"source": "make"}
    )


def rewritten(*events: RecordedEvent, stream: str = "new", speed: float = 1.0) -> list[dict[str, object]]:
    return [orjson.loads(e.body) for e in Rewriter(stream, speed=speed, start_us=1_000).rewrite(events)]


EVENTS = (
    recorded(0, "open", title="t"),
    recorded(1, "log", 100, line="a"),
    recorded(2, "gap", 100, from_seq=2, to_seq=3),
    recorded(3, "log", 200, line="b"),
    recorded(4, "reset", 300, from_seq=3, reason="again"),
    recorded(5, "end", 400, reason="completed", events=5, bytes=99),
)


def test_the_new_stream_is_numbered_anew_without_what_only_sluicegate_may_say() -> None:
    events = rewritten(*EVENTS)
    assert [event["type"] for event in events] == ["open", "log", "log", "reset", "end"]
    assert [event["seq"] for event in events] == [0, 1, 2, 3, 4]
    assert events[3]["payload"] == {"from_seq": 2, "reason": "again"}, "a reset follows what it names"
    assert events[4]["payload"] == {"reason": "completed"}, "totals are ingest's to count"
    assert {event["source"] for event in events} == {"make"}


def test_each_reset_raises_the_epoch_and_what_follows_is_of_it() -> None:
    again = [recorded(5 + n, kind) for n, kind in enumerate(("log", "reset", "log"))]
    events = rewritten(*EVENTS[:-1], *again)
    assert [(event["type"], event["epoch"]) for event in events[2:]] == [
        ("log", 0), ("reset", 1), ("log", 1), ("reset", 2), ("log", 2),
    ]  # fmt: skip
    known = rewritten(EVENTS[0], replace(EVENTS[4], epoch=7), EVENTS[1])
    assert [event["epoch"] for event in known] == [0, 7, 7]


def test_a_replay_that_is_stopped_ends_in_the_epoch_that_it_reached() -> None:
    rewriter = Rewriter("new", speed=1.0, start_us=0)
    list(rewriter.rewrite(EVENTS[:-1]))
    assert orjson.loads(rewriter.stopped(4))["epoch"] == 1


def test_times_follow_the_cadence_and_the_speed() -> None:
    assert [event["time"] for event in rewritten(*EVENTS)] == [1_000, 101_000, 201_000, 301_000, 401_000]
    assert [event["time"] for event in rewritten(*EVENTS, speed=2)][-1] == 201_000
    assert {event["time"] for event in rewritten(*EVENTS, speed=0)} == {1_000}


def test_ids_follow_from_the_new_stream_and_the_old_event() -> None:
    once, twice, other = rewritten(*EVENTS), rewritten(*EVENTS), rewritten(*EVENTS, stream="other")
    assert once == twice
    ids = [{str(event["event_id"]) for event in events} for events in (once, other)]
    assert len(ids[0]) == 5
    assert not ids[0] & ids[1]
    assert all(len(each) <= 64 for each in ids[0])


def test_a_recording_that_begins_late_gets_an_open() -> None:
    events = rewritten(*EVENTS[3:])
    assert [(event["type"], event["seq"]) for event in events] == [
        ("open", 0), ("log", 1), ("reset", 2), ("end", 3),
    ]  # fmt: skip
