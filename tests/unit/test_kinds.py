"""Kinds: all policies declared and in agreement, and a table that is nobody's global."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from schemas.errors import UnknownKind
from schemas.kinds import BUILTIN_KINDS, JOB, KINDS, RECORD_FACTS, Kind, KindTable
from schemas.preflight import problems_of
from schemas.topics import OUTPUT, TOPICS


@pytest.mark.parametrize("kind", list(BUILTIN_KINDS), ids=lambda kind: kind.name)
def test_a_built_in_kind_may_be_served(kind: Kind) -> None:
    assert problems_of(kind, TOPICS) == []


def test_the_built_in_kinds_are_those_of_the_contract() -> None:
    assert set(KINDS) == {"job", "log", "llm", "chat"}
    assert "job" in BUILTIN_KINDS
    assert "other" not in BUILTIN_KINDS


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownKind, match="'jbo' is not declared") as caught:
        BUILTIN_KINDS.named("jbo")
    assert "chat, job, llm, log" in caught.value.remedy


def test_a_users_kind_lives_in_the_users_table_alone() -> None:
    table = KindTable((*BUILTIN_KINDS, replace(JOB, name="render")))
    assert table.named("render").replay == JOB.replay
    with pytest.raises(UnknownKind):
        BUILTIN_KINDS.named("render")


def test_kinds_cannot_be_changed_in_place() -> None:
    with pytest.raises(TypeError):
        KINDS["job"] = JOB  # type: ignore[index]


def part(policy: str, /, **changes: Any) -> Kind:
    return replace(JOB, **{policy: replace(getattr(JOB, policy), **changes)})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (replace(JOB, replay=None), "policy replay is not declared"),
        (replace(JOB, runbooks="later"), "policy runbooks is not declared"),
        (replace(JOB, name="My Kind"), "kind: must match"),
        (replace(JOB, doc=" "), "doc is empty"),
        (part("connection", heartbeat_ms=0), "connection.heartbeat_ms must be positive"),
        (part("connection", heartbeat_ms=60_000), "proxies"),
        (part("connection", idle_timeout_ms=2**40), "could never strike"),
        (part("connection", drain_ms=2**40), "drain_ms is longer"),
        (part("delivery", guarantee="mostly"), "delivery.guarantee must be exactly_once"),
        (part("delivery", guarantee="at_most_once"), "delivery.guarantee=at_most_once is not built"),
        (part("delivery", guarantee="at_least_once"), "delivery.guarantee=at_least_once is not built"),
        (part("replay", history_ms=OUTPUT.retention_ms + 1), "longer than streams.output.v1 keeps"),
        (part("replay", history_events=0), "replay.history_events must be positive"),
        (part("replay", history_bytes=1_000), "one event may be as large"),
        (part("replay", resumable=False), "but the kind is ephemeral"),
        (part("backpressure", policy="ignore"), "backpressure.policy cannot be 'ignore'"),
        (part("backpressure", then="slow_producer"), "backpressure.then cannot be"),
        (part("backpressure", behind_events_max=0), "backpressure.behind_events_max must be positive"),
        (part("backpressure", behind_share=0), "behind_share"),
        (part("backpressure", policy="drop_old", stall_ms_max=0, behind_share=0.5), "would change nothing"),
        (part("backpressure", policy="drop_old"), "would change nothing"),
        (part("backpressure", policy="terminate", stall_ms_max=0), "would change nothing"),
        (part("backpressure", stall_ms_max=2**40), "timed out for being slow"),
        (part("backpressure", behind_events_max=10**9), "nothing could be resumed"),
        (part("order", reorder_events_max=-1), "order.reorder_events_max must not be negative"),
        (part("order", reorder_ms_max=2**40), "missing event is waited for"),
        (part("order", dedupe_ttl_ms=0), "delivery is exactly_once"),
        (part("order", rejects="ignore"), "order.rejects"),
        (part("observability", record=("seq",)), "lacks lag, request_id"),
        (part("observability", record=(*RECORD_FACTS, "mood")), "names mood, which nothing keeps"),
        (part("observability", freshness_target_ms=0), "freshness_target_ms"),
        (part("runbooks", lag_growth=""), "runbooks.lag_growth names no page"),
    ],
)
def test_a_kind_that_is_not_sound_is_refused_with_the_policy_named(kind: Kind, words: str) -> None:
    problems = problems_of(kind, TOPICS)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize("policy", ["drop_old", "drop_new", "terminate"])
def test_a_policy_that_slows_nobody_is_sound_with_nothing_said_of_slowing(policy: str) -> None:
    assert problems_of(part("backpressure", policy=policy, stall_ms_max=0, then=policy), TOPICS) == []


def test_topics_that_cannot_keep_the_policies_are_named() -> None:
    compacted = [replace(spec, cleanup="compact") if spec is OUTPUT else spec for spec in TOPICS]
    assert any("is compacted" in problem for problem in problems_of(JOB, compacted))
    assert any("streams.output.v1 is missing" in problem for problem in problems_of(JOB, TOPICS[:1]))


def test_an_ephemeral_kind_without_history_is_sound() -> None:
    ephemeral = part("replay", resumable=False, history_ms=0, history_events=0, history_bytes=0)
    assert problems_of(ephemeral, TOPICS) == []
