"""What reprocessing a role does: its generations, topics and groups, and what speaks against it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ops.errors import Misused
from pipelines.blueprint import ROLES, blueprint
from pipelines.generations import (
    attempt_of,
    between,
    changelog_of,
    group_of,
    outputs_of,
    side_topics,
)
from schemas.published import time_text

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.roster import Row
    from pipelines.blueprint import Agent
    from pipelines.extension import Extension
    from schemas.topics import TopicSpec

_AGO: Final = re.compile(r"(\d+)(s|m|h|d)")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
EARLIEST: Final = "earliest"


@dataclass(frozen=True, slots=True)
class Plan:
    """One role's next generation and the one that runs."""

    role: str
    live: int
    generation: int
    agents: tuple[Agent, ...]
    kafka: KafkaOptions

    @property
    def live_group(self) -> str:
        """Group of the generation that runs."""
        return group_of(self.kafka.topic_prefix, self.role, self.live)

    @property
    def group(self) -> str:
        """Group of the generation that is built."""
        return group_of(self.kafka.topic_prefix, self.role, self.generation)

    @property
    def inputs(self) -> tuple[TopicSpec, ...]:
        """Topics that are read from others."""
        inner = between(self.agents)
        return tuple(agent.reads for agent in self.agents if agent.reads not in inner)

    @property
    def inner(self) -> tuple[TopicSpec, ...]:
        """Topics between its own agents."""
        return between(self.agents)

    def loss(self, from_ms: int, *, cut: bool) -> str:
        """Say what is not in a build from a time on (milliseconds; -1 = earliest); empty = nothing.

        ``cut``: retention had taken input before it began.
        """
        said = []
        if from_ms >= 0 and any(agent.changelog is not None for agent in self.agents):
            said.append(f"state from before {time_text(from_ms * 1_000)} is not in it")
        if cut:
            said.append("what retention had taken of its input is not in it")
        return "; ".join(said)

    def changelogs(self, attempt: str) -> dict[TopicSpec, TopicSpec]:
        """Return the changelogs as the new code names them, and the topics of an attempt that hold them."""
        given = [agent.changelog for agent in self.agents if agent.changelog is not None]
        return {
            changelog_of(spec, self.generation): attempt_of(spec, self.generation, attempt) for spec in given
        }

    def sides(self, attempt: str) -> dict[TopicSpec, TopicSpec]:
        """Return each output, and the topic that has its place until the switch."""
        return side_topics(self.agents, self.generation, attempt)

    def superseding(self, attempt: str) -> dict[TopicSpec, TopicSpec]:
        """Return the outputs of which the latest of a key counts: what was rebuilt is given out in them."""
        sides = self.sides(attempt)
        return {spec: sides[spec] for spec in outputs_of(self.agents) if "compact" in spec.cleanup}


def plan_of(role: str, extension: Extension, kafka: KafkaOptions, row: Row | None) -> Plan:
    """Return what would be built of a role by this code.

    Raises:
        Misused: it is none of the user's, is not of a later generation, or cannot be built beside.
    """
    if role in ROLES:
        raise Misused(
            f"{role} is sluicegate's own, and its outputs are named by clients' cursors and the archive",
            "reprocess agents of your own; a mistake of sluicegate's is mended with its next version",
        )
    if role not in extension.roles:
        raise Misused(
            f"there is no role {role!r} of yours",
            f"name one of {', '.join(extension.roles)}" if extension.roles else "set SLUICEGATE_PIPELINES",
        )
    live = row["generation"] if row is not None else 1
    generation = extension.generation(role)
    if generation <= live:
        raise Misused(
            f"this code is generation {generation} of {role}, and what runs is {live}",
            f"say GENERATION = {live + 1} in the module that is mended: old code cannot take its place then",
        )
    plan = Plan(role, live, generation, blueprint(role, extension, kafka).agents, kafka)
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    for agent in plan.agents:
        if agent.sink:
            raise Misused(
                f"{agent.name} writes to {agent.sink}: what is outside of Kafka cannot be held back",
                "give the mended agent a new name, and its sink a new table",
            )
    single = [spec.name for spec in outputs_of(plan.agents) if "compact" not in spec.cleanup]
    if plan.inner and single:
        raise Misused(
            f"{plan.role} has a topic between its agents ({plan.inner[0].name}) and an output that is not "
            f"compacted ({single[0]}): which of its records are out already cannot be told",
            "split it into two roles, or have the output compacted",
        )


def is_ago(text: str) -> bool:
    """Say whether a TIME says how long ago, and so another time each time it is said."""
    return _AGO.fullmatch(text) is not None


def from_ms_of(text: str, now_ms: int | None = None, *, option: str = "--from") -> int:
    """Return milliseconds since the epoch of a TIME: ``earliest`` (-1), ISO 8601, or so long ago (``90m``).

    Raises:
        Misused: it is none, or is not in the past.
    """
    now_ms = int(time.time() * 1_000) if now_ms is None else now_ms
    if text == EARLIEST:
        return -1
    remedy = "give `earliest`, a time with its zone as in 2026-05-01T08:00:00Z, or how long ago: 90m, 6h, 3d"
    if ago := _AGO.fullmatch(text):
        return now_ms - int(ago[1]) * _UNITS_S[ago[2]] * 1_000
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise Misused(f"{option} {text!r} is no time", remedy) from None
    if when.tzinfo is None:
        raise Misused(f"{option} {text!r} has no zone", remedy)
    if (from_ms := int(when.timestamp() * 1_000)) > now_ms:
        raise Misused(f"{option} {text!r} is not in the past", remedy)
    return from_ms
