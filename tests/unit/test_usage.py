"""Usage by window over four partitions equals a plain computation over the same events."""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.figures import Figures, Group
from pipelines.own_migrations import MIGRATIONS
from pipelines.two_stage import TwoStageOptions
from pipelines.usage import UsageMerge, UsagePartials
from schemas import topics
from schemas.envelope import LONG_MAX
from schemas.topics import partition_of
from state.binary import CorruptValue
from state.windows import WindowOptions
from tests.unit.support_scope import CODEC, PAYLOADS, SECOND_US, START_US, Partition, make_event

MINUTE_US = 60 * SECOND_US
BASE_US = START_US - START_US % MINUTE_US
OPTIONS = TwoStageOptions(WindowOptions(60_000, 30_000, 120_000), merged_ttl_ms=600_000)
CLOSES_US = BASE_US + 90 * SECOND_US + 2 * SECOND_US


def new_partials() -> UsagePartials:
    return UsagePartials(CODEC, PAYLOADS, OPTIONS)


def usage(number: int = 0, *, time: int = BASE_US, stream: str = "build", tenant: str = "default", **fields):
    return make_event(
        "usage", number, time=time, stream=stream, tenant=tenant, event_id=f"{stream}{number}", fields=fields
    )


def feed(partition: Partition, *events) -> None:
    partition.feed(new_partials(), [partition.record(event) for event in events])


def partials(partition: Partition) -> list[dict[str, Any]]:
    return [value for value in partition.values(topics.USAGE_PARTIALS) if value is not None]


def merge(partition: Partition, *values: dict[str, Any]) -> list[dict[str, Any]]:
    frames = [CODEC.encode(topics.USAGE_PARTIALS.subject, value) for value in values]
    scope = partition.scope()
    records = [partition.raw(b"", frame) for frame in frames]
    decoded = [CODEC.decode(frame, topics.USAGE_PARTIALS.subject) for frame in frames]
    UsageMerge(CODEC, OPTIONS).handle(scope, list(zip(records, decoded, strict=True)))
    partition.commit(scope)
    return [value for value in partition.values(topics.USAGE_WINDOWS) if value is not None]


def partial(source: int, revision: int, *, start_us: int = BASE_US, calls: int = 1, final: bool = False):
    return {
        "window_start_us": start_us, "window_ms": 60_000, "tenant": "default", "kind": "llm",
        "provider": "acme", "model": "small", "calls": calls, "events": calls, "final": final,
        "source_partition": source, "revision": revision,
    }  # fmt: skip


@pytest.fixture
def partition() -> Partition:
    return Partition(2)


def test_usage_is_summed_by_tenant_kind_provider_and_model(partition):
    feed(
        partition,
        usage(
            0, provider="acme", model="small", input_tokens=5, output_tokens=2, cost_nanos=9, latency_ms=40
        ),
        usage(1, provider="acme", model="small", calls=2, errors=1, cost_nanos=None, latency_ms=70),
        usage(2, provider="acme", model="large"),
        usage(3, tenant="other", provider="acme", model="small"),
    )
    rows = {(row["tenant"], row["provider"], row["model"]): row for row in partials(partition)}
    assert len(rows) == 3
    assert rows["default", "acme", "small"] == {
        "window_start_us": BASE_US, "window_ms": 60_000, "tenant": "default", "kind": "log",
        "provider": "acme", "model": "small", "calls": 3, "errors": 1, "events": 2, "input_tokens": 12,
        "output_tokens": 2, "tokens_estimated": 0, "tokens_unknown": 0, "cost_nanos": 9, "estimated_nanos": 0,
        "cost_unknown": 1, "latency_ms_sum": 110, "latency_ms_max": 70,
        "source_partition": 2, "final": False, "revision": 2,
    }  # fmt: skip
    assert {key for key, _ in partition.logs[topics.USAGE_PARTIALS.name]} == {
        b"default/log/acme/small", b"default/log/acme/large", b"other/log/acme/small",
    }  # fmt: skip


def test_what_is_known_estimated_and_unknown_is_told_apart(partition):
    fields = {"provider": "acme", "model": "small", "input_tokens": 5, "output_tokens": 2, "cost_nanos": 9}
    nothing = {"input_tokens": 0, "output_tokens": 0, "provenance": "unknown"}
    feed(
        partition,
        usage(0, **fields),
        usage(1, **fields, provenance="estimated"),
        usage(2, **fields | nothing),
        usage(3, **fields | nothing | {"cost_nanos": None}),
        usage(4, **fields | {"cost_nanos": None, "provenance": "estimated"}),
    )
    (row,) = merge(Partition(0), *partials(partition))
    tokens = [row[name] for name in ("input_tokens", "tokens_estimated", "tokens_unknown")]
    assert tokens == [15, 2, 2]
    assert [row[name] for name in ("cost_nanos", "estimated_nanos", "cost_unknown")] == [9, 9, 3]


def as_form_1(value: bytes) -> bytes:
    """Without the last three sums."""
    _, final, *numbers = struct.unpack(">BB13q", value)
    return struct.pack(">BB10q", 1, final, *numbers[:8], *numbers[11:])


def test_windows_of_before_are_carried_over_by_their_migration(partition):
    feed(partition, usage(0, provider="acme", cost_nanos=9, latency_ms=40))
    before = {}
    for key, value in partition.snapshot().items():
        before[key] = as_form_1(value) if key.startswith(b"ww") else value
    with pytest.raises(CorruptValue):
        Figures.read(before[next(key for key in before if key.startswith(b"ww"))])
    stores = {
        topics.AGGREGATE_PARTIALS_CHANGELOG: new_partials(),
        topics.AGGREGATE_WINDOWS_CHANGELOG: UsageMerge(CODEC),
    }
    for migration in MIGRATIONS:
        assert migration.to_version == stores.pop(migration.changelog).store.version
        after = dict(pair for key, value in before.items() for pair in migration.change(key, value))
        assert after == partition.snapshot()
    assert not stores


def test_every_other_event_counts_under_no_provider(partition):
    feed(partition, make_event("open", 0, time=BASE_US), make_event("log", 1, time=BASE_US), usage(2))
    assert {(row["provider"], row["events"]) for row in partials(partition)} == {("", 2), ("acme", 1)}
    assert partition.counts == {"counted": 3}


def test_a_window_is_said_once_a_batch_and_its_last_word_once_when_it_closes(partition):
    feed(partition, usage(0), usage(1))
    feed(partition, usage(2, time=BASE_US + 59 * SECOND_US))
    feed(partition, make_event("log", 3, time=CLOSES_US - 1))
    assert [(row["revision"], row["final"]) for row in partials(partition) if row["provider"]] == [
        (2, False), (3, False),
    ]  # fmt: skip
    feed(partition, make_event("log", 4, time=CLOSES_US))
    feed(partition, make_event("log", 5, time=CLOSES_US + 10 * MINUTE_US))
    assert [(row["revision"], row["final"]) for row in partials(partition) if row["provider"]] == [
        (2, False), (3, False), (4, True),
    ]  # fmt: skip


def test_the_ticker_closes_the_windows_of_an_idle_partition(partition):
    step = new_partials()
    assert step.open_deadline(partition.backend_view()) is None
    feed(partition, usage(0))
    assert step.open_deadline(partition.backend_view()) == CLOSES_US
    ticks = [partition.record(make_event("tick"), at_us) for at_us in (CLOSES_US - 1, CLOSES_US)]
    partition.feed(step, ticks[:1])
    assert not partials(partition)[-1]["final"]
    partition.feed(step, ticks[1:])
    assert partials(partition)[-1]["final"]
    assert step.open_deadline(partition.backend_view()) is None
    assert partition.counts == {"counted": 1, "tick": 2}


def test_usage_that_comes_after_the_close_is_routed_as_late_and_other_events_are_counted(partition):
    feed(partition, make_event("log", 0, time=CLOSES_US))
    before = len(partials(partition))
    feed(partition, usage(1), make_event("log", 2, time=BASE_US))
    assert len(partials(partition)) == before
    (late,) = partition.values(topics.LATE_EVENTS)
    assert CODEC.decode_event(late["value"]).type == "usage", "with its bytes"
    assert (late["offset"], late["agent"]) == (1, "step")
    assert late["event_time_us"] == BASE_US
    assert late["watermark_us"] >= late["event_time_us"] + MINUTE_US, "which its window could not wait for"
    assert partition.values(topics.DEAD_LETTERS) == []
    assert partition.counts == {"counted": 1, "late_for_window": 2}


def test_an_event_of_2099_counts_as_of_now_and_leaves_no_window_open_until_then(partition):
    far = usage(0, time=BASE_US + 75 * 365 * 86_400 * SECOND_US)
    partition.feed(new_partials(), [partition.record(far, BASE_US)])
    assert partials(partition)[0]["window_start_us"] == BASE_US + MINUTE_US


def test_windows_are_deleted_when_their_ttl_is_over(partition):
    feed(partition, usage(0), usage(1, time=BASE_US + 20 * MINUTE_US))
    feed(partition, usage(2, time=BASE_US + 20 * MINUTE_US))
    assert len([key for key in partition.snapshot() if key.startswith(b"ww")]) == 1


def test_what_is_no_event_is_a_dead_letter(partition):
    good = partition.record(usage(0))
    wrong = usage(1)._replace(payload_schema=make_event("log").payload_schema)
    records = [partition.raw(b"k", b"{}"), partition.raw(b"k", None), partition.record(wrong), good]
    partition.feed(new_partials(), records)
    assert [letter["cause"] for letter in partition.values(topics.DEAD_LETTERS)] == [
        "BadMagic", "InvalidEvent", "InvalidEvent",
    ]  # fmt: skip
    assert partition.counts == {"counted": 1, "dead_letter": 3}


def test_the_merge_sums_the_latest_of_each_source_partition(partition):
    assert [row["calls"] for row in merge(partition, partial(0, 1), partial(1, 1, calls=10))] == [11]
    rows = merge(partition, partial(0, 4, calls=4))
    assert [(row["calls"], row["revision"]) for row in rows] == [(11, 2), (14, 5)]


def test_the_merge_ignores_what_is_older_than_what_it_knows(partition):
    merge(partition, partial(0, 4, calls=4))
    rows = merge(partition, partial(0, 3, calls=3), partial(0, 4, calls=4))
    assert [row["calls"] for row in rows] == [4]
    assert partition.counts == {"counted": 1, "superseded": 2}


def test_a_merged_window_is_final_when_all_its_partials_are(partition):
    finals = [row["final"] for row in merge(partition, partial(0, 2, final=True), partial(1, 1))]
    finals += [row["final"] for row in merge(partition, partial(1, 2, final=True))][1:]
    assert finals == [False, True]


def test_a_partial_is_merged_however_late_until_its_window_is_forgotten(partition):
    ttl_us = 90 * SECOND_US + 600 * SECOND_US
    newer_us = BASE_US + ttl_us - 2 * MINUTE_US - ttl_us % MINUTE_US
    merge(partition, partial(0, 1, start_us=newer_us))
    assert merge(partition, partial(0, 1))[-1]["window_start_us"] == BASE_US
    merge(partition, partial(0, 1, start_us=BASE_US + ttl_us + MINUTE_US - ttl_us % MINUTE_US))
    before = len(partition.logs[topics.USAGE_WINDOWS.name])
    merge(partition, partial(1, 1))
    assert len(partition.logs[topics.USAGE_WINDOWS.name]) == before, "a sum from nothing would be too small"
    assert partition.counts["window_forgotten"] == 1
    assert partition.values(topics.DEAD_LETTERS)[-1]["cause"] == "window_forgotten"


def test_a_partial_of_another_window_length_is_refused(partition):
    merge(partition, partial(0, 1) | {"window_ms": 5_000})
    assert partition.counts == {"dead_letter": 1}


def test_names_with_slashes_do_not_collide():
    assert Group("t", "k", "a/b", "c").topic_key() != Group("t", "k", "a", "b/c").topic_key()
    assert Group("t", "k", "a%2Fb", "c").topic_key() != Group("t", "k", "a/b", "c").topic_key()
    group = Group("t", "k", "a/b", "ü")
    assert Group.of_state_key(group.state_key()) == group


def test_sums_stop_at_the_greatest_long_instead_of_breaking_the_window(partition):
    feed(partition, usage(0, cost_nanos=LONG_MAX), usage(1, cost_nanos=LONG_MAX, latency_ms=LONG_MAX))
    assert partials(partition)[-1]["cost_nanos"] == LONG_MAX


@pytest.mark.parametrize("data", [b"", b"\x02", b"\x01" + Figures().write()[1:]])
def test_a_stored_window_that_cannot_be_read_fails_loudly(data):
    with pytest.raises(CorruptValue):
        Figures.read(data)


def random_usage(rng: Random, number: int):
    fields = {
        "provider": rng.choice(["acme", "zeta"]), "model": rng.choice(["s", "l/x"]),
        "calls": rng.randint(1, 3), "input_tokens": rng.randint(0, 9), "cost_nanos": rng.choice([None, 1, 7]),
        "latency_ms": rng.randint(0, 50), "provenance": rng.choice(["", "provider", "unknown"]),
    }  # fmt: skip
    return usage(
        number, time=BASE_US + rng.randint(0, 400) * SECOND_US, stream=f"s{rng.randint(0, 20)}",
        tenant=rng.choice(["t", "u"]), **fields,
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_over_four_partitions_the_windows_equal_a_plain_computation(seed):
    """Within the bounds nothing is late; cuts, order of partials and repeats do not matter."""
    rng = Random(seed)
    events = [random_usage(rng, number) for number in range(120)]
    events.sort(key=lambda event: event.time + rng.randint(0, 30) * SECOND_US)
    sources = [Partition(number) for number in range(4)]
    units: dict[int, list] = defaultdict(list)
    for event in events:
        number = partition_of(event.key, 4)
        units[number].append(sources[number].record(event))
        if rng.random() < 0.2:
            sources[number].feed(new_partials(), units.pop(number))
    for number, source in enumerate(sources):
        end = source.record(make_event("tick"), BASE_US + 500 * SECOND_US)
        source.feed(new_partials(), [*units[number], *[end] * rng.randint(1, 2)])
    merged = Partition(0)
    queues = [partials(source) for source in sources]
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        taken = queue[: rng.randint(1, 5)]
        del queue[: rng.randint(0, len(taken))]  # some are read again after a crash
        merge(merged, *taken)
    got = {
        (row["window_start_us"], row["tenant"], row["provider"], row["model"]): (
            row["calls"], row["events"], row["input_tokens"], row["cost_nanos"], row["cost_unknown"],
            row["latency_ms_sum"], row["latency_ms_max"], row["final"],
        )
        for row in merged.values(topics.USAGE_WINDOWS) if row
    }  # fmt: skip
    assert got == plain(events)


def plain(events) -> dict[tuple, tuple]:
    sums: dict[tuple, Counter[str]] = defaultdict(Counter)
    longest: Counter[tuple] = Counter()
    for event in events:
        fields = PAYLOADS.decode(event.payload_schema, event.payload)
        key = (event.time // MINUTE_US * MINUTE_US, event.tenant, fields["provider"], fields["model"])
        cost = None if fields["provenance"] == "unknown" else fields["cost_nanos"]
        sums[key].update(
            calls=fields["calls"], events=1, tokens=fields["input_tokens"], cost=cost or 0,
            unknown=cost is None, latency=fields["latency_ms"],
        )  # fmt: skip
        longest[key] = max(longest[key], fields["latency_ms"])
    return {
        key: (
            row["calls"], row["events"], row["tokens"], row["cost"], row["unknown"], row["latency"],
            longest[key], True,
        )
        for key, row in sums.items()
    }  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_what_is_final_does_not_depend_on_how_records_are_cut(seed):
    rng = Random(seed)
    events = [random_usage(rng, number) for number in range(100)]  # in no order: many come late
    finals = []
    for cuts in (set(), {rng.randrange(100) for _ in range(30)}):
        partition, unit = Partition(), []
        for number, event in enumerate(events):
            unit.append(partition.record(event))
            if number in cuts:
                partition.feed(new_partials(), unit)
                unit = []
        partition.feed(new_partials(), unit)
        closed = [row for row in partials(partition) if row["final"]]
        finals.append((closed, partition.counts, partition.snapshot()))
        assert len(closed) == len({(row["window_start_us"], row["tenant"], row["provider"], row["model"])
                                   for row in closed})  # fmt: skip
    assert finals[0] == finals[1]
