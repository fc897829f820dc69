"""What was recorded of one run under fault: all that the outside can know of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.ledger import Input, Kind
    from tests.faults.tally import Effect


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was made of one input: an output, a verdict or a dead letter, as a committed reader sees it."""

    kind: Kind
    partition: int
    """Of the input; what is made of it stands on the same one, but a dead letter."""
    source_offset: int
    """Of the input."""
    offset: int
    """Of the outcome itself, in its own topic."""
    unit: int | None = None
    """Number of the unit of work that it was made in; None = its maker does not say (dead letters)."""
    event_id: str = ""
    key: bytes = b""
    count: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed offset of the group, as it stands in the group's own log."""

    partition: int
    offset: int
    unit: int | None
    at_s: float = 0.0
    """When it was first seen, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class StateCopy:
    """One partition's state on one worker's disk, with the changelog offset that it says it stands at."""

    where: str
    partition: int
    position: int
    data: dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """A committed record of the changelog; ``value`` None = a tombstone."""

    partition: int
    offset: int
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class FaultEnd:
    """A moment from which on the engine can recover: a worker started or was killed, a frame was let go."""

    what: str
    at_s: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Made:
    """An effect of the tally as a committed reader sees it, and the unit of work that it names."""

    partition: int
    unit: int
    effect: Effect


@dataclass
class AgentHistory:
    """What is recorded of one agent, whatever it does."""

    acknowledged: set[tuple[int, int]] = field(default_factory=set)
    """Partition and offset of each record whose producer was told that it is in."""
    inputs: list[Input] = field(default_factory=list)
    """The input log, each partition in order."""
    commits: list[Commit] = field(default_factory=list)
    """In the order in which they were made."""
    changes: list[Change] = field(default_factory=list)
    copies: list[StateCopy] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    """Where each partition's log ends, where other things than inputs stand in it, too."""


@dataclass
class TallyHistory(AgentHistory):
    """Of the agent of windows."""

    made: list[Made] = field(default_factory=list)
    """In the order in which it stands in each topic."""


@dataclass
class History(AgentHistory):
    """A run, whole: of the ledger, and of the tally beside it."""

    outcomes: list[Outcome] = field(default_factory=list)
    """In the order in which they stand in their topics."""
    tally: TallyHistory = field(default_factory=TallyHistory)
    faults: list[FaultEnd] = field(default_factory=list)
    """In the order in which they ended."""
    budget_s: float = 60.0
    """What a recovery may take."""


def part_of(history: History, is_in: Callable[[int, int], bool]) -> History:
    """Return what a history says of some of its input, given by partition and offset."""
    return replace(
        history,
        acknowledged={at for at in history.acknowledged if is_in(*at)},
        inputs=[each for each in history.inputs if is_in(each.partition, each.offset)],
        outcomes=[each for each in history.outcomes if is_in(each.partition, each.source_offset)],
        commits=[each for each in history.commits if is_in(each.partition, each.offset - 1)],
    )
