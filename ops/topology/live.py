"""What is known of the roles now: what runs of each, its members, who has which partition, how far behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from connectors.kafka.admin import group_lag
from connectors.kafka.members import groups_of
from connectors.kafka.roster import store_of
from ops.levers import paused_in
from pipelines.generations import changelog_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from connectors.kafka.lag import PartitionLag
    from connectors.kafka.members import Group
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.roster import Row
    from pipelines.blueprint import Blueprint
    from schemas.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One input partition, its topic without prefix."""

    topic: str
    partition: int
    owner: str
    """Name of the member that has it; empty = nobody."""
    paused: bool
    committed: int
    """Next offset that the role will read; -1 = it never committed here."""
    lag_records: int
    lag_s: float

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """One role."""

    state: str
    members: tuple[str, ...]
    partitions: tuple[PartitionFacts, ...]

    def told(self) -> str:
        """Say it in a line."""
        if not self.members:
            return "now: nobody runs it" + ("" if self.partitions else ", and nobody ever did")
        workers = "1 member" if len(self.members) == 1 else f"{len(self.members)} members"
        return f"now: {self.state.replace('_', ' ')}, {workers} ({', '.join(self.members)})"

    def of_topic(self, topic: str) -> Iterator[str]:
        """Say how each partition of a topic is, a line each."""
        for one in self.partitions:
            if one.topic == topic:
                behind = "level" if not one.lag_records else f"{one.lag_records:,} behind, {one.lag_s:.1f} s"
                has = f"{one.owner or 'nobody'} has it" + (", paused" if one.paused else "")
                yield f"[{one.partition}] at {max(one.committed, 0):,}, {behind}; {has}"

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "state": self.state,
            "members": list(self.members),
            "partitions": [one.as_json() for one in self.partitions],
        }


def as_they_run(blueprints: Sequence[Blueprint], roster: Mapping[str, Row]) -> list[Blueprint]:
    """Return the roles with the generation and the changelogs that run, which the code does not know.

    ``roster`` is what is deployed, by role. A migration and a switch give state another topic.
    """
    return [one if (row := roster.get(one.role)) is None else _as_it_runs(one, row) for one in blueprints]


def _as_it_runs(one: Blueprint, row: Row) -> Blueprint:
    def kept(spec: TopicSpec) -> TopicSpec:
        plain = changelog_of(spec, row["generation"])
        store = store_of(row, plain.name)
        return plain if store is None else replace(plain, name=store["topic"])

    agents = tuple(
        agent if agent.changelog is None else replace(agent, changelog=kept(agent.changelog))
        for agent in one.agents
    )
    return replace(one, agents=agents, generation=row["generation"])


def facts_of(blueprints: Sequence[Blueprint], kafka: KafkaOptions) -> dict[str, RoleFacts]:
    """Ask Kafka about each role. Blocks for some seconds. Raises KafkaUnavailable, NotAuthorized."""
    names = {one.role: one.group(kafka.topic_prefix) for one in blueprints}
    groups = groups_of(kafka, list(names.values()))
    paused = {(target.role, target.partition) for target in paused_in(kafka)}
    found = {}
    for one in blueprints:
        group = groups[names[one.role]]
        lags = group_lag(kafka, group.name)
        found[one.role] = _facts(one.role, group, lags, paused, kafka.topic_prefix)
    return found


def _facts(
    role: str,
    group: Group,
    lags: Sequence[PartitionLag],
    paused: set[tuple[str, int | None]],
    prefix: str,
) -> RoleFacts:
    owners = {at: member.name for member in group.members for at in member.partitions}
    behind = {(lag.topic, lag.partition): lag for lag in lags}
    partitions = []
    for at in sorted({*owners, *behind}):
        lag = behind.get(at)
        partitions.append(
            PartitionFacts(
                topic=at[0].removeprefix(prefix),
                partition=at[1],
                owner=owners.get(at, ""),
                paused=bool(paused & {(role, None), (role, at[1])}),
                committed=lag.committed if lag is not None else -1,
                lag_records=lag.records if lag is not None else 0,
                lag_s=round(lag.seconds, 1) if lag is not None else 0.0,
            )
        )
    return RoleFacts(group.state, tuple(member.name for member in group.members), tuple(partitions))
