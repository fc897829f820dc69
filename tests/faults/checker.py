"""Judges a recorded history by the invariants; knows nothing of the engine that made it.

| | invariant |
|---|---|
| I1 | each acknowledged input has its outcome: output, duplicate, late or dead letter |
| I2 | no input has two |
| I3 | state on disk = fold of the committed input = fold of the changelog |
| I4 | outputs of a key stand in the order of its inputs |
| I5 | what is visible was made in a unit of work that committed, whole, with its offsets |
| I6 | committed offsets never go back, and never pass an input that has no outcome |
| I7 | each input is committed within the budget, from its append or the end of the last fault before that |

Of each invariant and partition the smallest witness is reported: the lowest offset.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.faults.judgement import (
    Partition,
    Violation,
    alike,
    difference,
    fold_changes,
    on_disk,
    partitions_of,
)
from tests.faults.ledger import fold
from tests.faults.tally_checker import tally_violations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.history import History, Outcome
    from tests.faults.ledger import Fold


def check(history: History) -> list[Violation]:
    """Return the smallest witness of each invariant, agent and partition; empty = all hold."""
    smallest: dict[tuple[str, str, int], Violation] = {}
    for found in _violations(history):
        which = (found.invariant, found.agent, found.partition)
        if which not in smallest or found.offset < smallest[which].offset:
            smallest[which] = found
    return [smallest[which] for which in sorted(smallest)]


def _violations(history: History) -> Iterator[Violation]:
    outcomes: dict[int, list[Outcome]] = defaultdict(list)
    for outcome in history.outcomes:
        outcomes[outcome.partition].append(outcome)
    for partition in partitions_of(history):
        done, made = fold(partition.inputs), outcomes[partition.number]
        by_source: dict[int, list[Outcome]] = defaultdict(list)
        for outcome in made:
            by_source[outcome.source_offset].append(outcome)
        yield from alike(partition, history.faults, history.budget_s)
        yield from _conserved(partition, done, by_source)
        yield from _once(partition, made, by_source)
        yield from _state(partition, done, made)
        yield from _in_order(partition, made)
        yield from _whole_units(partition, by_source)
        yield from _skipped(partition, by_source)
    yield from tally_violations(history.tally, history.faults, history.budget_s)


def _conserved(partition: Partition, done: Fold, by_source: dict[int, list[Outcome]]) -> Iterator[Violation]:
    """I1: what is in the log has the outcome that it must have."""
    for offset, expected in done.expected.items():
        outcomes = by_source.get(offset, [])
        if not outcomes:
            yield partition.found("I1", offset, f"no outcome, must be {expected.kind}")
        elif outcomes[0].kind != expected.kind:
            yield partition.found("I1", offset, f"is {outcomes[0].kind}, must be {expected.kind}")
    for offset in by_source.keys() - done.expected.keys():
        yield partition.found("I1", offset, f"{by_source[offset][0].kind} of what was never an input")


def _once(
    partition: Partition, made: list[Outcome], by_source: dict[int, list[Outcome]]
) -> Iterator[Violation]:
    """I2: one outcome an input, one output an event id."""
    for offset, outcomes in by_source.items():
        if len(outcomes) > 1:
            yield partition.found("I2", offset, f"{len(outcomes)} outcomes: {[o.kind for o in outcomes]}")
    first: dict[str, int] = {}
    for outcome in made:
        if outcome.kind == "output" and first.setdefault(outcome.event_id, outcome.source_offset) != (
            outcome.source_offset
        ):
            what = f"event {outcome.event_id} was output for {first[outcome.event_id]}, too"
            yield partition.found("I2", outcome.source_offset, what)


def _state(partition: Partition, done: Fold, made: list[Outcome]) -> Iterator[Violation]:
    """I3: what an output saw, what the changelog adds up to, and what stands on each disk."""
    for outcome in made:
        expected = done.expected.get(outcome.source_offset)
        if outcome.kind != "output" or expected is None or expected.kind != "output":
            continue
        saw, must = (outcome.count, outcome.total), (expected.count, expected.total)
        if saw != must:
            what = f"state of {outcome.key!r} was {saw} at this output, must be {must}"
            yield partition.found("I3", outcome.source_offset, what)
    if not partition.changes and not partition.copies:
        return
    must_be = fold(given for given in partition.inputs if given.offset < partition.committed).state
    changelog = fold_changes(partition.changes)
    if changelog != must_be:
        what = f"the changelog adds up to another state than the input: {difference(changelog, must_be)}"
        yield partition.found("I3", 0, what)
    yield from on_disk(partition)


def _in_order(partition: Partition, made: list[Outcome]) -> Iterator[Violation]:
    """I4: a key's outputs stand in the order of its inputs."""
    last: dict[bytes, int] = {}
    for outcome in made:
        if outcome.kind != "output":
            continue
        before = last.get(outcome.key, -1)
        if outcome.source_offset < before:
            what = f"output of key {outcome.key!r} stands behind that of {before}"
            yield partition.found("I4", outcome.source_offset, what)
        last[outcome.key] = max(before, outcome.source_offset)


def _whole_units(partition: Partition, by_source: dict[int, list[Outcome]]) -> Iterator[Violation]:
    """I5: what says that it was made in a unit stands before the offset that this unit committed."""
    committed = partition.units
    for offset, outcomes in by_source.items():
        for unit in {outcome.unit for outcome in outcomes if outcome.unit is not None}:
            if unit not in committed:
                what = f"{outcomes[0].kind} of unit {unit} is visible, which never committed"
                yield partition.found("I5", offset, what)
            elif not committed[unit][0] <= offset < committed[unit][1]:
                first, after = committed[unit]
                what = f"{outcomes[0].kind} of unit {unit}, which committed {first} to {after}: it is torn"
                yield partition.found("I5", offset, what)


def _skipped(partition: Partition, by_source: dict[int, list[Outcome]]) -> Iterator[Violation]:
    """I6: committed offsets pass nothing that has no outcome."""
    for given in partition.inputs:
        if given.offset < partition.committed and given.offset not in by_source:
            what = f"skipped: {partition.committed} is committed, and nothing came of it"
            yield partition.found("I6", given.offset, what)
