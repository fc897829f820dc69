"""The checker finds what is planted: into recorded histories, and into a real engine that then runs."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.kafka.options import KafkaOptions
from tests.faults.checker import check
from tests.faults.history import Change, Commit, FaultEnd, History, Outcome, StateCopy
from tests.faults.ledger import BALANCE, INPUT, Entry, Expected, Fold, Input, state_key
from tests.faults.plants import LATE_S
from tests.faults.tally import AGENT, READINGS
from tests.faults.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.run import Run

ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 1),  # partition
        st.integers(0, 2),  # key
        st.sampled_from(["new", "new", "new", "repeat", "old", "poison"]),
        st.integers(0, 500),
    ),
    min_size=8,
    max_size=40,
)


class Engine:
    """An engine in a few lines that makes no mistake: it writes the history that a good one leaves."""

    def __init__(self) -> None:
        self.history = History(faults=[FaultEnd("a fault", at_s) for at_s in (0.0, 5.0)])
        self._folds: dict[int, Fold] = {}
        self._ids: dict[tuple[int, int], str] = {}
        self._offsets = {"output": 0, "changelog": 0}

    def publish(self, partition: int, key: int, what: str, amount: int) -> None:
        done = self._folds.setdefault(partition, Fold())
        offset = len(done.expected)
        event_id = f"{partition}-{offset}"
        if what == "repeat":
            event_id = self._ids.get((partition, key), event_id)
        self._ids[partition, key] = event_id
        time_ms = 1 if what == "old" else 1_000_000 + offset
        name = b"%d/%d" % (partition, key)
        entry = None if what == "poison" else Entry(event_id, name, offset, time_ms, amount)
        self.history.inputs.append(Input(partition, offset, entry, float(offset)))
        self.history.acknowledged.add((partition, offset))
        before = dict(done.state)
        done.add(self.history.inputs[-1])
        self._effects(partition, offset, entry, done.expected[offset], before)

    def _effects(
        self, partition: int, offset: int, entry: Entry | None, expected: Expected, before: dict[bytes, bytes]
    ) -> None:
        unit = 100 + offset // 3
        made = (partition, offset, self._next("output"))
        if entry is None:
            self.history.outcomes.append(Outcome("dead", *made))
        else:
            count = (expected.count, expected.total)
            self.history.outcomes.append(
                Outcome(expected.kind, *made, unit, entry.event_id, entry.key, *count)
            )
        for key, value in self._folds[partition].state.items():
            if before.get(key) != value:
                self.history.changes.append(Change(partition, self._next("changelog"), key, value))

    def _next(self, topic: str) -> int:
        self._offsets[topic] += 1
        return self._offsets[topic]

    def end(self) -> History:
        """Commit units of three records each, and leave the state on two disks, one of them older."""
        history = self.history
        for number, done in self._folds.items():
            end = len(done.expected)
            history.commits += [
                Commit(number, min(first + 3, end), 100 + first // 3, first + 4.0)
                for first in range(0, end, 3)
            ]
            changes = [change for change in history.changes if change.partition == number]
            history.copies.append(StateCopy("new", number, self._offsets["changelog"] + 1, done.state))
            older: dict[bytes, bytes] = {}
            for change in changes[: len(changes) // 2]:
                assert change.value is not None
                older[change.key] = change.value
            if len(changes) > 1:
                history.copies.append(StateCopy("old", number, changes[len(changes) // 2].offset, older))
        return history


@st.composite
def histories(draw: st.DrawFn) -> History:
    engine = Engine()
    for partition, key, what, amount in draw(ENTRIES):
        engine.publish(partition, key, what, amount)
    for partition in (0, 1):  # two outputs of one key in each, so that every defect has its place
        for _ in range(2):
            engine.publish(partition, 7, "new", 3)
    return engine.end()


@given(histories())
def test_a_history_without_a_mistake_violates_nothing(history):
    assert check(history) == []


@given(histories())
def test_a_commit_that_was_asked_for_twice_and_stands_twice_violates_nothing(history):
    history.commits.insert(1, history.commits[0])
    assert check(history) == []


def outputs(history: History) -> list[int]:
    return [at for at, outcome in enumerate(history.outcomes) if outcome.kind == "output"]


def loses_an_outcome(history: History, rng: random.Random) -> None:
    del history.outcomes[rng.randrange(len(history.outcomes))]


def loses_an_acknowledged_record(history: History, rng: random.Random) -> None:
    last = max(given.offset for given in history.inputs if given.partition == 0)
    history.acknowledged.add((0, last + 1))


def makes_one_up(history: History, rng: random.Random) -> None:
    history.outcomes.append(replace(history.outcomes[0], source_offset=10_000, event_id="nobody's"))


def makes_it_late(history: History, rng: random.Random) -> None:
    at = rng.choice(outputs(history))
    history.outcomes[at] = replace(history.outcomes[at], kind="late")


def doubles_an_outcome(history: History, rng: random.Random) -> None:
    history.outcomes.append(rng.choice(history.outcomes))


def takes_a_repeat_for_new(history: History, rng: random.Random) -> None:
    one, other = (at for at in outputs(history) if history.outcomes[at].key == b"0/7")
    history.outcomes[other] = replace(history.outcomes[other], event_id=history.outcomes[one].event_id)


def miscounts(history: History, rng: random.Random) -> None:
    at = rng.choice(outputs(history))
    history.outcomes[at] = replace(history.outcomes[at], count=history.outcomes[at].count + 1)


def forgets_a_change(history: History, rng: random.Random) -> None:
    balances = [c for c in history.changes if c.key.startswith(b"k/")]
    history.changes.remove(balances[-1])


def writes_another_state(history: History, rng: random.Random) -> None:
    at = rng.randrange(len(history.copies))
    copy = history.copies[at]
    history.copies[at] = replace(copy, data=copy.data | {state_key(b"0/7"): BALANCE.pack(77, 7)})


def keeps_an_old_disk_alone(history: History, rng: random.Random) -> None:
    history.copies = [copy for copy in history.copies if copy.where == "old"]


def swaps_two_of_a_key(history: History, rng: random.Random) -> None:
    one, other = (at for at in outputs(history) if history.outcomes[at].key == b"0/7")
    found = history.outcomes
    found[one], found[other] = found[other], found[one]


def shows_an_aborted_unit(history: History, rng: random.Random) -> None:
    at = rng.choice(outputs(history))
    history.outcomes[at] = replace(history.outcomes[at], unit=7)


def tears_a_unit(history: History, rng: random.Random) -> None:
    at = next(at for at in outputs(history) if history.outcomes[at].source_offset >= 3)
    history.outcomes[at] = replace(history.outcomes[at], unit=100)


def goes_back(history: History, rng: random.Random) -> None:
    history.commits.append(Commit(0, 0, 999))


def commits_past_the_end(history: History, rng: random.Random) -> None:
    history.commits.append(Commit(1, 10_000, 999))


def recovers_too_late(history: History, rng: random.Random) -> None:
    late_s = history.budget_s + history.faults[-1].at_s
    history.commits = [replace(commit, at_s=commit.at_s + late_s) for commit in history.commits]


def stands_still(history: History, rng: random.Random) -> None:
    which = rng.choice(history.commits)
    since_s = max(which.at_s, history.faults[-1].at_s)
    at = history.commits.index(which)
    history.commits[at] = replace(which, at_s=since_s + history.budget_s + 5.0)


MUTATIONS: list[tuple[Callable[[History, random.Random], None], str]] = [
    (loses_an_outcome, "I1"),
    (loses_an_outcome, "I6"),
    (loses_an_acknowledged_record, "I1"),
    (makes_one_up, "I1"),
    (makes_it_late, "I1"),
    (doubles_an_outcome, "I2"),
    (takes_a_repeat_for_new, "I2"),
    (miscounts, "I3"),
    (forgets_a_change, "I3"),
    (writes_another_state, "I3"),
    (keeps_an_old_disk_alone, "I3"),
    (swaps_two_of_a_key, "I4"),
    (shows_an_aborted_unit, "I5"),
    (tears_a_unit, "I5"),
    (goes_back, "I6"),
    (commits_past_the_end, "I6"),
    (recovers_too_late, "I7"),
    (stands_still, "I7"),
]


@pytest.mark.parametrize(
    ("mutate", "invariant"), MUTATIONS, ids=lambda given: getattr(given, "__name__", given)
)
@settings(max_examples=40)  # of each of the mistakes
@given(history=histories(), chance=st.integers(0, 2**32))
def test_a_mistake_in_a_history_is_found_by_its_name(history, chance, mutate, invariant):
    mutate(history, random.Random(chance))
    assert invariant in {violation.invariant for violation in check(history)}


def test_the_smallest_witness_is_reported():
    engine = Engine()
    for _ in range(9):
        engine.publish(0, 1, "new", 5)
    history = engine.end()
    history.outcomes = [outcome for outcome in history.outcomes if outcome.source_offset not in (3, 5, 8)]
    found = [violation for violation in check(history) if violation.invariant == "I1"]
    assert [str(violation) for violation in found] == ["I1 at 0:3: no outcome, must be output"]


OF_TALLY = {"leaves_an_agent_out": 0, "closes_again": 1, "tells_each_total": 2}
"""Planted into the second agent of the units of work: the first has no part in it."""
PLANTED = [
    ({"commits_without_outputs": 0, "outputs_twice": 1, "seeks_past": 2, "forgets_changes": 3} | OF_TALLY, 0),
    ({"swaps_events": 0, "commits_go_back": 1, "shows_what_was_aborted": 2}, 2),
]
"""Plants with their partitions, and how many of them strike once and say so."""
FOUND = {
    "commits_without_outputs": "I1",
    "outputs_twice": "I2",
    "seeks_past": "I6",
    "forgets_changes": "I3",
    "swaps_events": "I4",
    "commits_go_back": "I6",
    "shows_what_was_aborted": "I5",
    "leaves_an_agent_out": "I1",
    "closes_again": "I5",
    "tells_each_total": "I5",
}


@pytest.mark.parametrize(("planted", "once"), PLANTED, ids=["effects", "order"])
def test_a_defect_in_a_real_engine_is_found_where_it_was_planted(run: Run, planted, once):
    run.begin()
    worker = run.worker(planted=planted)
    run.until(lambda: worker.says.count("planted ") == once, "each defect striking")
    run.until_committed(2_000)
    run.until_units(READINGS, 2)  # windows that close again do so in the unit behind the one they closed in
    run.settle()
    found = check(run.history)
    places = {plant: (AGENT if plant in OF_TALLY else "", number) for plant, number in planted.items()}
    for plant, where in places.items():
        assert (FOUND[plant], *where) in {(v.invariant, v.agent, v.partition) for v in found}, plant
    assert not [v for v in found if (v.agent, v.partition) not in places.values()]


@pytest.mark.slow_fault
def test_state_that_is_on_the_disk_before_its_unit_committed_is_found(run: Run):
    run.begin()
    run.worker(planted={"stores_before_the_commit": 4}).end()
    run.worker()
    run.until_committed(2_000)
    run.settle()
    assert "I3" in {violation.invariant for violation in check(run.history)}


@pytest.mark.slow_fault
def test_a_partition_that_is_handled_too_late_after_a_restart_is_found(run: Run):
    run.begin()
    worker = run.worker()
    run.until_committed(1_000)
    worker.kill()
    run.worker(planted={"begins_late": 2})
    run.settle(budget_s=LATE_S - 5.0)
    assert {(found.invariant, found.partition) for found in check(run.history)} == {("I7", 2)}


def test_an_offset_that_no_look_saw_counts_as_committed_now():
    watch = Watch(KafkaOptions("127.0.0.1:1"), "nobody", INPUT)  # not started: Kafka is away from it
    before = time.time()
    assert before <= watch.seen_s(INPUT.name, 0, 5) <= time.time()
    assert watch.seen_s(INPUT.name, 0, 0) <= before, "it began there"
    watch._consumer.close()
