"""The same in a terminal: a tree a role, in which each topic says who is at its other end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.topology.graph import readers_of, writers_of
from schemas.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ops.topology.live import RoleFacts
    from pipelines.blueprint import Agent, Blueprint
    from schemas.topics import TopicSpec

_WORD = 9  # width of the longest of reads, state, writes, sink, ticks, idle


def lines_of(
    chosen: Sequence[Blueprint],
    everything: Sequence[Blueprint],
    prefix: str,
    assignment: str,
    facts: Mapping[str, RoleFacts] | None = None,
) -> Iterator[str]:
    """Give the lines of the chosen roles; with ``facts`` what is known of them now."""
    for one in chosen:
        yield f"{one.role}  (group {one.group(prefix)})"
        now = facts.get(one.role) if facts is not None else None
        if now is not None:
            yield f"│  {now.told()}"
        for agent in one.agents:
            last = agent is one.agents[-1] and len(one.agents) == 1
            yield from _agent(agent, everything, now, last=last)
        if len(one.agents) > 1:
            yield f"└─ {_co_partitioned(one, assignment)}"
        yield ""
    yield f"Every agent may put a record aside in {DEAD_LETTERS.named(prefix)}."


def _agent(
    agent: Agent, blueprints: Sequence[Blueprint], now: RoleFacts | None, *, last: bool
) -> Iterator[str]:
    stem = "   " if last else "│  "
    yield f"{'└─' if last else '├─'} {agent.name}"
    rows = [("reads", _topic(agent.reads, "from", writers_of(agent.reads, blueprints)))]
    if agent.changelog is not None:
        rows.append(("state", _topic(agent.changelog, "", ())))
    rows += [("writes", _topic(spec, "to", readers_of(spec, blueprints))) for spec in agent.appends]
    if agent.ticks:
        rows.append(("ticks", f"moves time on idle partitions of {agent.reads.name}"))
    if agent.idle_ms:
        rows.append(("idle", f"counts the silence of {agent.reads.name}, each {agent.idle_ms:,} ms"))
    if agent.sink:
        rows.append(("sink", agent.sink))
    if now is not None:
        rows += [("now", told) for told in now.of_topic(agent.reads.name)]
    for row in rows:
        yield f"{stem}{'└─' if row is rows[-1] else '├─'} {row[0]:<{_WORD}}{row[1]}"


def _topic(spec: TopicSpec, word: str, others: Sequence[str]) -> str:
    return f"{spec.name} ({spec.partitions})" + (f"  {word} {', '.join(others)}" if others else "")


def _co_partitioned(one: Blueprint, assignment: str) -> str:
    if one.partitions is None:
        counts = ", ".join(f"{agent.reads.name} ({agent.reads.partitions})" for agent in one.agents)
        return f"not co-partitioned: {counts}"
    if assignment == "cooperative-sticky":
        return f"{one.partitions} partitions each; worker.assignment={assignment} may part equal numbers"
    return f"co-partitioned: {one.partitions} partitions each, equal numbers go to one worker"
