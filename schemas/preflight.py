"""Whether a kind's policies are all there, agree with each other, and can be kept by the topics."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final, get_args

from schemas.envelope import check_kind_name
from schemas.errors import InvalidEvent
from schemas.kinds import (
    RECORD_FACTS,
    BackpressurePolicy,
    ConnectionPolicy,
    DeliveryPolicy,
    Kind,
    ObservabilityPolicy,
    OrderPolicy,
    Pressure,
    ReplayPolicy,
    RunbookPolicy,
)
from schemas.topics import INDEX, MIB, OUTPUT, RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from schemas.topics import TopicSpec

_POLICIES: Final = {
    "connection": ConnectionPolicy,
    "delivery": DeliveryPolicy,
    "replay": ReplayPolicy,
    "backpressure": BackpressurePolicy,
    "observability": ObservabilityPolicy,
    "runbooks": RunbookPolicy,
    "order": OrderPolicy,
}


def problems_of_all(kinds: Iterable[Kind], topics: Sequence[TopicSpec]) -> list[str]:
    """Return why kinds may not be served, a line a problem with its kind; empty = they may."""
    return [f"{kind.name}: {problem}" for kind in kinds for problem in problems_of(kind, topics)]


def problems_of(kind: Kind, topics: Sequence[TopicSpec]) -> list[str]:
    """Return why a kind may not be served, a line a problem; empty = it may."""
    problems = _name_problems(kind)
    missing = [
        f"policy {name} is not declared"
        for name, policy in _POLICIES.items()
        if not isinstance(getattr(kind, name, None), policy)
    ]
    if missing:
        return problems + missing
    return [
        *problems,
        *_connection_problems(kind.connection),
        *_delivery_problems(kind.delivery),
        *_replay_problems(kind.replay, topics),
        *_backpressure_problems(kind),
        *_order_problems(kind),
        *_operations_problems(kind),
        *_topic_problems(topics),
    ]


def _name_problems(kind: Kind) -> list[str]:
    try:
        check_kind_name(kind.name)
    except InvalidEvent as error:
        return [str(error)]
    return [] if kind.doc.strip() else ["doc is empty: say what the kind is for"]


def _connection_problems(policy: ConnectionPolicy) -> list[str]:
    problems = [
        f"connection.{field.name} must be positive, is {getattr(policy, field.name)}"
        for field in fields(policy)
        if getattr(policy, field.name) <= 0
    ]
    if policy.heartbeat_ms >= 30_000:
        problems.append("connection.heartbeat_ms must be under 30000: proxies cut idle connections then")
    if policy.idle_timeout_ms > policy.total_timeout_ms:
        problems.append("connection.idle_timeout_ms is longer than total_timeout_ms: it could never strike")
    if policy.drain_ms > policy.connection_life_ms_max:
        problems.append("connection.drain_ms is longer than connection_life_ms_max")
    return problems


def _delivery_problems(policy: DeliveryPolicy) -> list[str]:
    if policy.guarantee in ("at_most_once", "at_least_once"):
        problem = (
            f"delivery.guarantee={policy.guarantee} is not built: an event is taken once by its id, whatever "
            "its kind. Declare exactly_once; a role may repeat itself by SLUICEGATE_WORKER__AT_LEAST_ONCE"
        )
        return [problem]
    if policy.guarantee != "exactly_once":
        return [f"delivery.guarantee must be exactly_once, is {policy.guarantee!r}"]
    return []


def _replay_problems(policy: ReplayPolicy, topics: Sequence[TopicSpec]) -> list[str]:
    bounds = {name: getattr(policy, name) for name in ("history_ms", "history_events", "history_bytes")}
    if not policy.resumable:
        return [
            f"replay.{name} is {value}, but the kind is ephemeral" for name, value in bounds.items() if value
        ]
    problems = [
        f"replay.{name} must be positive for a resumable kind, is {value}"
        for name, value in bounds.items()
        if value <= 0
    ]
    if 0 < policy.history_bytes < MIB:
        problems.append(f"replay.history_bytes is under {MIB}: one event may be as large")
    problems += [
        f"replay.history_ms={policy.history_ms} is longer than {topic.name} "
        f"keeps events (retention_ms={topic.retention_ms})"
        for topic in topics
        if topic.name == OUTPUT.name and 0 <= topic.retention_ms < policy.history_ms
    ]
    return problems


def _backpressure_problems(kind: Kind) -> list[str]:
    policy = kind.backpressure
    problems = []
    for name in ("policy", "then"):
        value = getattr(policy, name)
        if value not in get_args(Pressure) or (name == "then" and value == "slow_producer"):
            problems.append(f"backpressure.{name} cannot be {value!r}")
    problems += [
        f"backpressure.{name} must be positive"
        for name in ("behind_events_max", "behind_bytes_max")
        if getattr(policy, name) <= 0
    ]
    if not 0 < policy.behind_share <= 1:
        problems.append(f"backpressure.behind_share must be over 0 and at most 1, is {policy.behind_share}")
    of_slowing = (policy.behind_share, policy.stall_ms_max, policy.then)
    if policy.policy != "slow_producer" and of_slowing != (1, 0, policy.policy):
        problems.append(
            "backpressure.behind_share, stall_ms_max and then are of slow_producer: "
            f"with {policy.policy} they are 1, 0 and {policy.policy}, for they would change nothing"
        )
    if policy.policy == "slow_producer" and not 0 < policy.stall_ms_max < kind.connection.idle_timeout_ms:
        problems.append(
            "backpressure.stall_ms_max must be positive and under connection.idle_timeout_ms: "
            "a slowed producer would be timed out for being slow"
        )
    if kind.replay.resumable and policy.behind_events_max > kind.replay.history_events:
        problems.append(
            "backpressure.behind_events_max is over replay.history_events: nothing could be resumed"
        )
    return problems


def _order_problems(kind: Kind) -> list[str]:
    policy = kind.order
    problems = [
        f"order.{name} must not be negative"
        for name in ("reorder_events_max", "reorder_ms_max", "dedupe_ttl_ms")
        if getattr(policy, name) < 0
    ]
    if policy.reorder_ms_max >= kind.connection.idle_timeout_ms:
        problems.append(
            "order.reorder_ms_max is not under connection.idle_timeout_ms: "
            "a stream would time out while a missing event is waited for"
        )
    if kind.delivery.guarantee == "exactly_once" and policy.dedupe_ttl_ms == 0:
        problems.append("order.dedupe_ttl_ms is 0, but delivery is exactly_once")
    if policy.rejects not in ("dead_letter", "count"):
        problems.append(f"order.rejects cannot be {policy.rejects!r}")
    return problems


def _operations_problems(kind: Kind) -> list[str]:
    problems = [
        f"runbooks.{field.name} names no page"
        for field in fields(kind.runbooks)
        if not getattr(kind.runbooks, field.name)
    ]
    facts = set(kind.observability.record)
    if lacking := sorted(set(RECORD_FACTS) - facts):
        problems.append(f"observability.record lacks {', '.join(lacking)}")
    if strange := sorted(facts - set(RECORD_FACTS)):
        problems.append(f"observability.record names {', '.join(strange)}, which nothing keeps")
    if kind.observability.freshness_target_ms <= 0:
        problems.append("observability.freshness_target_ms must be positive")
    return problems


def _topic_problems(topics: Sequence[TopicSpec]) -> list[str]:
    found = {topic.name: topic for topic in topics}
    problems = [
        f"topic {spec.name} is missing" for spec in (OUTPUT, INDEX, RECORDS) if spec.name not in found
    ]
    output = found.get(OUTPUT.name)
    if output is not None and "compact" in output.cleanup:
        problems.append(f"topic {output.name} is compacted: events of a stream would vanish unseen")
    return problems
