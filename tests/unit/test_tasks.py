"""What a task cost equals a plain sum over its attempts and usage, however they come and how often."""

from __future__ import annotations

from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.kafka.stream import ColumnBatch
from connectors.llm.emitter import SOURCE
from pipelines.task import OTHER, UPSTREAMS_MAX, Share, Task
from pipelines.task_parts import TaskEvents, part_of_attempt
from pipelines.tasks import QUIET_TTL_MS, TTL_MS, Tasks
from schemas import topics
from schemas.batch import BatchReader
from schemas.envelope import LONG_MAX
from schemas.tasks import upstream_of
from state.binary import CorruptValue
from tests.support.attempts import SECOND_US, attempt, random_attempt
from tests.unit.support_scope import CODEC, PAYLOADS, START_US, Partition, make_event

READER = BatchReader(CODEC)


@pytest.fixture
def partition() -> Partition:
    return Partition(1)


def feed_events(partition: Partition, *events: Any) -> list[dict[str, Any]]:
    """One unit of work over events of the output; returns the parts of tasks that it made."""
    before = len(partition.logs[topics.LLM_TASK_PARTS.name])
    scope = partition.scope()
    records = [partition.record(event) for event in events]
    batch = READER.decode_batch([record.value for record in records])
    assert isinstance(batch, pa.RecordBatch)
    step = TaskEvents(CODEC, PAYLOADS)
    step.handle(ColumnBatch(batch, records, scope, "streams.output.v1", 1, records[-1].offset + 1))
    partition.commit(scope)
    return [part for part in partition.values(topics.LLM_TASK_PARTS)[before:] if part is not None]


def feed_parts(partition: Partition, *parts: dict[str, Any], append_us: int = 0) -> dict[str, dict[str, Any]]:
    """One unit of work over parts; returns the latest of each task."""
    scope = partition.scope()
    items: list[tuple[Any, Any]] = []
    for part in parts:
        frame = CODEC.encode(topics.LLM_TASK_PARTS.subject, part)
        record = partition.raw(b"", frame, append_us or part["time_us"])
        items.append((record, CODEC.decode(frame, topics.LLM_TASK_PARTS.subject)))
    Tasks(CODEC).handle(scope, items)
    partition.commit(scope)
    return latest(partition)


def latest(partition: Partition) -> dict[str, dict[str, Any]]:
    return {row["task_id"]: row for row in partition.values(topics.LLM_TASKS) if row is not None}


def usage(number: int, *, stream: str = "root", upstream_id: str = "retrieval:docs", **fields: Any):
    envelope = {name: fields.pop(name) for name in ("task_id", "time", "source") if name in fields}
    return make_event(
        "usage", number, stream=stream, upstream_id=upstream_id,
        fields={"provider": "vectors", "cost_nanos": 5, "latency_ms": 20} | fields, **envelope,
    )  # fmt: skip


def call(
    number: int = 1, state: str = "completed", *, at_us: int = START_US, **fields: Any
) -> dict[str, Any]:
    return part_of_attempt(attempt(number, state, at_us=at_us, **fields))


# -- what is found in the output ------------------------------------------------------------------------


def test_a_stream_is_its_own_task_unless_its_open_names_another(partition):
    parts = feed_events(
        partition,
        make_event("open", 0, stream="root"),
        make_event("open", 0, stream="part", task_id="root"),
        usage(1, stream="part"),
        usage(2, stream="root"),
        usage(3, stream="part", task_id="third"),
        make_event("end", 4, stream="part"),
        make_event("end", 5, stream="root", fields={"reason": "timed_out"}),
    )
    assert [(part["task_id"], part["part"].split(":")[0], part["end_reason"]) for part in parts] == [
        ("root", "usage", ""), ("root", "usage", ""), ("third", "usage", ""), ("root", "end", "timed_out"),
    ]  # fmt: skip
    assert partition.counts == {"counted": 4, "ignored": 3}


def test_a_stream_of_another_name_is_a_root_if_its_open_says_so(partition):
    labelled = make_event("open", 0, stream="s", task_id="task-7", fields={"labels": {"task": "root"}})
    assert feed_events(partition, labelled) == []
    (end,) = feed_events(partition, make_event("end", 1, stream="s", task_id=""))
    assert (end["task_id"], end["part"]) == ("task-7", "end:s")
    assert partition.snapshot() == {}, "what has ended is kept no more"


def test_a_stream_that_is_opened_again_for_itself_forgets_its_task(partition):
    feed_events(partition, make_event("open", 0, stream="s", task_id="before"))
    (end,) = feed_events(
        partition, make_event("open", 0, stream="s", event_id="again"), make_event("end", 1, stream="s")
    )
    assert end["task_id"] == "s"


def test_usage_that_repeats_the_ledger_is_not_counted_twice(partition):
    feed_events(partition, usage(1, source=SOURCE), make_event("tick", 2))
    assert partition.values(topics.LLM_TASK_PARTS) == []
    assert partition.counts == {"ignored": 1, "tick": 1}


@pytest.mark.parametrize(
    ("upstream_id", "upstream"),
    [("tool:find", "tool"), ("", "vectors"), (":x", "vectors"), ("x-1", "vectors")],
)
def test_what_was_called_stands_before_the_colon_or_is_the_provider(upstream_id, upstream):
    assert upstream_of(upstream_id, "vectors") == upstream


def test_cost_of_usage_is_known_estimated_or_unknown(partition):
    parts = feed_events(
        partition, usage(1), usage(2, provenance="estimated"), usage(3, cost_nanos=None, calls=3, errors=1)
    )
    assert [(part["known_nanos"], part["estimated_nanos"], part["cost_unknown"]) for part in parts] == [
        (5, 0, 0), (0, 5, 0), (0, 0, 1),
    ]  # fmt: skip
    assert (parts[2]["other_calls"], parts[2]["other_errors"]) == (3, 1)
    assert [part["tokens_unknown"] for part in parts] == [0, 0, 0]
    assert parts[0]["started_us"] == START_US - 20_000


def test_usage_of_which_nothing_is_known_is_counted_as_that_and_not_as_nothing(partition):
    nothing = {"provenance": "unknown", "input_tokens": 0, "output_tokens": 0}
    parts = feed_events(partition, usage(1, **nothing), usage(2, **nothing, cost_nanos=None))
    task = feed_parts(partition, *parts)["root"]
    sums = ("other_calls", "known_nanos", "estimated_nanos", "cost_unknown", "input_tokens", "tokens_unknown")
    assert [task[name] for name in sums] == [2, 0, 0, 2, 0, 2]


def test_a_payload_that_is_none_is_a_dead_letter_and_its_neighbours_are_counted(partition):
    wrong = usage(1)._replace(payload=b"\xff")
    other = usage(3)._replace(payload_schema=make_event("log").payload_schema)
    assert len(feed_events(partition, usage(0), wrong, other, usage(2))) == 2
    causes = [letter["cause"] for letter in partition.values(topics.DEAD_LETTERS)]
    assert causes == ["Undecodable", "InvalidEvent"]
    assert partition.counts == {"counted": 2, "dead_letter": 2}


def test_streams_that_name_no_task_leave_nothing_in_the_changelog(partition):
    scope = partition.scope()
    record = partition.record(make_event("open", 0, stream="plain"))
    step = TaskEvents(CODEC, PAYLOADS)
    step.handle(ColumnBatch(READER.decode_batch([record.value]), [record], scope, "o", 1, 1))
    assert scope.view.staged == {}


def test_a_refused_request_called_nobody_and_takes_back_that_it_runs(partition):
    assert feed_parts(partition, call(0, "refused")) == {}
    task = feed_parts(partition, call(1, "started"), call(1, "refused", error_class="gate"))["answer"]
    assert (task["attempts"], task["failed_attempts"], task["running"], task["cost_unknown"]) == (0, 0, 0, 0)


# -- what is added up -----------------------------------------------------------------------------------


def test_failed_and_cancelled_attempts_count_and_a_running_one_is_said_apart(partition):
    task = feed_parts(
        partition,
        call(1, "failed", cost_nanos=7, cost_source="known"),
        call(2, "cancelled", cost_nanos=9, cost_source="estimated"),
        call(3, "abandoned"),
        call(4),
        call(5, "started"),
    )["answer"]
    assert (task["attempts"], task["failed_attempts"], task["running"]) == (5, 3, 1)
    assert (task["known_nanos"], task["estimated_nanos"], task["cost_unknown"]) == (1_007, 9, 1)
    assert (task["state"], task["ended_us"]) == ("open", 0)


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("completed", "completed"),
        ("cancelled", "cancelled"),
        ("timed_out", "failed"),
        ("upstream_error", "failed"),
    ],
)
def test_a_task_is_over_as_its_root_stream_ended_and_late_calls_revise_it(partition, reason, state):
    (end,) = feed_events(partition, make_event("end", 9, stream="answer", fields={"reason": reason}))
    first = feed_parts(partition, call(1), end)["answer"]
    assert (first["state"], first["ended_us"], first["end_reason"]) == (state, START_US, reason)
    later = feed_parts(partition, call(2, at_us=START_US + 5 * SECOND_US))["answer"]
    assert (later["state"], later["known_nanos"], later["ended_us"]) == (state, 2_000, START_US)
    assert later["revision"] > first["revision"]
    assert later["last_us"] == START_US + 5 * SECOND_US


def test_a_task_that_called_nobody_is_not_told(partition):
    (end,) = feed_events(partition, make_event("end", 9, stream="build"))
    assert feed_parts(partition, end) == {}
    assert feed_parts(partition, call(stream_id="build"))["build"]["state"] == "completed", "but remembered"


def test_a_revised_attempt_takes_its_own_place_and_an_older_word_says_nothing(partition):
    feed_parts(partition, call(1, "started"), call(1, "abandoned"))
    task = feed_parts(partition, call(1, cost_nanos=70), call(1, "started"), call(1, cost_nanos=70))["answer"]
    assert (task["attempts"], task["failed_attempts"], task["running"]) == (1, 0, 0)
    assert (task["known_nanos"], task["cost_unknown"]) == (70, 0)
    assert task["known_by_upstream"] == {"model": 70}
    assert task["unknown_by_upstream"] == {}
    assert partition.counts == {"counted": 3, "duplicate": 2}


def test_attempts_of_two_questions_for_one_name_add_up_though_they_have_one_number(partition):
    feed_parts(partition, call(1, "started"), call(1))
    asked_again = {"request_offset": 9, "at_us": START_US + SECOND_US}
    task = feed_parts(partition, call(1, "started", **asked_again))["answer"]
    assert (task["attempts"], task["running"], task["known_nanos"]) == (2, 1, 1_000)
    again = [call(1, **asked_again)] * 2
    task = feed_parts(partition, *again, call(1))["answer"]
    assert (task["attempts"], task["running"], task["known_nanos"]) == (2, 0, 2_000)


def test_an_attempt_that_a_version_before_began_is_settled_in_its_place(partition):
    def of_before(part):
        return part | {"part": "attempt:answer/1"}

    feed_parts(partition, of_before(call(1, "started")))
    for part in (call(1), call(1), of_before(call(1))):  # read again, and by a worker of before
        task = feed_parts(partition, part)["answer"]
        assert (task["attempts"], task["running"], task["known_nanos"]) == (1, 0, 1_000)


def test_upstreams_beyond_the_bound_stand_under_one_name_and_come_back_from_it(partition):
    names = [f"u{number}" for number in range(UPSTREAMS_MAX + 5)]
    parts = [call(number, upstream=name) for number, name in enumerate(names)]
    task = feed_parts(partition, *parts)["answer"]
    assert len(task["calls_by_upstream"]) == UPSTREAMS_MAX + 1
    assert task["known_by_upstream"][OTHER] == 5_000
    last = call(len(names) - 1, upstream=names[-1], cost_nanos=1)
    assert feed_parts(partition, last)["answer"]["known_by_upstream"][OTHER] == 4_001


def test_a_task_is_forgotten_after_its_ttl_and_begins_a_new_life_under_another_key(partition):
    feed_parts(partition, call(1), call(2))
    later_us = START_US + (TTL_MS + 1_000) * 1_000
    feed_parts(partition, call(1, at_us=later_us, stream_id="other"))
    assert not [key for key in partition.snapshot() if b"answer" in key]
    feed_parts(partition, call(3, at_us=later_us))
    keys = [key for key, _ in partition.logs[topics.LLM_TASKS.name] if key.startswith(b"default/answer/")]
    assert len(set(keys)) == 2, "the sum that was said before stands"


def test_what_comes_within_the_ttl_keeps_a_task(partition):
    feed_parts(partition, call(1))
    half_us = (TTL_MS - 60_000) * 1_000
    feed_parts(partition, call(2, at_us=START_US + half_us))
    feed_parts(partition, call(1, at_us=START_US + half_us + 300 * SECOND_US, task_id="other"))
    assert feed_parts(partition, call(3, at_us=START_US + 2 * half_us))["answer"]["attempts"] == 3


def test_an_end_alone_is_kept_for_a_day(partition):
    (end,) = feed_events(partition, make_event("end", 9, stream="quiet"))
    feed_parts(partition, end)
    feed_parts(partition, call(1, at_us=START_US + (QUIET_TTL_MS + 1_000) * 1_000))
    assert not [key for key in partition.snapshot() if b"quiet" in key]


def test_a_task_of_more_parts_than_one_sweep_deletes_is_whole_until_it_is_gone(partition):
    feed_parts(partition, *[call(number) for number in range(700)])
    later_us = START_US + (TTL_MS + 1_000) * 1_000
    feed_parts(partition, call(1, at_us=later_us, task_id="x1"))
    assert feed_parts(partition, call(701, at_us=later_us))["answer"]["attempts"] == 701, "it is alive again"


def test_hostile_numbers_break_no_task(partition):
    parts = [call(number, cost_nanos=LONG_MAX, input_tokens=LONG_MAX) for number in (1, 2)]
    task = feed_parts(partition, *parts, call(3, "failed", input_tokens=-7, cost_nanos=-9))["answer"]
    assert (task["known_nanos"], task["input_tokens"]) == (LONG_MAX, LONG_MAX)


def test_a_stored_form_that_cannot_be_read_fails_loudly():
    task = Task(5)
    task.add(Share(1, "model", tuple(range(11))))
    assert Task.read(task.write()) == task
    for data in (b"", task.write()[:50], task.write()[:-1], b"\x09" + task.write()[1:]):
        with pytest.raises(CorruptValue):
            Task.read(data)
    share = Share(1, "model", tuple(range(11)))
    assert Share.read(share.write()) == share
    with pytest.raises(CorruptValue):
        Share.read(share.write()[:-2])


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_sums_equal_a_plain_loop_whatever_the_order_the_cuts_and_the_repeats(seed):
    rng = Random(seed)
    tasks = ["task-a", "task-b", ""]
    attempts = [
        {**random_attempt(rng, number, START_US), "tenant": "default", "task_id": rng.choice(tasks)}
        for number in range(40)
    ]
    usages = [
        usage(
            number, stream=f"s{rng.randint(0, 9)}", task_id=rng.choice(tasks), calls=rng.randint(1, 3),
            upstream_id=rng.choice(["retrieval:x", "tool:y"]), source=rng.choice(["app", SOURCE]),
            cost_nanos=rng.choice([None, 3, 8]), provenance=rng.choice(["", "estimated"]),
        )
        for number in range(30)
    ]  # fmt: skip
    ends = [make_event("end", 0, stream="task-a", fields={"reason": "completed"})]
    parts = feed_events(Partition(), *usages, *ends)
    for each in attempts:
        part, begun = part_of_attempt(each), part_of_attempt({**each, "state": "started", "ended_us": 0})
        parts += [begun] * rng.randint(0, 2) + [part] * rng.randint(1, 3)
    rng.shuffle(parts)  # a `started` may even come after what settles it
    partition, unit = Partition(), []
    for part in parts:
        unit.append(part)
        if rng.random() < 0.2:
            feed_parts(partition, *unit)
            unit = []
    feed_parts(partition, *unit, call(stream_id="last"))
    found = {name: simple(row) for name, row in latest(partition).items() if name != "last"}
    assert {name: row for name, row in found.items() if any(row)} == plain(attempts, usages)
    assert latest(partition)["last"]["state"] == "open"
    assert latest(partition)["task-a"]["state"] == "completed"


def simple(row: dict[str, Any]) -> tuple[int, ...]:
    return (
        row["known_nanos"], row["estimated_nanos"], row["cost_unknown"], row["attempts"],
        row["failed_attempts"], row["other_calls"], row["running"], sum(row["known_by_upstream"].values()),
        sum(row["unknown_by_upstream"].values()),
    )  # fmt: skip


def plain(attempts: list[dict[str, Any]], usages: list[Any]) -> dict[str, tuple[int, ...]]:
    """The same by a loop that knows nothing of parts or state."""
    rows: dict[str, list[int]] = {}
    for each in attempts:
        if each["state"] == "refused":
            continue
        row = rows.setdefault(each["task_id"] or each["stream_id"], [0] * 6)
        at = {"known": 0, "estimated": 1, "unknown": 2}[each["cost_source"]]
        row[at] += 1 if at == 2 else each["cost_nanos"]
        row[3] += 1
        row[4] += each["state"] != "completed"
    for event in usages:
        if event.source == SOURCE:
            continue
        fields = PAYLOADS.decode(event.payload_schema, event.payload)
        row = rows.setdefault(event.task_id or event.stream_id, [0] * 6)
        cost = fields["cost_nanos"]
        row[2 if cost is None else 1 if fields["provenance"] else 0] += 1 if cost is None else cost
        row[5] += fields["calls"]
    return {name: (*row, 0, row[0], row[2]) for name, row in rows.items()}
