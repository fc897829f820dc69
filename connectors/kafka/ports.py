"""What the coordinator is told, and what it needs of those it works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from schemas.topics import MIB

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.lease import Scope

FailurePolicy = Literal["dead-letter", "stop-partition"]
"""What becomes of an event that an agent cannot handle, after its attempts (``attempts_max``).

``dead-letter``: it is put aside, and its partition goes on. ``stop-partition``: its partition stands still at
it until an operator resumes it or skips the event, for agents whose events must not be passed over.
"""


ATTEMPTS_MAX: Final = 100
"""Bound of ``attempts_max``: a partition waits a quarter of an hour for one event then, by default."""
QUEUE_RECORDS_MAX: Final = 2_000_000
QUEUE_BYTES_MAX: Final = 512 * MIB
"""Bounds of librdkafka's queue of a unit's producer. A unit is bounded by less, and never meets them."""
HANDOVER_BYTES_MAX: Final = 64 * MIB
"""Of records that are handed over to a role's agents, by default; see ``ConsumerOptions``."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause before what failed is tried again: it doubles with each failure in a row, up to a bound."""

    first_ms: int = 100
    ms_max: int = 10_000

    def seconds(self, attempts: int) -> float:
        """Return how long to wait after so many failures in a row."""
        return min(self.first_ms * 2.0 ** min(attempts - 1, 30), self.ms_max) / 1_000


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """When a unit of work ends, and what is tried with an event that fails."""

    commit_interval_ms: int = 100
    stall_ms_max: int = 5_000
    attempts_max: int = 3
    """Of agents that say nothing else of themselves."""
    backoff: Backoff = Backoff()


class Unit(Protocol):
    """What is needed of the unit of work; see ``state.checkpoint.UnitOfWork``."""

    def scope(self, agent: str, partition: int) -> Scope:
        """Return the scope of an assigned partition."""

    def advance(self, source: Any, offset: int, records: int, note: str = "") -> None:
        """Say that ``source`` is handled up to ``offset``; ``note`` is committed beside it."""

    def hand_back(self, source: Any, number: int) -> None:
        """Say that a record that was handed back is handled."""

    @property
    def handbacks(self) -> Mapping[Any, int]:
        """The last hand-back of each assigned partition."""

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
    def records(self) -> int:
        """How many were handled."""

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
