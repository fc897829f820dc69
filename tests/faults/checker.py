"""Judges a recorded history by the invariants; knows nothing of the engine that made it.

| | invariant |
|---|---|
| I1 | each acknowledged input has its outcome: output, duplicate, late or dead letter |
| I2 | no input has two |
| I3 | state on disk = fold of the committed input = fold of the changelog |
| I4 | outputs of a key stand in the order of its inputs |
| I5 | what is visible was made in a unit of work that committed, whole, with its offsets |
| I6 | committed offsets never go back, and never pass an input that has no outcome |
| I7 | the engine has caught up within its budget |

Of each invariant and partition the smallest witness is reported: the lowest offset.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.faults.ledger import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.faults.history import Change, Commit, History, Outcome, StateCopy
    from tests.faults.ledger import Fold, Input


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and where this shows first."""

    invariant: str
    partition: int
    offset: int
    """Of the input; of the changelog for what concerns state alone."""
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.partition}:{self.offset}: {self.what}"


def check(history: History) -> list[Violation]:
    """Return the smallest witness of each invariant and partition that is violated; empty = all hold."""
    smallest: dict[tuple[str, int], Violation] = {}
    for found in _violations(history):
        which = (found.invariant, found.partition)
        if which not in smallest or found.offset < smallest[which].offset:
            smallest[which] = found
    return [smallest[which] for which in sorted(smallest)]


@dataclass
class _Partition:
    """One partition of a history, with what must come of it."""

    number: int
    inputs: list[Input] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    copies: list[StateCopy] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)

    def found(self, invariant: str, offset: int, what: str) -> Violation:
        return Violation(invariant, self.number, offset, what)


def _violations(history: History) -> Iterator[Violation]:
    for partition in _by_partition(history):
        done = fold(partition.inputs)
        by_source: dict[int, list[Outcome]] = defaultdict(list)
        for outcome in partition.outcomes:
            by_source[outcome.source_offset].append(outcome)
        yield from _conserved(partition, done, by_source)
        yield from _once(partition, by_source)
        yield from _state(partition, done)
        yield from _in_order(partition)
        yield from _whole_units(partition, by_source)
        yield from _offsets(partition, by_source)
    recovery = history.recovery
    if recovery is not None and recovery.took_s > recovery.budget_s:
        what = f"caught up after {recovery.took_s:.1f} s, the budget is {recovery.budget_s:.1f} s"
        yield Violation("I7", -1, 0, what)


def _by_partition(history: History) -> Sequence[_Partition]:
    found: dict[int, _Partition] = {}

    def of(number: int) -> _Partition:
        return found.setdefault(number, _Partition(number))

    for given in history.inputs:
        of(given.partition).inputs.append(given)
    for outcome in history.outcomes:
        of(outcome.partition).outcomes.append(outcome)
    for commit in history.commits:
        of(commit.partition).commits.append(commit)
    for change in history.changes:
        of(change.partition).changes.append(change)
    for copy in history.copies:
        of(copy.partition).copies.append(copy)
    for number, offset in history.acknowledged:
        of(number).acknowledged.add(offset)
    return [found[number] for number in sorted(found)]


def _conserved(partition: _Partition, done: Fold, by_source: dict[int, list[Outcome]]) -> Iterator[Violation]:
    """I1: what was acknowledged is in the log, and what is in the log has the outcome that it must have."""
    for offset in partition.acknowledged - done.expected.keys():
        yield partition.found("I1", offset, "acknowledged, and not in the log")
    for offset, expected in done.expected.items():
        outcomes = by_source.get(offset, [])
        if not outcomes:
            yield partition.found("I1", offset, f"no outcome, must be {expected.kind}")
        elif outcomes[0].kind != expected.kind:
            yield partition.found("I1", offset, f"is {outcomes[0].kind}, must be {expected.kind}")
    for offset in by_source.keys() - done.expected.keys():
        yield partition.found("I1", offset, f"{by_source[offset][0].kind} of what was never an input")


def _once(partition: _Partition, by_source: dict[int, list[Outcome]]) -> Iterator[Violation]:
    """I2: one outcome an input, one output an event id."""
    for offset, outcomes in by_source.items():
        if len(outcomes) > 1:
            yield partition.found("I2", offset, f"{len(outcomes)} outcomes: {[o.kind for o in outcomes]}")
    first: dict[str, int] = {}
    for outcome in partition.outcomes:
        if outcome.kind == "output" and first.setdefault(outcome.event_id, outcome.source_offset) != (
            outcome.source_offset
        ):
            what = f"event {outcome.event_id} was output for {first[outcome.event_id]}, too"
            yield partition.found("I2", outcome.source_offset, what)


def _state(partition: _Partition, done: Fold) -> Iterator[Violation]:
    """I3: what an output saw, what the changelog adds up to, and what stands on each disk."""
    for outcome in partition.outcomes:
        expected = done.expected.get(outcome.source_offset)
        if outcome.kind != "output" or expected is None or expected.kind != "output":
            continue
        saw, must = (outcome.count, outcome.total), (expected.count, expected.total)
        if saw != must:
            what = f"state of {outcome.key!r} was {saw} at this output, must be {must}"
            yield partition.found("I3", outcome.source_offset, what)
    if not partition.changes and not partition.copies:
        return
    committed = max((commit.offset for commit in partition.commits), default=0)
    must_be = fold(given for given in partition.inputs if given.offset < committed).state
    changelog = _fold_changes(partition.changes)
    if changelog != must_be:
        what = f"the changelog adds up to another state than the input: {_difference(changelog, must_be)}"
        yield partition.found("I3", 0, what)
    for copy in partition.copies:
        at_position = _fold_changes(c for c in partition.changes if c.offset < copy.position)
        if copy.data != at_position:
            what = f"{copy.where} is not what the changelog says: {_difference(copy.data, at_position)}"
            yield partition.found("I3", copy.position, what)
    newest = max((copy.position for copy in partition.copies), default=0)
    last = max((change.offset for change in partition.changes), default=-1)
    if newest <= last:
        what = f"no disk has what was committed up to {last} of the changelog"
        yield partition.found("I3", newest, what)


def _fold_changes(changes: Iterable[Change]) -> dict[bytes, bytes]:
    state: dict[bytes, bytes] = {}
    for change in changes:
        if change.value is None:
            state.pop(change.key, None)
        else:
            state[change.key] = change.value
    return state


def _difference(found: dict[bytes, bytes], must: dict[bytes, bytes]) -> str:
    key = min(key for key in found.keys() | must.keys() if found.get(key) != must.get(key))
    return f"{key!r} is {found.get(key)!r}, must be {must.get(key)!r}"


def _in_order(partition: _Partition) -> Iterator[Violation]:
    """I4: a key's outputs stand in the order of its inputs."""
    last: dict[bytes, int] = {}
    for outcome in partition.outcomes:
        if outcome.kind != "output":
            continue
        before = last.get(outcome.key, -1)
        if outcome.source_offset < before:
            what = f"output of key {outcome.key!r} stands behind that of {before}"
            yield partition.found("I4", outcome.source_offset, what)
        last[outcome.key] = max(before, outcome.source_offset)


def _whole_units(partition: _Partition, by_source: dict[int, list[Outcome]]) -> Iterator[Violation]:
    """I5: what says that it was made in a unit stands before the offset that this unit committed."""
    committed: dict[int, tuple[int, int]] = {}
    start = 0
    for commit in partition.commits:
        if commit.unit is not None:  # one that was asked for twice stands twice, under one marker
            committed.setdefault(commit.unit, (start, commit.offset))
        start = commit.offset
    for offset, outcomes in by_source.items():
        for unit in {outcome.unit for outcome in outcomes if outcome.unit is not None}:
            if unit not in committed:
                what = f"{outcomes[0].kind} of unit {unit} is visible, which never committed"
                yield partition.found("I5", offset, what)
            elif not committed[unit][0] <= offset < committed[unit][1]:
                first, after = committed[unit]
                what = f"{outcomes[0].kind} of unit {unit}, which committed {first} to {after}: it is torn"
                yield partition.found("I5", offset, what)


def _offsets(partition: _Partition, by_source: dict[int, list[Outcome]]) -> Iterator[Violation]:
    """I6: committed offsets only grow, stay within the log, and pass nothing that has no outcome."""
    end = partition.inputs[-1].offset + 1 if partition.inputs else 0
    reached = 0
    offsets = [given.offset for given in partition.inputs]
    for commit in partition.commits:
        if commit.offset < reached:
            yield partition.found("I6", commit.offset, f"committed after {reached}: it went back")
        reached = max(reached, commit.offset)
    if reached > end:
        yield partition.found("I6", reached, f"committed, and the log ends at {end}")
    for offset in offsets:
        if offset < reached and offset not in by_source:
            yield partition.found("I6", offset, f"skipped: {reached} is committed, and nothing came of it")
