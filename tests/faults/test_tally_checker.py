"""The checker finds mistakes in what is recorded of the agent of windows."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.checker import check
from tests.faults.history import Change, Commit, FaultEnd, History, Made, StateCopy, TallyHistory
from tests.faults.ledger import Entry, Input
from tests.faults.tally import AGENT, CLOSED_UP_TO, WINDOW_MS, tally

if TYPE_CHECKING:
    from collections.abc import Callable

UNIT = 3
"""Readings in a unit of work."""
READINGS = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from([b"a", b"b"]), st.integers(-1_500, 700), st.integers(0, 500)
    ),
    max_size=40,
)
ENDING = [(b"a", 0), (b"a", 1), (b"b", 2), (b"a", 9_000), (b"a", 9_001), (b"a", 9_002), (b"a", 0)]
"""Two totals of a window in one unit, one of another, and a unit that closes both; a reading that is late."""


def history_of(readings: list[tuple[int, bytes, int, int]]) -> History:
    """What an engine that makes no mistake leaves of these: partition, key, time and amount each."""
    inputs: dict[int, list[Input]] = {0: [], 1: []}
    time_ms = 1_000_000
    for number, key, ahead_ms, amount in readings:
        time_ms += max(ahead_ms, 0)
        offset = len(inputs[number])
        entry = Entry("", key, 0, time_ms + min(ahead_ms, 0), amount)
        inputs[number].append(Input(number, offset, entry, float(offset)))
    told = TallyHistory()
    for number, log in inputs.items():
        while len(log) % UNIT:
            log.append(replace(log[-1], offset=len(log)))
        base_ms = (time_ms // WINDOW_MS + 20) * WINDOW_MS
        for key, after_ms in ENDING:
            log.append(Input(number, len(log), Entry("", key, 0, base_ms + after_ms, 7), float(len(log))))
        told.inputs += log
        told.acknowledged |= {(number, each.offset) for each in log}
        record(told, number, log)
    return History(faults=[FaultEnd("a fault", 5.0)], tally=told)


def record(told: TallyHistory, number: int, log: list[Input]) -> None:
    state: dict[bytes, bytes] = {}
    offset = 0
    for first in range(0, len(log), UNIT):
        after = min(first + UNIT, len(log))
        unit = 100 + first
        told.commits.append(Commit(number, after, unit, first + 4.0))
        done = tally(log[:after])
        new = [effect for effect in done.effects if effect.source_offset >= first]
        last = {effect.window: effect for effect in new if effect.kind == "total"}
        told.made += [Made(number, unit, effect) for effect in last.values()]
        told.made += [Made(number, unit, effect) for effect in new if effect.kind != "total"]
        now = done.state | {CLOSED_UP_TO: b"%d" % first}
        for key in sorted(state.keys() | now.keys()):
            if state.get(key) != now.get(key):
                told.changes.append(Change(number, offset, key, now.get(key)))
                offset += 1
        state = now
    told.copies.append(StateCopy("disk", number, offset, state))


histories = READINGS.map(history_of)


@given(histories)
def test_a_history_without_a_mistake_violates_nothing(history):
    assert check(history) == []


def one_of(history: History, rng: random.Random, *kinds: str) -> int:
    made = history.tally.made
    return rng.choice(
        [at for at, each in enumerate(made) if each.effect.kind in (kinds or (each.effect.kind,))]
    )


def loses_an_effect(history: History, rng: random.Random) -> None:
    del history.tally.made[one_of(history, rng)]


def loses_an_acknowledged_reading(history: History, rng: random.Random) -> None:
    history.tally.acknowledged.add((0, 10_000))


def leaves_readings_unhandled(history: History, rng: random.Random) -> None:
    history.tally.commits.pop()


def doubles_an_effect(history: History, rng: random.Random) -> None:
    made = history.tally.made
    at = one_of(history, rng)
    made.insert(at, made[at])


def adds_up_wrong(history: History, rng: random.Random) -> None:
    made = history.tally.made
    at = one_of(history, rng, "total", "closed")
    effect = made[at].effect
    made[at] = replace(made[at], effect=effect._replace(total=effect.total + 1))


def tells_what_was_superseded(history: History, rng: random.Random) -> None:
    made = history.tally.made
    shown = {(each.partition, *each.effect[:3]) for each in made}
    for number in (0, 1):
        given = [each for each in history.tally.inputs if each.partition == number]
        for effect in tally(given).effects:
            if (number, *effect[:3]) not in shown:
                unit = 100 + effect.source_offset - effect.source_offset % UNIT
                made.append(Made(number, unit, effect))
                return


def closes_a_window_again(history: History, rng: random.Random) -> None:
    made = history.tally.made
    again = made[one_of(history, rng, "closed")]
    effect = again.effect._replace(source_offset=again.effect.source_offset + 1)
    made.append(replace(again, effect=effect))


def shows_an_aborted_unit(history: History, rng: random.Random) -> None:
    made = history.tally.made
    at = one_of(history, rng)
    made[at] = replace(made[at], unit=7)


def tears_a_unit(history: History, rng: random.Random) -> None:
    made = history.tally.made
    at = next(at for at, each in enumerate(made) if each.unit != 100)
    made[at] = replace(made[at], unit=100)


def swaps_two_of_a_window(history: History, rng: random.Random) -> None:
    by_window: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for at, each in enumerate(history.tally.made):
        by_window[each.partition, each.effect.window if each.effect.kind == "total" else b""].append(at)
    made = history.tally.made
    for places in by_window.values():
        one, other = places[0], places[-1]
        if made[one].effect.source_offset < made[other].effect.source_offset:
            made[one], made[other] = made[other], made[one]
            return


def forgets_a_window(history: History, rng: random.Random) -> None:
    windows = [change for change in history.tally.changes if change.key.startswith(b"ww")]
    history.tally.changes.remove(windows[-1])


def leaves_another_state(history: History, rng: random.Random) -> None:
    at = rng.randrange(len(history.tally.copies))
    copy = history.tally.copies[at]
    history.tally.copies[at] = replace(copy, data={**copy.data, b"wwx": b""})


def goes_back(history: History, rng: random.Random) -> None:
    history.tally.commits.append(Commit(0, 1, 999))


def commits_past_the_end(history: History, rng: random.Random) -> None:
    history.tally.commits.append(Commit(1, 10_000, 999))


def recovers_too_late(history: History, rng: random.Random) -> None:
    late_s = history.budget_s + history.faults[-1].at_s
    told = history.tally
    told.commits = [replace(commit, at_s=commit.at_s + late_s) for commit in told.commits]


MUTATIONS: list[tuple[Callable[[History, random.Random], None], str]] = [
    (loses_an_effect, "I1"),
    (loses_an_acknowledged_reading, "I1"),
    (leaves_readings_unhandled, "I1"),
    (doubles_an_effect, "I2"),
    (adds_up_wrong, "I3"),
    (forgets_a_window, "I3"),
    (leaves_another_state, "I3"),
    (swaps_two_of_a_window, "I4"),
    (tells_what_was_superseded, "I5"),
    (closes_a_window_again, "I5"),
    (shows_an_aborted_unit, "I5"),
    (tears_a_unit, "I5"),
    (goes_back, "I6"),
    (commits_past_the_end, "I6"),
    (recovers_too_late, "I7"),
]


@pytest.mark.parametrize(
    ("mutate", "invariant"), MUTATIONS, ids=lambda given: getattr(given, "__name__", given)
)
@settings(max_examples=30)  # of each of the mistakes
@given(history=histories, chance=st.integers(0, 2**32))
def test_a_mistake_in_a_history_is_found_by_its_name(history, chance, mutate, invariant):
    mutate(history, random.Random(chance))
    assert (invariant, AGENT) in {(violation.invariant, violation.agent) for violation in check(history)}
