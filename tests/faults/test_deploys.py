"""Migrations that are given up, generations that are, and a switch that is killed wherever it is."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from connectors.kafka.members import groups_of
from pipelines.generations import group_of
from schemas.wire import WireCodec
from tests.support.totals_agent import OUTPUT, STAGED_SUMS, write_agent, write_staged
from tests.support.totals_user import TotalsUser

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]


@pytest.fixture
def user(tmp_path, stack, kafka_options, registry, topics) -> Iterator[TotalsUser]:
    topics(OUTPUT)
    with TotalsUser(tmp_path, stack, kafka_options, WireCodec(registry)) as running:
        try:
            yield running
        finally:
            running.end_live()


def one_by_one(user: TotalsUser) -> None:
    """Each key's counts are 1, 2, 3, … up to its events."""
    right = user.right_sums()
    assert user.sums(user.published) == {key: list(range(1, last + 1)) for key, last in right.items()}


def test_a_migration_waits_for_who_still_runs_and_is_given_up_without_a_trace(user: TotalsUser) -> None:
    old, new = write_agent(user.folder / "old"), write_agent(user.folder / "new", version=2)
    worker = user.start_worker(old, log="first")
    user.until_ready("first")
    user.publish(100)
    one_by_one(user)
    (new / "kill.txt").write_text("20")
    migrating = user.start_worker(new, "--migrate", "wider", log="migrating")
    user.until_said("waits until the role's workers are gone", "migrating")
    assert not (new / "calls.txt").exists()
    user.stop(worker)
    assert migrating.wait(60) == 137, "killed in the middle, once the role was gone"

    # Given up, the old code goes on from its own state
    worker = user.start_worker(old, "--abandon-migration", log="back")
    user.until_ready("back")
    assert "migration given up" in user.log("back")
    user.publish(100)
    one_by_one(user)
    user.stop(worker)

    # And a later attempt begins from what stands then
    (new / "kill.txt").unlink()
    worker = user.start_worker(new, "--migrate", "wider", log="later")
    user.until_ready("later")
    user.publish(100)
    one_by_one(user)
    user.stop(worker)


def test_two_workers_that_migrate_at_once_end_with_one_migration(user: TotalsUser) -> None:
    old, new = write_agent(user.folder / "old"), write_agent(user.folder / "new", version=2)
    worker = user.start_worker(old, log="first")
    user.until_ready("first")
    user.keys = 4_000
    user.publish(4_000)
    one_by_one(user)
    user.stop(worker)
    workers = [user.start_worker(new, "--migrate", "wider", log=name) for name in ("one", "two")]
    user.until(
        lambda: sum(user.log(name).count('"partition ready"') for name in ("one", "two")) >= 4, "all is read"
    )
    user.publish(4_000)
    one_by_one(user)
    for each in workers:
        user.stop(each)


def test_what_is_built_is_given_up_and_nothing_of_it_is_in_the_next_attempt(user: TotalsUser) -> None:
    wrong = write_agent(user.folder / "wrong", step=2)
    mended = write_agent(user.folder / "mended", more="\nGENERATION = 2\n")
    old = user.start_worker(wrong, log="old")
    user.until_ready("old")
    user.publish(400)
    user.seen(400)
    built = user.reprocess(mended, "--from", "earliest", "--yes", log="built")
    assert built.wait(120) == 0, user.log("built")
    builder = user.start_worker(mended, log="builder")
    user.until_ready("builder")
    assert "would be given up" in user.run("reprocess", "totals", "--discard")[1]
    code, out, err = user.run("reprocess", "totals", "--discard", "--yes")
    assert code == 0, err
    assert "generation 1 keeps its place" in out
    assert builder.wait(60) != 0
    assert "is not built any more" in user.log("builder")
    assert old.poll() is None

    # Another attempt, from now on: it knows nothing of the first
    while not groups_of(user.kafka, [group := group_of(user.kafka.topic_prefix, "totals", 2)])[
        group
    ].is_empty:
        time.sleep(0.5)  # the first's session
    user.publish(400)
    switch = user.reprocess(mended, "--from", "0s", "--switch", "--yes", log="switch")
    assert switch.wait(120) == 0, user.log("switch")
    assert old.wait(30) == 0
    user.publish(400)
    new = user.start_worker(mended, log="new")
    found = user.seen(1_200)
    assert (len(found), set(found.values())) == (1_200, {1})
    latest = {said[-1] for said in user.sums(user.keys).values()}
    assert latest <= set(range(10, 21)), "events before the time are not in the new sums"
    user.stop(new)


def test_a_switch_that_is_killed_wherever_it_is_is_run_again(user: TotalsUser, seed: int) -> None:
    chance = random.Random(seed)
    wrong = write_agent(user.folder / "wrong", step=2)
    mended = write_agent(user.folder / "mended", more="\nGENERATION = 2\n")
    user.start_worker(wrong, log="old")
    user.until_ready("old")
    user.publish(4_000)
    user.begin_live()
    built = user.reprocess(mended, "--from", "earliest", "--yes", log="built")
    assert built.wait(120) == 0, user.log("built")
    kills = 0
    while True:
        switch = user.reprocess(mended, "--switch", "--yes", log=f"switch-{kills}")
        deadline = time.monotonic() + (chance.uniform(2.0, 14.0) if kills < 6 else 120.0)
        while switch.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if switch.poll() is not None:
            break
        user.kill(switch)
        kills += 1
    said = "\n".join(user.log(f"switch-{number}") for number in range(kills + 1))
    assert switch.returncode == 0 or "what runs is 2" in said, said
    user.start_worker(mended, log="new")
    user.until_ready("new")
    user.publish(400)
    user.end_live()
    found = user.seen(user.published)
    assert (len(found), set(found.values())) == (user.published, {1}), f"{kills} kills\n{said}"
    user.until_right("new")


def test_a_role_of_two_agents_is_rebuilt_with_the_topic_between_them(user: TotalsUser) -> None:
    wrong = write_staged(user.folder / "wrong", step=2)
    mended = write_staged(user.folder / "mended", generation=2)
    old = user.start_worker(wrong, log="old", role="staged")
    user.until_ready("old", 8)
    user.publish(2_000)
    user.begin_live()
    new = user.reprocess(mended, "--from", "earliest", "--switch", "--yes", log="switch", role="staged")
    assert new.wait(150) == 0, user.log("switch")
    assert old.wait(30) == 0
    worker = user.start_worker(mended, log="new", role="staged")
    user.until_ready("new", 8)
    user.publish(200)
    user.end_live()
    user.until_right("new", STAGED_SUMS)
    user.stop(worker)
