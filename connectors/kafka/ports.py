"""What the coordinator is told, and what it needs of those it works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.lease import Scope


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """When a unit of work ends, and what is tried with an event that fails."""

    commit_interval_ms: int = 100
    stall_ms_max: int = 5_000
    attempts_max: int = 3


class Unit(Protocol):
    """What is needed of the unit of work; see ``state.checkpoint.UnitOfWork``."""

    def scope(self, agent: str, partition: int) -> Scope:
        """Return the scope of an assigned partition."""

    def advance(self, source: Any, offset: int, records: int) -> None:
        """Say that ``source`` is handled up to ``offset``."""

    def commit(self) -> Any:
        """Commit and return what was done; blocks."""

    def settle(self) -> None:
        """End what an aborted unit may have left open; blocks."""

    def drop(self) -> None:
        """Forget what is staged."""

    @property
    def positions(self) -> Mapping[Any, int]:
        """The next source offsets."""

    @property
    def empty(self) -> bool:
        """Nothing was handled."""

    @property
    def full(self) -> bool:
        """It holds as much as one transaction should."""


class Partitions(Protocol):
    """Opens and closes what stands behind a partition: state, scope, start position."""

    def open(self, source: SourcePartition, cancelled: threading.Event) -> int:
        """Restore the state of ``source`` and return the offset to begin at; blocks."""

    def ready(self, source: SourcePartition) -> None:
        """Make the scope; on the loop, right before the first delivery."""

    def close(self, source: SourcePartition) -> None:
        """Let go of the scope and the state; on the loop."""
