"""What can go wrong with a worker, before its agents run and around their partitions.

WorkerError
├── UnknownRole           no such role
├── AgentRefused          a user's folder of agents, or one file of it, cannot be used
├── OptionsRefused        settings under which events could be lost, or a web port that is in use
├── DeployRefused         this code does not fit the state or the schemas of what runs
├── PartitionReleased     another worker has the partition: hold still until it is assigned again
├── AgentEnded            an agent's function returned, or raised with no event in hand
└── WorkerStopped         going on could lose or double events
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class WorkerError(SluicegateError):
    """A worker cannot start."""


class UnknownRole(WorkerError):
    """No role of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no role {name!r}", remedy=f"Roles: {', '.join(known)}.")


class AgentRefused(WorkerError):
    """A folder of agents, or one file of it, cannot be used: correct the file that is named."""

    def __init__(self, where: Path, problem: str, remedy: str = "") -> None:
        super().__init__(f"{where}: {problem}", remedy=remedy or "Correct that file.")


class OptionsRefused(WorkerError):
    """Settings under which events could be lost, or a web port in use. Operator: change them as it says."""

    remedy = "Change the settings that it names."


class DeployRefused(WorkerError):
    """Code that would break what runs: another start changes nothing. Operator: as it says."""

    fatal = True


class PartitionReleased(WorkerError):
    """Another worker has the partition. Operator: nothing, unless it repeats; then see the cause."""

    transient = True


class AgentEnded(WorkerError):
    """An agent's function returned, or raised with no event in hand: nobody would read its topic any more."""

    fatal = True


class WorkerStopped(WorkerError):
    """Going on could lose or double events. Operator: do as the cause says, then start it again."""

    fatal = True
