"""Who touches which topic: the table behind `sluicegate topics acls` and the check at a start.

A role that reads or writes another topic than it did needs its line changed here; under a broker that denies
by default, `tests/integration/test_secured_kafka.py` fails without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from schemas.topics import (
    ACCOUNT_ATTEMPTS_CHANGELOG,
    ACCOUNT_STREAMS_CHANGELOG,
    ACCOUNT_TASKS_CHANGELOG,
    ACCOUNT_WINDOWS_CHANGELOG,
    AGGREGATE_PARTIALS_CHANGELOG,
    AGGREGATE_WINDOWS_CHANGELOG,
    AUDIT,
    CONNECTIONS,
    CONTROLS,
    DEAD_LETTERS,
    DEAD_REPLAYS,
    DEPLOYED,
    INDEX,
    INGEST_STREAMS_CHANGELOG,
    INPUT,
    LATE_EVENTS,
    LLM_ATTEMPTS,
    LLM_CONTENTS,
    LLM_CONTROL,
    LLM_PARTIALS,
    LLM_PROMPTS,
    LLM_RAW,
    LLM_REQUESTS,
    LLM_ROUTES,
    LLM_TASK_PARTS,
    LLM_TASKS,
    LLM_WINDOWS,
    OUTPUT,
    PRESSURE,
    RECORDS,
    REJECTS,
    REVOCATIONS,
    TAKES_AGAIN,
    USAGE_PARTIALS,
    USAGE_WINDOWS,
    stem_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from schemas.topics import TopicSpec

ROSTER: Final = "sluicegate.roster"
"""The transactional id, behind the prefix, of whoever changes what is deployed: one at a time."""
Resource = Literal["topic", "group", "transactional-id"]
Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]

_OF_STEMS: Final[tuple[Operation, ...]] = ("Read", "Write", "Create", "DescribeConfigs")

EDGE: Final = "edge"
LLM: Final = "llm"
OPERATOR: Final = "operator"
RESPONDER: Final = "responder"
PRODUCER: Final = "producer"


@dataclass(frozen=True, slots=True)
class Access:
    """What one role does with topics."""

    reads: tuple[TopicSpec, ...] = ()
    writes: tuple[TopicSpec, ...] = ()
    changelogs: tuple[TopicSpec, ...] = ()
    """Read at a restore, written with each unit of work."""

    def operations(self) -> dict[str, tuple[Operation, ...]]:
        """Return what is done with each topic, by its name without prefix. Each implies Describe.

        What a changelog keeps is looked up at a start: a cleanup that deletes would lose state.
        """
        changelogs = {spec.name for spec in self.changelogs}
        read = {spec.name for spec in (*self.reads, *self.changelogs)}
        written = {spec.name for spec in (*self.writes, *self.changelogs)}
        found: dict[str, tuple[Operation, ...]] = {}
        for name in sorted(read | written):
            found[name] = (
                ("Read", "Write") if name in read & written else ("Read",) if name in read else ("Write",)
            )
            if name in changelogs:
                found[name] = (*found[name], "DescribeConfigs")
        return found


ROLES: Final[Mapping[str, Access]] = {
    "ingest": Access(
        reads=(INPUT,),
        writes=(INPUT, OUTPUT, INDEX, RECORDS, REJECTS, LLM_CONTROL, DEAD_LETTERS),  # the input: ticks
        changelogs=(INGEST_STREAMS_CHANGELOG,),
    ),
    "aggregate": Access(
        reads=(OUTPUT, USAGE_PARTIALS),
        writes=(OUTPUT, USAGE_PARTIALS, USAGE_WINDOWS, DEAD_LETTERS, LATE_EVENTS),  # the output: ticks
        changelogs=(AGGREGATE_PARTIALS_CHANGELOG, AGGREGATE_WINDOWS_CHANGELOG),
    ),
    "archive": Access(
        reads=(RECORDS, USAGE_WINDOWS, LLM_ATTEMPTS, LLM_CONTENTS, LLM_WINDOWS, LLM_TASKS, CONNECTIONS),
        writes=(DEAD_LETTERS,),
    ),
    "account": Access(
        reads=(LLM_ATTEMPTS, LLM_PARTIALS, OUTPUT, LLM_TASK_PARTS),
        writes=(LLM_PARTIALS, LLM_WINDOWS, LLM_TASK_PARTS, LLM_TASKS, DEAD_LETTERS, LATE_EVENTS),
        changelogs=(
            ACCOUNT_ATTEMPTS_CHANGELOG,
            ACCOUNT_WINDOWS_CHANGELOG,
            ACCOUNT_STREAMS_CHANGELOG,
            ACCOUNT_TASKS_CHANGELOG,
        ),
    ),
}
OF_EVERY_ROLE: Final = Access(reads=(CONTROLS, DEPLOYED, DEAD_REPLAYS, DEAD_LETTERS), writes=(DEPLOYED,))
"""Beside its own: which partitions an operator paused, what is deployed of it, what is handed back to it."""
OF_EDGE: Final = Access(
    reads=(OUTPUT, INDEX, REJECTS, REVOCATIONS, PRESSURE, LLM_ROUTES),
    writes=(INPUT, LLM_REQUESTS, PRESSURE, CONNECTIONS),
)
OF_LLM: Final = Access(
    reads=(LLM_REQUESTS, LLM_CONTROL, LLM_ATTEMPTS, LLM_ROUTES, LLM_PROMPTS),
    writes=(INPUT, LLM_ATTEMPTS, LLM_CONTENTS, LLM_RAW, DEAD_LETTERS),
)
OF_PRODUCER: Final = Access(writes=(INPUT,))
OF_RESPONDER: Final = Access(
    # What stands in any other topic is handed back to its agent by a record of dead.replays.v1.
    writes=(
        CONTROLS,
        AUDIT,
        REVOCATIONS,
        DEAD_REPLAYS,
        LLM_ROUTES,
        LLM_PROMPTS,
        *sorted(TAKES_AGAIN, key=lambda spec: spec.name),
    ),
)


@dataclass(frozen=True, slots=True)
class Grant:
    """One thing that a role must be allowed: one line of an ACL."""

    role: str
    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False
    """Whether ``name`` is the beginning of many names."""


def role_grants(role: str, access: Access, prefix: str) -> list[Grant]:
    """Return what a worker's role needs; ``prefix`` is that of topics and groups.

    No IdempotentWrite: since Kafka 2.8 (KIP-679) Write on any topic is enough for it.
    """
    group = f"{prefix}sluicegate.{role}"
    grants = [
        *_topic_grants(role, access, prefix),
        *_topic_grants(role, OF_EVERY_ROLE, prefix),
        Grant(role, "Read", "group", group),
        Grant(role, "Describe", "group", f"{prefix}sluicegate-tail"),
        Grant(role, "Describe", "group", f"{prefix}sluicegate-reader"),
    ]
    if access.changelogs:
        grants.append(Grant(role, "Describe", "group", f"{prefix}sluicegate-restore"))
        # A migration, or the next generation, has a group and topics of its own beside these.
        grants.append(Grant(role, "Read", "group", f"{group}.", prefixed=True))
        for spec in access.changelogs:
            stem = prefix + stem_of(spec.name)
            grants += [Grant(role, one, "topic", stem, prefixed=True) for one in _OF_STEMS]
    # A worker's slot ends the id: two workers of a role have two.
    grants.append(Grant(role, "Write", "transactional-id", f"{group}.", prefixed=True))
    return [*grants, Grant(role, "Write", "transactional-id", f"{prefix}{ROSTER}")]


def edge_grants(prefix: str) -> list[Grant]:
    """Return what an edge needs. Its groups are never joined: librdkafka asks where they are all the same."""
    return [
        *_topic_grants(EDGE, OF_EDGE, prefix),
        Grant(EDGE, "Describe", "group", f"{prefix}sluicegate-tail"),
        Grant(EDGE, "Describe", "group", f"{prefix}sluicegate-replay"),
        Grant(EDGE, "Write", "transactional-id", f"{prefix}sluicegate.append.", prefixed=True),
    ]


def llm_grants(prefix: str) -> list[Grant]:
    """Return what a worker that calls language models needs."""
    group = f"{prefix}sluicegate.{LLM}"
    return [
        *_topic_grants(LLM, OF_LLM, prefix),
        Grant(LLM, "Read", "group", group),
        Grant(LLM, "Describe", "group", f"{prefix}sluicegate-tail"),
        Grant(LLM, "Describe", "group", f"{prefix}sluicegate-reader"),
        Grant(LLM, "Write", "transactional-id", f"{group}.", prefixed=True),
    ]


def producer_grants(prefix: str) -> list[Grant]:
    """Return what a Kafka client that publishes needs; ids of its own transactions are its own to add."""
    return _topic_grants(PRODUCER, OF_PRODUCER, prefix)


def responder_grants(prefix: str, topics: Iterable[TopicSpec], roles: Sequence[str]) -> list[Grant]:
    """Return what who acts needs: all of an operator's, and what the levers and `dlq replay` write."""
    groups = [f"{prefix}sluicegate.{role}" for role in roles]
    return [
        *operator_grants(prefix, topics, roles, RESPONDER),
        *_topic_grants(RESPONDER, OF_RESPONDER, prefix),
        # `accept-loss` sets a role's position behind records that are gone.
        *(Grant(RESPONDER, "Read", "group", group) for group in groups),
        *(Grant(RESPONDER, "Read", "group", f"{group}.", prefixed=True) for group in groups),
        Grant(RESPONDER, "Write", "transactional-id", f"{prefix}sluicegate.lever.", prefixed=True),
        Grant(RESPONDER, "Write", "transactional-id", f"{prefix}sluicegate.dead-letter-replay"),
    ]


def operator_grants(
    prefix: str, topics: Iterable[TopicSpec], roles: Sequence[str], name: str = OPERATOR
) -> list[Grant]:
    """Return what `topics create | list | describe | read`, `lag`, `levers`, `dlq list | show` need."""
    operations: tuple[Operation, ...] = ("Create", "Read", "DescribeConfigs")
    groups = [f"{prefix}sluicegate.{role}" for role in roles]
    return [
        *(Grant(name, operation, "topic", spec.named(prefix)) for spec in topics for operation in operations),
        *(Grant(name, "Describe", "group", group) for group in (*groups, f"{prefix}sluicegate-reader")),
        # What asks for a role's lag, and its later generations.
        *(Grant(name, "Describe", "group", f"{group}.", prefixed=True) for group in groups),
    ]


def _topic_grants(role: str, access: Access, prefix: str) -> list[Grant]:
    return [
        Grant(role, operation, "topic", prefix + name)
        for name, operations in access.operations().items()
        for operation in operations
    ]
