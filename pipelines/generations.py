"""Names of what belongs to one generation of a role: its group, its folder, its changelogs and side topics.

The first generation has the plain names. Each later one stands beside it, so that it can be built while the
one before runs: docs/adr/0010-reprocessing.md.
"""

from __future__ import annotations

import re
from dataclasses import replace
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from connectors.kafka.outputs import Outputs
from schemas.topics import DEAD_LETTERS, TOPICS, beside, stem_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipelines.blueprint import Agent
    from schemas.topics import TopicSpec

FIRST: Final = 1
_TARGET: Final = re.compile(r"\.s\d+-[0-9a-f]{6}\.v\d+$")


def group_of(prefix: str, role: str, generation: int) -> str:
    """Return the full name of a generation's consumer group."""
    return f"{prefix}sluicegate.{folder_of(role, generation)}"


def folder_of(role: str, generation: int) -> str:
    """Return the name of a generation's folder of state."""
    return role if generation == FIRST else f"{role}.g{generation}"


def changelog_of(spec: TopicSpec, generation: int) -> TopicSpec:
    """Return the changelog as a generation's code names it."""
    return spec if generation == FIRST else beside(spec, f"g{generation}")


def target_of(changelog: TopicSpec, version: int) -> TopicSpec:
    """Return a topic for what a migration makes of a changelog: each time one that never was before."""
    return beside(changelog, f"s{version}-{token_hex(3)}")


def is_target(changelog: TopicSpec) -> bool:
    """Tell whether a changelog was made by a migration."""
    return _TARGET.search(changelog.name) is not None


def attempt_of(spec: TopicSpec, generation: int, attempt: str) -> TopicSpec:
    """Return the topic that an attempt to build a generation has in a topic's place."""
    return beside(spec, f"g{generation}-{attempt}")


def between(agents: Sequence[Agent]) -> tuple[TopicSpec, ...]:
    """Return the topics that one agent of a role writes for another: no output of the role's."""
    written = {spec for agent in agents for spec in agent.appends}
    return tuple(agent.reads for agent in agents if agent.reads in written)


def outputs_of(agents: Sequence[Agent]) -> tuple[TopicSpec, ...]:
    """Return what a role says to others, dead letters apart."""
    inner = between(agents)
    return tuple(dict.fromkeys(spec for agent in agents for spec in agent.appends if spec not in inner))


def side_topics(agents: Sequence[Agent], generation: int, attempt: str) -> dict[TopicSpec, TopicSpec]:
    """Return where the outputs of a generation go while it is built, dead letters among them.

    One of sluicegate's own topics is held back under a name that the role may write by its ACLs.
    """
    outputs = outputs_of(agents)
    own = [spec for spec in outputs if spec not in TOPICS]
    changelogs = [agent.changelog for agent in agents if agent.changelog is not None]
    stem = stem_of(next(iter((*changelogs, *own)), DEAD_LETTERS).name)
    sides = {spec: attempt_of(spec, generation, attempt) for spec in own}
    for spec in (*outputs, DEAD_LETTERS):
        sides.setdefault(spec, replace(spec, name=f"{stem}g{generation}-{attempt}.{spec.name}"))
    return sides


def held_back(
    agents: Sequence[Agent], changelogs: Sequence[TopicSpec], generation: int, attempt: str
) -> Outputs:
    """Return where a generation that is not live yet may write: to its own topics alone."""
    sides = side_topics(agents, generation, attempt)
    own = (*changelogs, *between(agents))
    return Outputs(
        {spec.name: side.name for spec, side in sides.items()}, frozenset(spec.name for spec in own)
    )
