"""Begins and gives up the building of a generation; the record of the role says that it is built.

1. Its topics are made: changelogs, and one beside each output. 2. Each changelog begins with its mark.
3. The record names the attempt, and its group begins where the time says, in one transaction: of two that
begin at once the later one moves nothing. It begins not behind where the one that runs stands: what that has
not handled yet is the new one's to handle, and nothing between may be passed over. Only now do its workers
run. Killed before 3, nothing was begun: the next attempt has its own topics.
"""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

from connectors.kafka.admin import ensure_topics, topic_ids
from connectors.kafka.birth import mark_birth
from connectors.kafka.lag import committed_offsets
from connectors.kafka.members import groups_of
from connectors.kafka.starts import offsets_from
from connectors.kafka.turn import Commits
from ops.errors import Misused
from ops.person import who
from pipelines.deployment import new_row, new_store
from schemas.envelope import TIME_MAX

if TYPE_CHECKING:
    from connectors.kafka.roster import Roster, Row
    from ops.reprocess.plan import Plan
    from schemas.topics import TopicSpec


def begin(plan: Plan, roster: Roster, from_ms: int | None) -> Row:
    """Begin to build, or go on with what was begun; returns the role's record. Blocks for seconds.

    ``from_ms`` None = go on, from whenever it was begun.

    Raises:
        Misused: another generation is built, or this one from another time; or it runs already.
        KafkaUnavailable, NotAuthorized: nothing was begun.
    """
    row = roster.read().get(plan.role)
    if row is not None and row["candidate"]:
        return _same(plan, row, from_ms)
    if from_ms is None:
        raise without_from(plan)
    _see_that_nobody_is_in(plan)
    live = {topic for topic, _partition in committed_offsets(plan.kafka, plan.live_group)}
    if shared := [spec.name for spec in plan.inner if spec.named(plan.kafka.topic_prefix) in live]:
        raise Misused(
            f"{shared[0]}, a topic between agents of {plan.role}, is that of the generation that runs",
            "give it a new version in its name in the mended module: else what runs handles what is built",
        )
    attempt = token_hex(3)
    _make_topics(plan, attempt)
    starts = starts_of(plan, from_ms)

    def decide(before: Row | None) -> Row:
        before = before if before is not None else new_row(plan.role)
        if before["candidate"]:
            return _same(plan, before, from_ms)
        _see_that_nobody_is_in(plan)
        return {
            **before, "candidate": plan.generation, "attempt": attempt, "from_ms": from_ms,
            "cut": starts.cut, "switching": False,
            "stores": [*before["stores"], *_stores(plan, attempt)], "by": who(),
            "reason": f"generation {plan.generation} is built",
        }  # fmt: skip

    kept = roster.change(plan.role, decide, Commits(plan.group, starts.offsets | _ends_between(plan)))
    assert kept is not None
    return kept


def _see_that_nobody_is_in(plan: Plan) -> None:
    if not (group := groups_of(plan.kafka, [plan.group])[plan.group]).is_empty:
        raise Misused(
            f"group {plan.group} has members: {', '.join(member.name for member in group.members)}",
            "stop them first; a static member is one until its session has timed out",
        )


def without_from(plan: Plan) -> Misused:
    """Return the refusal to begin without a time."""
    return Misused(
        f"generation {plan.generation} of {plan.role} is not built yet", "say --from earliest, or a time"
    )


class Starts(NamedTuple):
    """Where a build begins."""

    offsets: dict[tuple[str, int], int]
    """By input topic and partition."""
    cut: bool
    """Whether there was input before one of them that retention has taken."""


def starts_of(plan: Plan, from_ms: int) -> Starts:
    """Return where each input partition of the new generation begins."""
    topics = [spec.named(plan.kafka.topic_prefix) for spec in plan.inputs]
    by_time = offsets_from(plan.kafka, plan.group, topics, from_ms)
    low = by_time if from_ms < 0 else offsets_from(plan.kafka, plan.group, topics, -1)
    live = committed_offsets(plan.kafka, plan.live_group)
    offsets = {at: max(min(offset, live.get(at, low[at])), low[at]) for at, offset in by_time.items()}
    return Starts(offsets, any(offset == low[at] > 0 for at, offset in offsets.items()))


def _ends_between(plan: Plan) -> dict[tuple[str, int], int]:
    """Return the ends of the topics between the agents: what an earlier attempt left there is not its own."""
    topics = [spec.named(plan.kafka.topic_prefix) for spec in plan.inner]
    return offsets_from(plan.kafka, plan.group, topics, TIME_MAX // 1_000)


def discard(plan: Plan, roster: Roster) -> list[str]:
    """Give a generation up; the one that runs has its place as before. Returns the topics that are left over.

    Raises:
        Misused: none is built.
        KafkaUnavailable, NotAuthorized: nobody knows whether it was done; do it again.
    """
    attempt = ""

    def decide(before: Row | None) -> Row:
        nonlocal attempt
        attempt = attempt_in(plan, before)
        assert before is not None
        gone = {changelog.name for changelog in plan.changelogs(attempt)}
        return {
            **before, "candidate": 0, "attempt": "", "from_ms": -1, "cut": False, "switching": False,
            "stores": [store for store in before["stores"] if store["changelog"] not in gone],
            "by": who(), "reason": f"generation {plan.generation} is given up",
        }  # fmt: skip

    roster.change(plan.role, decide)
    return [spec.named(plan.kafka.topic_prefix) for spec in left_over(plan, attempt)]


def attempt_in(plan: Plan, row: Row | None) -> str:
    """Return the attempt that could be given up; raises Misused if there is none."""
    if row is None or row["candidate"] != plan.generation:
        raise Misused(
            f"generation {plan.generation} of {plan.role} is not built", "there is nothing to give up"
        )
    return str(row["attempt"])


def left_over(plan: Plan, attempt: str) -> list[TopicSpec]:
    """Return the topics that are an attempt's alone."""
    return [*plan.changelogs(attempt).values(), *plan.sides(attempt).values()]


def _same(plan: Plan, row: Row, from_ms: int | None) -> Row:
    if row["candidate"] != plan.generation:
        raise Misused(
            f"generation {row['candidate']} of {plan.role} is built already, this code is {plan.generation}",
            f"give it up first, with its own code: `sluicegate reprocess {plan.role} --discard --yes`",
        )
    if from_ms not in (None, row["from_ms"]):
        raise Misused(
            f"generation {plan.generation} of {plan.role} is built from another time already",
            "leave --from out to go on with it, or give it up: "
            f"`sluicegate reprocess {plan.role} --discard --yes`",
        )
    return row


def _make_topics(plan: Plan, attempt: str) -> None:
    changelogs = plan.changelogs(attempt).values()
    ensure_topics(plan.kafka, [*left_over(plan, attempt), *plan.inner])
    for topic in changelogs:
        for partition in range(topic.partitions):
            mark_birth(plan.kafka, topic.named(plan.kafka.topic_prefix), partition)


def _stores(plan: Plan, attempt: str) -> list[dict[str, Any]]:
    schemas = [agent.store for agent in plan.agents if agent.changelog is not None]
    changelogs = plan.changelogs(attempt)
    ids = topic_ids(plan.kafka, [topic.named(plan.kafka.topic_prefix) for topic in changelogs.values()])
    stores = []
    for (changelog, topic), schema in zip(changelogs.items(), schemas, strict=True):
        store = new_store(changelog.name, topic=topic.name, code=schema, marked=True)
        stores.append(store | {"topic_id": ids[topic.named(plan.kafka.topic_prefix)]})
    return stores
