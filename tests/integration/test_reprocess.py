"""A role with a mistake is rebuilt beside itself and switched, under live events: none is lost or doubled."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from ops.errors import REFUSED
from schemas.wire import WireCodec
from tests.support.totals_agent import OUTPUT, QUIET, write_agent, write_quiet
from tests.support.totals_user import TotalsUser

if TYPE_CHECKING:
    from collections.abc import Iterator

WRONG, RIGHT = 2, 1  # what an event counts as


@pytest.fixture
def user(tmp_path, stack, kafka_options, registry, topics) -> Iterator[TotalsUser]:
    topics(OUTPUT)
    with TotalsUser(tmp_path, stack, kafka_options, WireCodec(registry)) as running:
        try:
            yield running
        finally:
            running.end_live()


@pytest.mark.timeout(240)
def test_wrong_sums_are_right_after_the_switch_and_no_event_is_lost_or_doubled(user: TotalsUser) -> None:
    wrong = write_agent(user.folder / "wrong", step=WRONG)
    mended = write_agent(user.folder / "mended", step=RIGHT, more="\nGENERATION = 2\n")
    old = user.start_worker(wrong, log="old")
    user.until_ready("old")
    user.publish(4_000)
    user.begin_live()

    # A dry run says what would be done; the mended code does not run on the state that is wrong
    user.code(mended)
    code, out, err = user.run("reprocess", "totals", "--from", "earliest")
    assert code == 0, err
    assert "generation 1 runs, this code is generation 2" in out
    assert "totals.results.v1; at the switch its keys are given out as they were rebuilt" in out
    assert "totals.seen.v1; at the switch what is out stays as it is" in out
    assert user.start_worker(mended, log="early").wait(60) == REFUSED
    assert "what runs is generation 1" in user.log("early")

    # It is built, and interrupted meanwhile; the one that runs goes on
    first = user.reprocess(mended, "--from", "earliest", "--yes", log="first")
    user.until_said("builds in process", "first")
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    assert old.poll() is None

    # A worker with the mended code builds now; then the switch
    new = user.start_worker(mended, log="new")
    user.until_ready("new")
    built = user.reprocess(mended, "--yes", log="built")
    assert built.wait(90) == 0, user.log("built")
    assert "as far as generation 1" in user.log("built")
    assert "`sluicegate reprocess totals --switch --yes` gives it the place" in user.log("built")
    by_now = user.seen(user.published, deadline_s=4.0)
    assert set(by_now.values()) == {1}, "held back: nothing is out twice"
    switch = user.reprocess(mended, "--switch", "--yes", "--json", log="switch")
    assert switch.wait(150) == 0, user.log("switch")
    told = [json.loads(line) for line in user.log("switch").splitlines()]
    assert any(one.get("told") == "generation 2 is live" for one in told)
    assert old.wait(30) == 0, "it made way, and its worker had nothing else to do"
    user.until_ready("new", 8)

    # Live events flow on through the new one; then all is compared
    user.publish(400)
    user.end_live()
    found = user.seen(user.published)
    assert len(found) == user.published
    assert set(found.values()) == {1}, "each event was told of once, by one of the two"
    user.until_right("new")
    for key, said in user.sums(user.keys).items():
        given_out = [at for at, (a, b) in enumerate(pairwise(said)) if b < a]
        assert len(given_out) == 1, f"{key}: from wrong sums to right ones, once"
        after = said[given_out[0] + 1 :]
        assert after == list(range(after[0], user.right_sums()[key] + 1)), "then one by one"

    # The old code cannot take its place again
    assert user.start_worker(wrong, log="again").wait(60) == REFUSED
    assert "generation 2 has taken its place" in user.log("again")
    user.stop(new)


@pytest.mark.timeout(240)
def test_what_closed_by_silence_before_the_switch_does_not_close_again_after_it(user: TotalsUser) -> None:
    first = write_quiet(user.folder / "first")
    mended = write_quiet(user.folder / "mended", generation=2)
    user.start_worker(first, log="old", role="quiet")
    user.until_ready("old")
    user.publish(1)  # it becomes a dead letter
    user.publish(2 * user.keys - 1)
    told = {key: [2] for key in user.right_sums()} | {"default/s-0": [1]}
    user.until(lambda: user.sums(user.keys, QUIET) == told, "each key is said to be quiet", log="old")

    # A rebuild reads the letter's event, too: so it goes back to the first generation, and not to the second
    code, out, err = user.run("dlq", "replay", "--all")
    assert (code, "would go back to quiet, " in out) == (0, True), err
    user.code(mended)
    for time, loses in (("earliest", False), ("1d", True)):
        code, _, err = user.run("reprocess", "quiet", "--from", time)
        assert (code, "is not in it" in err) == (0, loses), err
    switch = user.reprocess(mended, "--from", "earliest", "--switch", "--yes", log="switch", role="quiet")
    assert switch.wait(150) == 0, user.log("switch")
    (side,) = set(re.findall(r"quiet\.keys\.g2-\w+\.v1", user.log("switch")))
    rebuilt = user.sums(user.keys, replace(QUIET, name=side))
    assert rebuilt == {key: [2] for key in told}, "the letter's event is handled, and as much was quiet"
    code, out, _ = user.run("dlq", "replay", "--all", "--yes")
    assert (code, "cannot: generation 1 of quiet made it; 2 runs" in out) == (1, True), out

    new = user.start_worker(mended, log="new", role="quiet")
    user.until_ready("new")
    user.publish(3 * user.keys)
    assert user.sums(2 * user.keys, QUIET) == {key: [*counts, 3] for key, counts in told.items()}
    user.stop(new)


def test_what_was_not_begun_is_neither_switched_nor_given_up(user: TotalsUser) -> None:
    user.code(write_agent(user.folder / "mended", more="\nGENERATION = 2\n"))
    for words in ((), ("--switch", "--yes"), ("--discard",), ("--discard", "--yes")):
        code, _, err = user.run("reprocess", "totals", *words)
        assert code == 2, err
