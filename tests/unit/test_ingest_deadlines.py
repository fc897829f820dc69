"""Ingest owns deadlines: time-outs, holes and forgetting, by the partition's own event time alone."""

from __future__ import annotations

import pytest

from pipelines.ingest import Ingest, IngestOptions
from schemas import topics
from schemas.kinds import BUILTIN_KINDS, DAY_MS, HOUR_MS, MINUTE_MS
from tests.unit.support_scope import CODEC, PAYLOADS, SECOND_US, START_US, Partition, make_event, payload

LOG = BUILTIN_KINDS.named("log")
IDLE_US = LOG.connection.idle_timeout_ms * 1_000
DISORDER_US = 2 * SECOND_US
DAY_US = DAY_MS * 1_000


def new_step(**options: int) -> Ingest:
    return Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, IngestOptions(**{"partitions": 1, **options}))


@pytest.fixture
def partition() -> Partition:
    return Partition()


def feed(partition: Partition, *events, step: Ingest | None = None) -> None:
    partition.feed(step or new_step(), [partition.record(event) for event in events])


def tick(partition: Partition, at_us: int, *, times: int = 1, step: Ingest | None = None) -> None:
    """Broker time passes; the tick's own time field says nothing."""
    event = make_event("tick", stream="ticker", time=START_US + 999 * DAY_US)
    for _ in range(times):
        partition.feed(step or new_step(), [partition.record(event, at_us)])


def own(partition: Partition, stream: str = "build"):
    return [event for event in partition.events(topics.OUTPUT) if event.stream_id == stream]


def test_a_silent_stream_is_ended_when_the_watermark_passes_its_idle_deadline(partition):
    feed(partition, make_event("open"), make_event("log", time=START_US + SECOND_US))
    deadline_us = START_US + SECOND_US + IDLE_US
    tick(partition, deadline_us + DISORDER_US - 1)
    assert len(own(partition)) == 2
    tick(partition, deadline_us + DISORDER_US)
    end = own(partition)[-1]
    assert (end.seq, end.type, end.time, end.source) == (2, "end", deadline_us, "sluicegate/ingest")
    fields = payload(end)
    assert (fields["reason"], fields["events"], fields["exit_code"]) == ("timed_out", 2, None)
    assert "idle" in fields["message"]
    (told,) = partition.events(topics.LLM_CONTROL)
    assert told == end, "who writes it may be a model, which goes on and costs"
    assert partition.counts == {"output": 2, "tick": 2, "made": 1}


def test_the_ticker_is_told_the_broker_time_at_which_a_tick_has_work(partition):
    step = new_step()
    assert step.open_deadline(partition.backend_view()) is None
    feed(partition, make_event("open"))
    due_us = step.open_deadline(partition.backend_view())
    assert due_us == START_US + IDLE_US + DISORDER_US
    tick(partition, due_us - 1)
    assert len(own(partition)) == 1
    tick(partition, due_us)
    assert own(partition)[-1].type == "end"


def test_each_accepted_event_puts_the_idle_deadline_off_and_rewrites_no_index(partition):
    feed(partition, make_event("open"))
    alarms = [key for key in partition.snapshot() if key.startswith(b"a")]
    for minute in range(1, 29):
        feed(partition, make_event("log", time=START_US + minute * 60 * SECOND_US))
        assert [key for key in partition.snapshot() if key.startswith(b"a")] == alarms
    tick(partition, START_US + IDLE_US + 5 * 60 * SECOND_US)
    assert own(partition)[-1].type == "log"
    assert [key for key in partition.snapshot() if key.startswith(b"a")] != alarms
    tick(partition, START_US + 28 * 60 * SECOND_US + IDLE_US + DISORDER_US)
    assert own(partition)[-1].type == "end"


def test_a_rejected_event_and_a_cancel_are_no_sign_of_life(partition):
    feed(partition, make_event("open", 0))
    late_us = START_US + IDLE_US - SECOND_US
    feed(partition, make_event("open", 0, time=late_us), make_event("cancel", time=late_us))
    feed(partition, make_event("log", 0, time=late_us, event_id="back"))
    tick(partition, START_US + IDLE_US + DISORDER_US)
    assert [event.type for event in own(partition)] == ["open", "cancel", "end"]


def test_an_open_may_shorten_the_time_outs_of_its_kind_but_not_lengthen_them(partition):
    for stream, idle_ms in (("short", 5_000), ("long", 10 * HOUR_MS)):
        feed(partition, make_event("open", stream=stream, fields={"idle_timeout_ms": idle_ms}))
    tick(partition, START_US + 5 * SECOND_US + DISORDER_US)
    assert own(partition, "short")[-1].type == "end"
    assert own(partition, "long")[-1].type == "open"
    tick(partition, START_US + IDLE_US + DISORDER_US)
    assert own(partition, "long")[-1].type == "end"


def test_a_stream_that_never_rests_ends_at_its_total_time_out(partition):
    feed(partition, make_event("open", fields={"total_timeout_ms": MINUTE_MS}))
    for second in range(10, 70, 10):
        feed(partition, make_event("log", time=START_US + second * SECOND_US))
    assert own(partition)[-1].type == "log"
    feed(partition, make_event("log", time=START_US + 62 * SECOND_US, event_id="too late"))
    end = own(partition)[-1]
    assert (end.type, end.time) == ("end", START_US + 60 * SECOND_US)
    assert "total" in payload(end)["message"]
    assert [reject["verdict"] for reject in partition.values(topics.REJECTS)] == ["late"]


def test_an_event_of_2099_neither_ends_its_neighbours_nor_prolongs_its_own_stream(partition):
    feed(partition, make_event("open", stream="calm"), make_event("open", stream="mad"))
    far = make_event("log", stream="mad", time=START_US + 75 * 365 * DAY_US)
    partition.feed(new_step(), [partition.record(far, START_US + SECOND_US)])
    assert partition.counts["future_dated"] == 1
    assert own(partition, "calm")[-1].type == "open"
    tick(partition, START_US + SECOND_US + 60 * SECOND_US + IDLE_US + DISORDER_US)
    assert own(partition, "mad")[-1].type == "end"


def test_a_producer_whose_clock_lags_an_hour_is_not_timed_out_by_its_neighbours(partition):
    feed(partition, make_event("open", stream="punctual", time=START_US))
    lag_us = 3_600 * SECOND_US
    lagging = [make_event("open", time=START_US - lag_us), make_event("log", time=START_US - lag_us + 1)]
    partition.feed(new_step(), [partition.record(event, START_US) for event in lagging])
    assert [event.type for event in own(partition)] == ["open", "log"]


def test_a_catch_up_after_an_outage_times_nothing_out(partition):
    """Three hours of records in one unit: only what was silent in the log itself is ended."""
    events = [make_event("open"), make_event("open", stream="silent")]
    events += [make_event("log", time=START_US + 60 * minute * SECOND_US) for minute in range(1, 180)]
    feed(partition, *events)
    assert [event.type for event in own(partition)] == ["open"] + ["log"] * 179
    assert [event.type for event in own(partition, "silent")] == ["open", "end"]


def test_an_idle_stream_with_a_hole_flushes_what_waits_before_it_is_ended(partition):
    fields = {"idle_timeout_ms": 3_000}
    feed(partition, make_event("open", 0, fields=fields), make_event("log", 2), make_event("log", 5))
    tick(partition, START_US + 3 * SECOND_US + DISORDER_US)
    assert [(event.seq, event.type) for event in own(partition)] == [
        (0, "open"), (1, "gap"), (2, "log"), (3, "gap"), (4, "log"), (5, "end"),
    ]  # fmt: skip
    assert payload(own(partition)[-1])["reason"] == "timed_out"


def test_an_end_that_waits_behind_a_hole_wins_over_the_time_out(partition):
    feed(partition, make_event("open", 0, fields={"idle_timeout_ms": 3_000}), make_event("end", 3))
    tick(partition, START_US + 60 * SECOND_US)
    assert [event.type for event in own(partition)] == ["open", "gap", "end"]
    assert payload(own(partition)[-1])["reason"] == "completed"


def test_each_hole_is_waited_for_since_the_event_behind_it_came(partition):
    bound_us = LOG.order.reorder_ms_max * 1_000
    feed(partition, make_event("open", 0), make_event("log", 2))
    feed(partition, make_event("log", 4, time=START_US + 6 * SECOND_US))
    feed(partition, make_event("log", 1, time=START_US + 7 * SECOND_US))
    tick(partition, START_US + 6 * SECOND_US + bound_us - 1)
    assert [event.type for event in own(partition)] == ["open", "log", "log"]
    tick(partition, START_US + 6 * SECOND_US + bound_us)
    assert [event.type for event in own(partition)] == ["open", "log", "log", "gap", "log"]


def test_the_ticker_is_told_when_a_hole_has_been_waited_for_long_enough(partition):
    step, arrived_us = new_step(), START_US + 3_000
    sent = [make_event("open", 0), make_event("log", 2, time=START_US + 75 * 365 * DAY_US)]
    partition.feed(step, [partition.record(event, arrived_us) for event in sent])
    due_us = step.open_deadline(partition.backend_view())
    assert due_us == arrived_us + LOG.order.reorder_ms_max * 1_000
    tick(partition, due_us - 1_000)
    assert len(own(partition)) == 1
    tick(partition, due_us)
    assert [event.type for event in own(partition)] == ["open", "gap", "log"]


def test_the_ticker_is_told_a_time_that_the_broker_can_stamp(partition):
    feed(partition, make_event("open", time=START_US + 1))
    due_us = new_step().open_deadline(partition.backend_view())
    assert due_us % 1_000 == 0
    tick(partition, due_us)
    assert own(partition)[-1].type == "end"


def test_a_neighbour_of_2099_cuts_no_wait_short(partition):
    feed(partition, make_event("open", 0), make_event("log", 2))
    far = make_event("open", stream="mad", time=START_US + 75 * 365 * DAY_US)
    partition.feed(new_step(), [partition.record(far, START_US + SECOND_US)])
    feed(partition, make_event("log", 1, time=START_US + SECOND_US))
    assert [event.type for event in own(partition)] == ["open", "log", "log"]


def test_a_stream_is_past_its_deadline_even_while_the_chores_lag_behind(partition):
    step = new_step(chores_max=1)
    opens = [make_event("open", stream=f"s{number}") for number in range(20)]
    feed(partition, *opens, step=step)
    past_us = START_US + IDLE_US + DISORDER_US
    feed(partition, make_event("log", stream="s19", time=past_us), step=step)
    assert [event.type for event in own(partition, "s19")] == ["open", "end"]
    assert partition.counts["late"] == 1
    tick(partition, past_us, times=40, step=step)
    assert all(own(partition, f"s{number}")[-1].type == "end" for number in range(20))
    assert partition.counts["made"] == 20


@pytest.mark.parametrize("chores_max", [1, 10, 52, 1_000])
def test_event_ids_are_kept_until_the_end_and_ttl_then_the_stream_is_still_known(partition, chores_max):
    sent = [make_event("open"), *[make_event("log", event_id=f"e{n}") for n in range(50)], make_event("end")]
    feed(partition, *sent)
    ttl_us = LOG.order.dedupe_ttl_ms * 1_000
    tick(partition, START_US + ttl_us + DISORDER_US - 1)
    feed(partition, sent[5])
    assert partition.counts["duplicate"] == 1
    step = new_step(chores_max=chores_max)
    tick(partition, START_US + ttl_us + DISORDER_US, times=60, step=step)
    assert not [key for key in partition.snapshot() if key.startswith(b"d")]
    feed(partition, sent[5])
    assert partition.counts["late"] == 1


def test_when_its_history_is_over_a_stream_is_gone_without_a_trace_and_its_id_is_free(partition):
    feed(partition, make_event("open"), make_event("log"), make_event("end"))
    history_us = LOG.replay.history_ms * 1_000
    for _ in range(3):
        tick(partition, START_US + history_us + DISORDER_US)
    assert partition.snapshot().keys() == {b"c", b"t"}
    assert partition.logs[topics.INDEX.name][-1] == (b"default/build", None)
    assert partition.logs[topics.RECORDS.name][-1] == (b"default/build", None)
    feed(partition, make_event("open", time=START_US + history_us, event_id="anew"))
    assert [(event.seq, event.type) for event in own(partition)][-1] == (0, "open")
    assert partition.logs[topics.INDEX.name][-1][1] is not None


def test_an_id_taken_anew_in_the_very_unit_that_forgot_it_is_listed_as_the_new_stream(partition):
    later_us = START_US + 4 * DAY_US
    feed(
        partition,
        make_event("open"),
        make_event("end"),
        *[make_event("tick", stream="ticker", time=later_us)] * 3,
        make_event("open", time=later_us, event_id="anew"),
    )
    assert [event.type for event in own(partition)] == ["open", "end", "open"]
    entry = partition.values(topics.INDEX)[-1]
    assert entry is not None
    assert (entry["opened_us"], entry["end_offset"], entry["end_reason"]) == (later_us, -1, "")


def test_made_events_have_the_same_ids_in_a_replay(partition):
    other = Partition()
    for world in (partition, other):
        feed(world, make_event("open", 0), make_event("log", 3))
        tick(world, START_US + DAY_US)
    ids = [event.event_id for event in own(partition)]
    assert ids == [event.event_id for event in own(other)]
    assert len(set(ids)) == 4
    assert max(map(len, ids)) <= 64
