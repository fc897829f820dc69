"""Windows of the ledger equal a plain loop over the same attempts, each counted once."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.attempt_figures import AttemptFigures, Called
from pipelines.attempts import SEEN_TTL_MS, AttemptMerge, AttemptPartials, attempt_key
from pipelines.two_stage import TwoStageOptions
from schemas import topics
from schemas.envelope import LONG_MAX
from schemas.latency import BOUNDS_MS
from schemas.topics import partition_of
from state.binary import CorruptValue
from state.windows import WindowOptions
from tests.support.attempts import SECOND_US, attempt, random_attempt
from tests.unit.support_scope import CODEC, START_US, Partition

MINUTE_US = 60 * SECOND_US
BASE_US = START_US - START_US % MINUTE_US
OPTIONS = TwoStageOptions(WindowOptions(60_000, 30_000, 120_000), merged_ttl_ms=600_000)
CLOSES_US = BASE_US + 90 * SECOND_US + 2 * SECOND_US


@pytest.fixture
def partition() -> Partition:
    return Partition(2)


def feed(partition: Partition, *attempts: dict[str, Any] | None, append_us: int = 0) -> None:
    """One unit of work; each appended when it ended, or began, unless it is said."""
    scope = partition.scope()
    items = []
    for each in attempts:
        at_us = append_us or (each["ended_us"] or each["started_us"] if each else BASE_US)
        value = None if each is None else CODEC.encode(topics.LLM_ATTEMPTS.subject, each)
        record = partition.raw(attempt_key(each) if each else b"k", value, at_us)
        decoded = None if value is None else CODEC.decode(value, topics.LLM_ATTEMPTS.subject)
        items.append((record, decoded))
    AttemptPartials(CODEC, OPTIONS).handle(scope, items)
    partition.commit(scope)


def partials(partition: Partition) -> list[dict[str, Any]]:
    return [value for value in partition.values(topics.LLM_PARTIALS) if value is not None]


def merged(partition: Partition, *values: dict[str, Any]) -> list[dict[str, Any]]:
    frames = [CODEC.encode(topics.LLM_PARTIALS.subject, value) for value in values]
    scope = partition.scope()
    items = [
        (partition.raw(b"", frame), CODEC.decode(frame, topics.LLM_PARTIALS.subject)) for frame in frames
    ]
    AttemptMerge(CODEC, OPTIONS).handle(scope, items)
    partition.commit(scope)
    return [value for value in partition.values(topics.LLM_WINDOWS) if value is not None]


def test_an_attempt_counts_when_it_is_settled_with_known_and_estimated_and_unknown_apart(partition):
    feed(
        partition,
        attempt(1, "started", at_us=BASE_US + 1),
        attempt(1, "failed", at_us=BASE_US + 2, error_class="overloaded"),
        attempt(2, at_us=BASE_US + 3, why="retry", cached_input_tokens=4),
        attempt(
            3, "cancelled", at_us=BASE_US + 4, why="fallback", cost_nanos=50, cost_source="estimated",
            usage_source="estimated", input_tokens=3, output_tokens=1,
        ),
    )  # fmt: skip
    (row,) = partials(partition)
    assert row == {
        "window_start_us": BASE_US, "window_ms": 60_000, "tenant": "default", "kind": "llm",
        "provider": "acme", "model": "small", "prompt": "", "prompt_version": 0, "calls": 3, "completed": 1,
        "failed": 1, "cancelled": 1, "abandoned": 0, "refused": 0, "retries": 1, "fallbacks": 1,
        "restarts": 0, "input_tokens": 13, "cached_input_tokens": 4, "cache_write_tokens": 0,
        "output_tokens": 21, "reasoning_tokens": 0, "tokens_estimated": 1, "tokens_unknown": 1,
        "known_nanos": 1_000, "estimated_nanos": 50, "cost_unknown": 1, "first_contents": 1,
        "first_content_ms_sum": 500, "stream_ms_sum": 500, "stream_tokens": 20, "duration_ms_sum": 3_000,
        "first_content_ms_max": 500, "duration_ms_max": 1_000, "errors": {"overloaded": 1, "cancelled": 1},
        "first_content_ms": {"500": 1}, "source_partition": 2, "final": False, "revision": 3,
    }  # fmt: skip
    assert partition.counts == {"counted": 3, "ignored": 1}


def test_windows_are_apart_by_tenant_kind_provider_model_and_version_of_the_prompt(partition):
    names = {"tenant": "t2", "kind": "chat", "provider": "p/2", "model": "m%2", "prompt": "greet"}
    feed(
        partition,
        attempt(1, at_us=BASE_US),
        *[attempt(at_us=BASE_US, stream_id=name, **{name: value}) for name, value in names.items()],
        attempt(at_us=BASE_US, stream_id="other", prompt="greet", prompt_version=12),
    )
    assert len(partials(partition)) == 7
    assert b"default/llm/p%2F2/small//0" in {key for key, _ in partition.logs[topics.LLM_PARTIALS.name]}


@pytest.mark.parametrize("cut", [False, True])
def test_an_attempt_that_is_settled_again_or_read_again_counts_as_it_was_first(partition, cut):
    first = attempt(1, "abandoned", at_us=BASE_US)
    again = [first, attempt(1, at_us=BASE_US + MINUTE_US), attempt(1, "started", at_us=BASE_US)]
    for unit in [[first], again] if cut else [[first, *again]]:
        feed(partition, *unit)
    assert [row["abandoned"] for row in partials(partition)] == [1]
    assert partition.counts == {"counted": 1, "duplicate": 2, "ignored": 1}


def test_attempts_of_two_questions_for_one_name_count_both_though_they_have_one_number(partition):
    first, second = (attempt(1, at_us=BASE_US, request_offset=offset) for offset in (7, 9))
    feed(partition, first, second, first, second)
    assert partials(partition)[-1]["calls"] == 2
    assert partition.counts == {"counted": 2, "duplicate": 2}


def test_an_attempt_that_a_version_before_counted_is_not_counted_again(partition):
    scope = partition.scope()
    scope.state.put(b"adefault/answer/1", bytes(8))
    partition.commit(scope)
    feed(partition, attempt(1, at_us=BASE_US))
    assert partition.counts == {"duplicate": 1}


def test_what_was_counted_is_forgotten_after_a_while_so_that_state_stays_bounded(partition):
    feed(partition, attempt(at_us=BASE_US))
    later_us = BASE_US + SEEN_TTL_MS * 1_000 + 3 * SECOND_US
    feed(partition, attempt(at_us=later_us, stream_id="later"))
    kept = [key for key in partition.snapshot() if key[:1] in b"ae"]
    assert len(kept) == 2
    assert all(b"later" in key for key in kept)


def test_a_window_has_its_last_word_when_a_later_attempt_passes_its_grace(partition):
    feed(partition, attempt(at_us=BASE_US))
    feed(partition, attempt(at_us=CLOSES_US - 1, stream_id="b"))
    assert not any(row["final"] for row in partials(partition))
    feed(partition, attempt(at_us=CLOSES_US, stream_id="c"))
    assert [row["window_start_us"] for row in partials(partition) if row["final"]] == [BASE_US]


def test_an_attempt_that_comes_after_the_close_is_routed_as_late_once(partition):
    feed(partition, attempt(at_us=CLOSES_US, stream_id="b"))
    late = attempt(at_us=BASE_US)
    feed(partition, late, late, append_us=CLOSES_US)
    (row,) = partition.values(topics.LATE_EVENTS)
    assert CODEC.decode(row["value"], topics.LLM_ATTEMPTS.subject)["stream_id"] == "answer"
    assert partition.counts == {"counted": 1, "late_for_window": 1, "duplicate": 1}


def test_a_refused_request_is_no_call_and_costs_nothing(partition):
    feed(partition, attempt(0, "refused", at_us=BASE_US, error_class="bad_request", provider="", model=""))
    (row,) = partials(partition)
    assert {name: row[name] for name in ("calls", "refused", "cost_unknown", "tokens_unknown")} == {
        "calls": 0, "refused": 1, "cost_unknown": 0, "tokens_unknown": 0,
    }  # fmt: skip
    assert row["errors"] == {"bad_request": 1}


def test_an_attempt_dated_2099_leaves_no_window_open_until_then(partition):
    feed(partition, attempt(at_us=BASE_US + 75 * 365 * 86_400 * SECOND_US), append_us=BASE_US)
    assert partials(partition)[0]["window_start_us"] == BASE_US + MINUTE_US


def test_hostile_numbers_and_names_break_no_window(partition):
    feed(
        partition,
        attempt(1, at_us=BASE_US, cost_nanos=LONG_MAX, input_tokens=LONG_MAX, started_us=BASE_US + 9),
        attempt(2, at_us=BASE_US, cost_nanos=LONG_MAX, input_tokens=-5, output_tokens=-1),
        *[
            attempt(number, "strange", at_us=BASE_US, error_class=f"made-up-{number}")
            for number in range(3, 50)
        ],
    )
    row = partials(partition)[-1]
    assert (row["known_nanos"], row["input_tokens"]) == (LONG_MAX, LONG_MAX)
    assert (row["calls"], row["failed"]) == (49, 47)
    assert len(row["errors"]) == 33
    assert row["errors"]["other"] == 47 - 32


def test_figures_stay_what_they_are_through_their_stored_form():
    figures = AttemptFigures()
    for number in range(40):
        figures.add(random_attempt(Random(number), number, BASE_US))
    assert AttemptFigures.read(figures.write()) == figures
    assert Called.of_topic_key(Called("a", "b", "c/d", "e%2F", "", 7).topic_key())[2:] == (
        "c/d", "e%2F", "", 7,
    )  # fmt: skip


@pytest.mark.parametrize("cut", [0, 1, 9, -1, -9])
def test_a_stored_form_that_is_cut_or_too_long_fails_loudly(cut):
    figures = AttemptFigures()
    figures.add(attempt(1, "failed", at_us=BASE_US))
    data = figures.write()
    with pytest.raises(CorruptValue):
        AttemptFigures.read(data[:cut])
    with pytest.raises(CorruptValue):
        AttemptFigures.read(data + b"\x00")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_over_four_partitions_the_windows_equal_a_plain_loop(seed):
    """Within the bounds nothing is late; cuts, repeats and crashes between units do not matter."""
    rng = Random(seed)
    attempts = [random_attempt(rng, number, BASE_US) for number in range(100)]
    attempts.sort(key=lambda each: each["ended_us"] + rng.randint(0, 25) * SECOND_US)
    sources = [Partition(number) for number in range(4)]
    units: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for each in attempts:
        number = partition_of(f"{each['tenant']}/{each['stream_id']}".encode(), 4)
        units[number] += [{**each, "state": "started", "ended_us": 0}, *[each] * rng.randint(1, 3)]
        if rng.random() < 0.2:
            feed(sources[number], *units.pop(number))
    for number, source in enumerate(sources):
        closing = attempt(at_us=BASE_US + 600 * SECOND_US, stream_id="closing", tenant="later")
        feed(source, *units[number], closing)
    merge, queues = Partition(0), [partials(source) for source in sources]
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        taken = queue[: rng.randint(1, 5)]
        del queue[: rng.randint(0, len(taken))]  # some are read again after a crash
        merged(merge, *taken)
    rows = {}
    for row in merge.values(topics.LLM_WINDOWS):
        if row is not None and row["tenant"] != "later":
            rows[row["window_start_us"], Called.of_fields(row)] = row
    assert all(row["final"] for row in rows.values())
    assert {key: simple(row) for key, row in rows.items()} == plain(attempts)


def simple(row: dict[str, Any]) -> dict[str, Any]:
    sums = {
        name: row[name]
        for name in (
            "calls", "completed", "failed", "cancelled", "abandoned", "refused", "retries", "fallbacks",
            "restarts", "input_tokens", "cached_input_tokens", "output_tokens", "tokens_unknown",
            "known_nanos", "estimated_nanos", "cost_unknown", "first_contents", "first_content_ms_sum",
            "first_content_ms_max", "duration_ms_max",
        )
    }  # fmt: skip
    found = {name: value for name, value in sums.items() if value}
    return found | {"errors": row["errors"], "first_content_ms": row["first_content_ms"]}


def plain(attempts: list[dict[str, Any]]) -> dict[tuple, dict[str, Any]]:
    """The same by a loop that knows nothing of partials, keys or state."""
    found: dict[tuple, dict[str, Any]] = {}
    whys = {"retry": "retries", "fallback": "fallbacks", "crash": "restarts"}
    for each in attempts:
        sums, errors, first = Counter(), Counter(), Counter()
        longest: Counter[str] = Counter()
        key = (each["ended_us"] // MINUTE_US * MINUTE_US, Called.of_fields(each))
        if each["error_class"]:
            errors[each["error_class"]] = 1
        if each["state"] == "refused":
            sums["refused"] = 1
        else:
            sums.update({"calls": 1, each["state"]: 1, whys.get(each["why"], "first"): 1})
            for name in ("input_tokens", "output_tokens", "cached_input_tokens"):
                sums[name] = each[name] or 0
            sums["tokens_unknown"] = None in (each["input_tokens"], each["output_tokens"])
            if each["cost_source"] == "unknown":
                sums["cost_unknown"] = 1
            else:
                sums[f"{each['cost_source']}_nanos"] = each["cost_nanos"]
            longest["duration_ms_max"] = -(-(each["ended_us"] - each["started_us"]) // 1_000)
            if each["first_content_us"]:
                ms = -(-(each["first_content_us"] - each["started_us"]) // 1_000)
                sums.update(first_contents=1, first_content_ms_sum=ms)
                longest["first_content_ms_max"] = ms
                first[next((str(bound) for bound in BOUNDS_MS if ms <= bound), "inf")] = 1
        del sums["first"]
        window = found.setdefault(key, {"sums": Counter(), "max": Counter(), "e": Counter(), "f": Counter()})
        window["sums"] += sums
        window["max"] |= longest
        window["e"] += errors
        window["f"] += first
    return {
        key: {
            **{name: count for name, count in (window["sums"] + window["max"]).items() if count},
            "errors": dict(window["e"]), "first_content_ms": dict(window["f"]),
        }
        for key, window in found.items()
    }  # fmt: skip
