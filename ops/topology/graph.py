"""The graph that is drawn: agents and topics as nodes, who reads and writes what as edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from schemas.access import OF_EDGE, OF_LLM, Access
from schemas.topics import CONNECTIONS, DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipelines.blueprint import Agent, Blueprint
    from schemas.topics import TopicSpec

Shape = Literal["agent", "topic", "outside"]
EDGE_IN: Final = "edge (producers)"
EDGE_OUT: Final = "edge (clients)"
LLM_IN: Final = "llm (calls)"
LLM_OUT: Final = "llm (worker)"
_OUTSIDE: Final[Mapping[str, Access]] = {
    EDGE_IN: Access(writes=tuple(spec for spec in OF_EDGE.writes if spec != CONNECTIONS)),
    EDGE_OUT: Access(reads=OF_EDGE.reads, writes=(CONNECTIONS,)),  # of its clients
    LLM_IN: Access(writes=OF_LLM.writes),
    LLM_OUT: Access(reads=OF_LLM.reads),
}
"""Who is at the topics beside the agents; each in two, as the way of an event leads from one to the other."""


@dataclass(frozen=True, slots=True)
class Node:
    """Something that is drawn; ``key`` is unique."""

    key: str
    shape: Shape
    title: str
    notes: tuple[str, ...] = ()
    role: str = ""
    """Of an agent."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order of the way of an event, as far as it has one, and edges by their keys."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]


def graph_of(blueprints: Sequence[Blueprint]) -> Graph:
    """Return what the roles are made of, with the edge at both ends; the same input gives the same graph."""
    agents = [(one.role, agent) for one in blueprints for agent in one.agents]
    topics = list(dict.fromkeys(spec for _, agent in agents for spec in (agent.reads, *agent.appends)))
    nodes = [_agent(role, agent) for role, agent in agents]
    nodes += [_topic(spec) for spec in topics]
    edges = [(_key(agent.reads), _name(role, agent)) for role, agent in agents]
    edges += [(_name(role, agent), _key(spec)) for role, agent in agents for spec in agent.appends]
    for sink in dict.fromkeys(agent.sink for _, agent in agents if agent.sink):
        nodes.append(Node(f"sink {sink}", "outside", sink))
        edges += [(_name(role, agent), f"sink {sink}") for role, agent in agents if agent.sink == sink]
    for name, access in _OUTSIDE.items():
        touched = [(name, _key(spec)) for spec in access.writes if spec in topics]
        touched += [(_key(spec), name) for spec in access.reads if spec in topics]
        if touched:
            nodes.append(Node(name, "outside", name))
            edges += touched
    return Graph(tuple(nodes), tuple(dict.fromkeys(edges)))


def writers_of(spec: TopicSpec, blueprints: Iterable[Blueprint]) -> list[str]:
    """Return who appends to a topic, by name: agents, and what is beside them."""
    found = [agent.name for one in blueprints for agent in one.agents if spec in agent.appends]
    return found + [name for name, access in _OUTSIDE.items() if spec in access.writes]


def readers_of(spec: TopicSpec, blueprints: Iterable[Blueprint]) -> list[str]:
    """Return who reads a topic, by name: agents, and what is beside them."""
    found = [agent.name for one in blueprints for agent in one.agents if spec == agent.reads]
    return found + [name for name, access in _OUTSIDE.items() if spec in access.reads]


def as_json(chosen: Sequence[Blueprint], everything: Sequence[Blueprint], prefix: str) -> dict[str, object]:
    """Return the chosen roles and their topics as plain values, topics by their full names."""
    specs = dict.fromkeys(
        spec
        for one in chosen
        for agent in one.agents
        for spec in (agent.reads, *agent.appends, *((agent.changelog,) if agent.changelog else ()))
    )
    return {
        "roles": [
            {
                "role": one.role,
                "group": one.group(prefix),
                "generation": one.generation,
                "co_partitioned": one.partitions is not None,
                "agents": [
                    {
                        "agent": agent.name,
                        "reads": agent.reads.named(prefix),
                        "writes": [spec.named(prefix) for spec in agent.appends],
                        "changelog": agent.changelog.named(prefix) if agent.changelog else None,
                        "ticks": agent.ticks,
                        "idle_ms": agent.idle_ms or None,
                        "sink": agent.sink or None,
                    }
                    for agent in one.agents
                ],
            }
            for one in chosen
        ],
        "topics": [
            {
                "topic": spec.named(prefix),
                "partitions": spec.partitions,
                "cleanup": spec.cleanup,
                "subject": spec.subject or None,
                "written_by": writers_of(spec, everything),
                "read_by": readers_of(spec, everything),
            }
            for spec in specs
        ],
        "dead_letters": DEAD_LETTERS.named(prefix),
    }


def _agent(role: str, agent: Agent) -> Node:
    notes = [f"role {role}"]
    if agent.changelog is not None:
        notes.append(f"state: {agent.changelog.name}")
    if agent.ticks:
        notes.append("moves time on idle partitions")
    if agent.idle_ms:
        notes.append("counts the silence of partitions")
    return Node(_name(role, agent), "agent", agent.name, tuple(notes), role)


def _topic(spec: TopicSpec) -> Node:
    return Node(_key(spec), "topic", spec.name, (f"{spec.partitions} partitions, {spec.cleanup}",))


def _name(role: str, agent: Agent) -> str:
    return f"agent {role}/{agent.name}"


def _key(spec: TopicSpec) -> str:
    return f"topic {spec.name}"
