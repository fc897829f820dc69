"""What is judged of each agent alike: a partition of its history, its offsets, disks and recovery."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.faults.history import AgentHistory, Change, Commit, FaultEnd, StateCopy
    from tests.faults.ledger import Input


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and where this shows first."""

    invariant: str
    partition: int
    offset: int
    """Of the input; of the changelog for what concerns state alone."""
    what: str
    agent: str = ""
    """Empty = the ledger's."""

    def __str__(self) -> str:
        where = f"{self.agent} {self.partition}" if self.agent else str(self.partition)
        return f"{self.invariant} at {where}:{self.offset}: {self.what}"


@dataclass
class Partition:
    """One partition of an agent's history."""

    number: int
    agent: str = ""
    inputs: list[Input] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    copies: list[StateCopy] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    end: int = 0
    """Of the log; where its last input stands, if that is behind it."""

    def found(self, invariant: str, offset: int, what: str) -> Violation:
        """Return a violation in this partition."""
        return Violation(invariant, self.number, offset, what, self.agent)

    @property
    def committed(self) -> int:
        """How far it was ever committed."""
        return max((commit.offset for commit in self.commits), default=0)

    @property
    def units(self) -> dict[int, tuple[int, int]]:
        """What each unit of work committed: from, and up to."""
        found: dict[int, tuple[int, int]] = {}
        start = 0
        for commit in self.commits:
            if commit.unit is not None:  # one that was asked for twice stands twice, under one marker
                found.setdefault(commit.unit, (start, commit.offset))
            start = commit.offset
        return found


def partitions_of(history: AgentHistory, agent: str = "") -> Sequence[Partition]:
    """Return the partitions of which the history has anything."""
    found: dict[int, Partition] = {}

    def of(number: int) -> Partition:
        return found.setdefault(number, Partition(number, agent))

    for given in history.inputs:
        of(given.partition).inputs.append(given)
    for commit in history.commits:
        of(commit.partition).commits.append(commit)
    for change in history.changes:
        of(change.partition).changes.append(change)
    for copy in history.copies:
        of(copy.partition).copies.append(copy)
    for number, end in history.ends.items():
        of(number).end = end
    for number, offset in history.acknowledged:
        of(number).acknowledged.add(offset)
    return [found[number] for number in sorted(found)]


def alike(partition: Partition, faults: Sequence[FaultEnd], budget_s: float) -> Iterator[Violation]:
    """What must hold of any agent's inputs and offsets, whatever it does with them."""
    yield from _is_kept(partition)
    yield from _in_the_log(partition)
    yield from _recovered(partition, faults, budget_s)


def _is_kept(partition: Partition) -> Iterator[Violation]:
    """I1: what was acknowledged is in the log."""
    for offset in partition.acknowledged - {given.offset for given in partition.inputs}:
        yield partition.found("I1", offset, "acknowledged, and not in the log")


def on_disk(partition: Partition) -> Iterator[Violation]:
    """I3: each disk has what the changelog says, and one of them all of it."""
    for copy in partition.copies:
        at_position = fold_changes(c for c in partition.changes if c.offset < copy.position)
        if copy.data != at_position:
            what = f"{copy.where} is not what the changelog says: {difference(copy.data, at_position)}"
            yield partition.found("I3", copy.position, what)
    newest = max((copy.position for copy in partition.copies), default=0)
    last = max((change.offset for change in partition.changes), default=-1)
    if newest <= last:
        what = f"no disk has what was committed up to {last} of the changelog"
        yield partition.found("I3", newest, what)


def fold_changes(changes: Iterable[Change]) -> dict[bytes, bytes]:
    """Return the state that a changelog adds up to."""
    state: dict[bytes, bytes] = {}
    for change in changes:
        if change.value is None:
            state.pop(change.key, None)
        else:
            state[change.key] = change.value
    return state


def difference(found: dict[bytes, bytes], must: dict[bytes, bytes]) -> str:
    """Say by its first key how one state is not the other."""
    key = min(key for key in found.keys() | must.keys() if found.get(key) != must.get(key))
    return f"{key!r} is {found.get(key)!r}, must be {must.get(key)!r}"


def _in_the_log(partition: Partition) -> Iterator[Violation]:
    """I6: committed offsets only grow, and stay within the log."""
    end = max(partition.inputs[-1].offset + 1 if partition.inputs else 0, partition.end)
    reached = 0
    for commit in partition.commits:
        if commit.offset < reached:
            yield partition.found("I6", commit.offset, f"committed after {reached}: it went back")
        reached = max(reached, commit.offset)
    if reached > end:
        yield partition.found("I6", reached, f"committed, and the log ends at {end}")


def _recovered(partition: Partition, faults: Sequence[FaultEnd], budget_s: float) -> Iterator[Violation]:
    """I7: no input waits longer for its commit than the budget, of what is left of it behind the faults."""
    reached: list[int] = []
    seen_s: list[float] = []
    for commit in partition.commits:
        if not reached or commit.offset > reached[-1]:
            reached.append(commit.offset)
            seen_s.append(commit.at_s)
    ends_s = [fault.at_s for fault in faults]
    for given in partition.inputs:
        by = bisect_right(reached, given.offset)
        if by == len(reached):
            return  # nothing has come of the rest: I1 tells
        since_s, since = given.at_s, "its append"
        last = bisect_right(ends_s, seen_s[by]) - 1
        if last >= 0 and ends_s[last] > since_s:
            since_s, since = ends_s[last], faults[last].what
        if (waited_s := seen_s[by] - since_s) > budget_s:
            what = f"committed {waited_s:.1f} s after {since}, the budget is {budget_s:.1f} s"
            yield partition.found("I7", given.offset, what)
