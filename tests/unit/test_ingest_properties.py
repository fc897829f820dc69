"""Ingest over any input: nothing vanishes, cuts and restarts change nothing, order is restored."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest import Ingest, IngestOptions
from pipelines.streams import Status, read_stream
from schemas import topics
from schemas.kinds import BUILTIN_KINDS
from state.memory import MemoryBackend
from state.store import Position
from tests.unit.support_hostile import DAY_US, as_records, hostile_input
from tests.unit.support_scope import CODEC, PAYLOADS, SECOND_US, START_US, Partition, make_event, payload

if TYPE_CHECKING:
    from schemas.record import Record
    from tests.unit.support_hostile import Sent

OUTCOMES = {
    "output", "tick", "dead_letter", "duplicate", "late", "out_of_order", "orphan", "second_open",
    "mixed_seq", "stale_epoch", "second_end", "wrong_kind",
}  # fmt: skip
# 3 chores a record: backlogs of deadlines and of event ids to forget are the rule in these tests.
OPTIONS = IngestOptions(partitions=1, chores_max=3, reorder_bytes_max=2_000)


def new_step() -> Ingest:
    return Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, OPTIONS)


def run(sent: list[Sent], cuts: set[int]) -> Partition:
    partition = Partition()
    records = as_records(partition, sent)
    unit: list[Record] = []
    for number, record in enumerate(records):
        unit.append(record)
        if number in cuts or number == len(records) - 1:
            partition.feed(new_step(), unit)  # a new step each time: nothing but the store is remembered
            unit = []
    return partition


def world(partition: Partition) -> dict[str, object]:
    """All that others can see, but the wall-clock time of dead letters; the index as compacted."""
    letters = [letter | {"time_us": 0} for letter in partition.values(topics.DEAD_LETTERS) if letter]
    log = {
        topic.name: partition.logs[topic.name] for topic in (topics.OUTPUT, topics.REJECTS, topics.RECORDS)
    }
    index = {key: value for key, value in dict(partition.logs[topics.INDEX.name]).items() if value}
    return {**log, "letters": letters, "index": index, "counts": +partition.counts}


seeds = st.integers(0, 2**32)


@settings(deadline=None, max_examples=150)
@given(seeds)
def test_how_records_are_cut_into_units_and_restarts_change_nothing(seed):
    rng = Random(seed)
    sent = hostile_input(rng, 150)
    whole, cut = run(sent, set()), run(sent, {rng.randrange(150) for _ in range(rng.randint(1, 150))})
    assert world(cut) == world(whole)
    assert cut.snapshot() == whole.snapshot()


@settings(deadline=None, max_examples=120)
@given(seeds)
def test_every_input_has_exactly_one_outcome_and_every_stream_is_sound(seed):
    rng = Random(seed)
    sent = hostile_input(rng, 150)
    partition = run(sent, {rng.randrange(150) for _ in range(20)})
    counts = partition.counts
    waiting = counts["reorder_held"] - counts["reorder_released"]
    assert sum(counts[outcome] for outcome in OUTCOMES) + waiting == len(sent)
    assert set(counts) <= OUTCOMES | {"reorder_held", "reorder_released", "made", "future_dated"}
    rejected = sum(counts[name] for name in OUTCOMES - {"output", "tick", "dead_letter"})
    assert len(partition.logs[topics.REJECTS.name]) == rejected
    assert len(partition.logs[topics.OUTPUT.name]) == counts["output"] + counts["made"]
    assert_store_is_sound(partition, waiting)
    assert_streams_are_sound(partition)


def test_the_hostile_input_reaches_every_outcome():
    counts: Counter[str] = Counter()
    made: Counter[str] = Counter()
    tombstones = 0
    for seed in range(60):
        partition = run(hostile_input(Random(seed), 150), set(range(0, 150, 7)))
        counts.update(partition.counts)
        made.update(event.type for event in partition.events(topics.OUTPUT))
        tombstones += partition.values(topics.INDEX).count(None)
    assert {name: count for name, count in counts.items() if count < 20} == {}
    assert counts.keys() >= OUTCOMES | {"reorder_held", "made", "future_dated"}
    assert min(made["gap"], made["reset"], made["cancel"], tombstones) >= 20


def assert_store_is_sound(partition: Partition, waiting: int) -> None:
    stored = partition.snapshot()
    buffered = Counter(key[1:-9] for key in stored if key.startswith(b"b"))
    streams = {key[1:]: read_stream(key[1:], data) for key, data in stored.items() if key.startswith(b"s")}
    assert sum(buffered.values()) == waiting == sum(stream.waiting for stream in streams.values())
    assert all(stream.waiting for stream in streams.values() if stream.status is Status.PENDING)
    assert buffered == +Counter({key: stream.waiting for key, stream in streams.items()})
    for prefix, name in ((b"a", "alarm_us"), (b"h", "hole_alarm_us")):
        entries = [(key[9:], int.from_bytes(key[1:9], "big")) for key in stored if key.startswith(prefix)]
        known = [(key, getattr(stream, name)) for key, stream in streams.items() if getattr(stream, name)]
        assert sorted(entries) == sorted(known)
    assert all(stream.hole_alarm_us for stream in streams.values() if stream.waiting)
    assert all(stream.alarm_us for stream in streams.values() if stream.status is not Status.PENDING)
    members = {key[1:].split(b"\x00")[0] for key in stored if key.startswith(b"d")}
    assert members <= streams.keys()
    assert {key[1:] for key in stored if key.startswith(b"i")} <= streams.keys()


def assert_streams_are_sound(partition: Partition) -> None:
    lives: dict[str, list[list]] = defaultdict(list)
    for event in partition.events(topics.OUTPUT):
        if event.seq == 0:
            lives[event.stream_id].append([])  # an id may be opened again when its history is over
        lives[event.stream_id][-1].append(event)
    for stream_lives in lives.values():
        for number, life in enumerate(stream_lives):
            assert [event.seq for event in life] == list(range(len(life)))
            assert [event.type for event in life].count("open") == 1
            assert life[0].type == "open"
            ends = [event.seq for event in life if event.type == "end"]
            assert ends in ([], [len(life) - 1])
            assert ends or number == len(stream_lives) - 1
            ids = [event.event_id for event in life]
            assert len(ids) == len(set(ids))
            epochs = [event.epoch for event in life if event.source != "sluicegate/ingest"]
            assert epochs == sorted(epochs)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_reordering_within_bounds_with_repeats_gives_the_original_once_in_order(data):
    streams = {}
    for name in ("a", "b"):
        length = data.draw(st.integers(1, 25))
        types = ["open"] + ["log"] * length + data.draw(st.sampled_from([["end"], []]))
        streams[name] = [
            make_event(type_, seq, stream=name, time=START_US + seq * 1_000)
            for seq, type_ in enumerate(types)
        ]
    arrivals = []
    for events in streams.values():
        for event in events:
            for _ in range(data.draw(st.sampled_from([1, 1, 1, 2]))):
                arrivals.append((event.seq + data.draw(st.integers(0, 12)), len(arrivals), event))
    arrivals.sort(key=lambda arrival: arrival[:2])
    cuts = data.draw(st.sets(st.integers(0, len(arrivals))))
    partition, step, unit = (
        Partition(),
        Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, IngestOptions(partitions=1)),
        [],
    )
    for number, (_, _, event) in enumerate(arrivals):
        unit.append(partition.record(event))
        if number in cuts:
            partition.feed(step, unit)
            unit = []
    partition.feed(step, unit)
    for name, events in streams.items():
        got = [event for event in partition.events(topics.OUTPUT) if event.stream_id == name]
        assert [(event.event_id, event.seq) for event in got] == [
            (event.event_id, event.seq) for event in events
        ]
    assert partition.counts["duplicate"] == len(arrivals) - sum(map(len, streams.values()))


@settings(deadline=None, max_examples=100)
@given(seeds)
def test_no_neighbour_whatever_its_clock_says_makes_a_gap_in_a_stream_that_is_in_bounds(seed):
    """The wait for a missing seq goes by broker append time: 9 s of it pass here, 10 s are allowed."""
    rng = Random(seed)
    length = rng.randint(5, 60)
    own = [make_event("open" if seq == 0 else "log", seq, time=START_US + seq) for seq in range(length)]
    times = [0, START_US - 400 * DAY_US, START_US + 3_600 * SECOND_US, START_US + 75 * 365 * DAY_US]
    noise = [
        make_event(
            rng.choice(["open", "log", "tick"]), stream="noise", time=rng.choice(times), event_id=f"n{number}"
        )
        for number in range(rng.randint(1, 40))
    ]
    both = own + noise
    rng.shuffle(both)
    partition, arrived_us = Partition(), START_US
    step = Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, IngestOptions(partitions=1, chores_max=2))
    for event in both:
        arrived_us += rng.randint(0, 9 * SECOND_US // len(both))
        partition.feed(step, [partition.record(event, arrived_us)])
    got = [event for event in partition.events(topics.OUTPUT) if event.stream_id == "build"]
    assert [event.seq for event in got] == list(range(length))
    assert [event.time - START_US for event in got] == list(range(length))


@settings(deadline=None, max_examples=100)
@given(
    st.permutations(["end", "end", "cancel", "clock", "clock", "log"]),
    st.booleans(),
    st.lists(st.sampled_from([0, 1_000, 2_000]), min_size=6, max_size=6),
)
def test_whoever_wins_the_race_there_is_one_end_and_the_losers_are_told(racers, numbered, waits_s):
    partition, clock_us, seq = Partition(), START_US, 0
    partition.feed(new_step(), [partition.record(make_event("open", 0 if numbered else -1))])
    for number, (racer, wait_s) in enumerate(zip(racers, waits_s, strict=True)):
        clock_us += wait_s * SECOND_US
        if racer == "clock":
            event = make_event("open", stream=f"clock{number}", time=clock_us)
        else:
            seq += racer != "cancel"
            given = seq if numbered and racer != "cancel" else -1
            event = make_event(racer, given, event_id=f"{racer}{number}", time=clock_us)
        partition.feed(new_step(), [partition.record(event)])
    partition.feed(new_step(), [partition.record(make_event("open", stream="last", time=clock_us + DAY_US))])
    own = [event for event in partition.events(topics.OUTPUT) if event.stream_id == "build"]
    assert [event.type for event in own].count("end") == 1
    assert own[-1].type == "end"
    assert payload(own[-1])["reason"] in {"completed", "timed_out"}
    assert partition.counts["output"] + len(partition.logs[topics.REJECTS.name]) == 8


@pytest.mark.parametrize("fails_at", range(0, 60, 7))
def test_a_unit_that_fails_leaves_no_trace_in_the_step(fails_at):
    """The same step object goes on after an abort: it must not remember what was undone."""
    events = [make_event("open", 0), *[make_event("log", seq) for seq in range(1, 60)]]
    step, partition, calm = new_step(), Partition(), Partition()
    records = [partition.record(event) for event in events]
    step.handle(
        partition.scope(), [(record, CODEC.decode_event(record.value)) for record in records[:fails_at]]
    )
    partition.feed(step, records)  # the aborted unit's scope was dropped: from the beginning again
    calm.feed(new_step(), records)
    assert world(partition) == world(calm)
    assert partition.snapshot() == calm.snapshot()


def test_state_survives_a_restore_from_its_changelog():
    events = [make_event("open", 0), make_event("log", 2), make_event("usage", 1), make_event("end", 3)]
    straight, restored = Partition(), Partition()
    for event in events:
        straight.feed(new_step(), [straight.record(event)])
        changes = dict(restored.snapshot())
        restored.backend = MemoryBackend()
        restored.backend.write(changes, Position("", 0, 0))
        restored.feed(new_step(), [restored.record(event)])
    assert restored.logs == straight.logs
    assert restored.snapshot() == straight.snapshot()
