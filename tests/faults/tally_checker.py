"""Judges what is recorded of the tally: the windows' totals, closings and late readings, unit by unit."""

from __future__ import annotations

from collections import Counter, defaultdict
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
from tests.faults.tally import AGENT, tally, without_cursors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.history import FaultEnd, Made, TallyHistory
    from tests.faults.tally import Effect


def tally_violations(
    history: TallyHistory, faults: Sequence[FaultEnd], budget_s: float
) -> Iterator[Violation]:
    """Give all violations, each invariant as the ledger's (``checker``) has it."""
    by_partition: dict[int, list[Made]] = defaultdict(list)
    for each in history.made:
        by_partition[each.partition].append(each)
    for partition in partitions_of(history, AGENT):
        made = by_partition[partition.number]
        yield from alike(partition, faults, budget_s)
        yield from _units(partition, made)
        yield from _in_order(partition, made)
        yield from _state(partition)


def _units(partition: Partition, made: list[Made]) -> Iterator[Violation]:
    """I1, I2, I3, I5: a unit shows the effects of the readings that it committed, each once."""
    found: dict[int, Counter[Effect]] = defaultdict(Counter)
    for each in made:
        found[each.unit][each.effect] += 1
    effects = tally(partition.inputs).effects
    for unit, (first, after) in partition.units.items():
        must_be = _of_one_unit([effect for effect in effects if first <= effect.source_offset < after])
        yield from _unit(partition, unit, found.pop(unit, Counter()), must_be)
    for unit, strange in found.items():
        what = f"effects of unit {unit} are visible, which never committed"
        yield partition.found("I5", min(effect.source_offset for effect in strange), what)
    for given in partition.inputs:
        if given.offset >= partition.committed:
            yield partition.found("I1", given.offset, "never committed")
            return


def _of_one_unit(effects: list[Effect]) -> Counter[Effect]:
    """Return what one unit shows: of the totals of a window the last."""
    last = {effect.window: effect for effect in effects if effect.kind == "total"}
    return Counter([*last.values(), *(effect for effect in effects if effect.kind != "total")])


def _unit(
    partition: Partition, unit: int, found: Counter[Effect], must_be: Counter[Effect]
) -> Iterator[Violation]:
    places = {effect[:3] for effect in must_be}
    for effect, times in (found - must_be).items():
        if effect in must_be:
            invariant, what = "I2", f"is there {times + 1} times in unit {unit}"
        elif effect[:3] in places:
            invariant, what = "I3", f"has other sums in unit {unit} than its readings have"
        else:
            invariant, what = "I5", f"stands in unit {unit}, where it has no place"
        yield partition.found(invariant, effect.source_offset, f"{effect} {what}")
    seen = {effect[:3] for effect in found}
    for effect in must_be:
        if effect[:3] not in seen:
            what = f"{effect} is missing from unit {unit}, which has committed"
            yield partition.found("I1", effect.source_offset, what)


def _in_order(partition: Partition, made: list[Made]) -> Iterator[Violation]:
    """I4: totals of a window, and what is said of windows, stand in the order of their readings."""
    last: dict[bytes, int] = {}
    for each in made:
        effect = each.effect
        which = effect.window if effect.kind == "total" else b""
        if effect.source_offset < last.get(which, -1):
            yield partition.found("I4", effect.source_offset, f"{effect} stands behind that of {last[which]}")
        last[which] = max(last.get(which, -1), effect.source_offset)


def _state(partition: Partition) -> Iterator[Violation]:
    """I3: the windows that have not expired, and the watermark, are what the readings make them."""
    must_be = tally(given for given in partition.inputs if given.offset < partition.committed).state
    changelog = without_cursors(fold_changes(partition.changes))
    if changelog != must_be:
        what = f"the changelog adds up to other windows than the readings: {difference(changelog, must_be)}"
        yield partition.found("I3", 0, what)
    yield from on_disk(partition)
