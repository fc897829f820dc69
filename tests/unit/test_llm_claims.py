"""Two questions for one stream at one moment: whose the stream is, and what of the other one is left."""

from __future__ import annotations

import asyncio

import pytest

from connectors.llm import claim
from tests.unit.support_llm_operation import World, chunk, said
from tests.unit.test_llm_operation_runs import STOP, paused, stalls, until


@pytest.mark.parametrize(
    ("asks", "later_s", "end"),
    [(b"other", 1, "upstream_error"), (b"one", 1, "cancelled"), (b"other", 3_600, "cancelled")],
    ids=["another", "the same", "long after"],
)
def test_of_two_questions_that_are_bound_to_no_open_neither_is_answered_with_the_others(asks, later_s, end):
    async def again(world):
        await until(lambda: world.shown)
        assert not world.operation.claim.meet(asks, "", world.asked_us + later_s * 1_000_000)
        await asyncio.sleep(0)
        world.operation.cancel()

    world = World(stalls).run(aside=again)
    assert world.end == end
    said_so = "two questions came for this stream" in world.events[-1][2]["message"]
    assert said_so == (end == "upstream_error")
    assert (world.rows[-1].state, world.rows[-1].end_reason) == ("cancelled", end)


def test_the_question_whose_open_ingest_took_is_answered_and_shows_nothing_until_that_is_known():
    go_on, seen = asyncio.Event(), []

    async def dispute(world):
        await until(lambda: world.calls)
        assert world.operation.claim.meet(b"other", "open-2", world.asked_us + 3_600_000_000)
        go_on.set()
        await until(lambda: world.operation.claim.disputed and world.rows)
        await asyncio.sleep(0.05)
        seen.append(world.types())
        world.operation.claim.settle(sends=True)

    answer = paused(go_on, chunk("Once").encode(), chunk(" upon").encode(), STOP)
    world = World(answer).run(aside=dispute)
    assert seen == [[]], "it was not known whose the stream is"
    assert (world.end, world.shown) == ("completed", "Once upon")


def test_a_question_whose_open_ingest_refused_leaves_the_stream_to_the_other_one():
    go_on = asyncio.Event()

    async def lose(world):
        await until(lambda: world.calls)
        assert world.operation.claim.meet(b"other", "open-2", world.asked_us)
        go_on.set()
        await asyncio.sleep(0.05)
        world.operation.refuse_open("open-2")
        assert not world.operation.claim.lost, "that is the other's"
        world.operation.refuse_open("open-1")

    world = World(paused(go_on, chunk("Once").encode(), None)).run(aside=lose)
    assert world.events == [], "neither text nor an end: all of it is the other one's"
    assert world.over
    assert [(row.attempt, row.state, row.end_reason) for row in world.rows] == [
        (1, "started", ""), (1, "cancelled", "")
    ]  # fmt: skip
    known = world.operation.known
    for row in known.attempts.values():
        row.request_offset = 6  # the other one is another request
    other = World(said("There was"), known=known).run()
    assert (other.end, other.shown) == ("completed", "There was")
    assert [row.attempt for row in other.rows] == [2, 2], "what the first one cost stays on the ledger"
    assert "reset" not in other.types()


def test_a_question_whose_answer_was_shown_to_anothers_client_ends_the_stream():
    async def lose(world):
        await until(lambda: world.shown)
        world.operation.refuse_open("open-1")

    world = World(stalls).run(aside=lose)
    assert (world.end, world.shown) == ("upstream_error", "Once upon")
    assert "two questions came for this stream" in world.events[-1][2]["message"]


def test_the_same_question_asked_twice_is_answered_whichever_open_ingest_took():
    go_on = asyncio.Event()

    async def again(world):
        await until(lambda: world.calls)
        assert not world.operation.claim.meet(b"one", "open-2", world.asked_us)
        world.operation.refuse_open("open-1")
        go_on.set()

    world = World(paused(go_on, chunk("Once upon").encode(), STOP)).run(aside=again)
    assert (world.end, world.shown) == ("completed", "Once upon")


def test_the_same_question_that_comes_when_this_one_was_given_up_is_to_be_answered_itself():
    async def lose(world):
        await until(lambda: world.calls)
        world.operation.refuse_open("open-1")
        assert world.operation.claim.meet(b"one", "open-2", world.asked_us)

    world = World(paused(asyncio.Event())).run(aside=lose)
    assert world.events == []
    assert world.over


def test_a_dispute_that_ingest_does_not_decide_ends_the_stream(monkeypatch):
    monkeypatch.setattr(claim, "DECIDED_S", 0.05)
    go_on = asyncio.Event()

    async def dispute(world):
        await until(lambda: world.calls)
        world.operation.claim.meet(b"other", "open-2", world.asked_us)
        go_on.set()

    world = World(paused(go_on, chunk("Once").encode(), STOP)).run(aside=dispute)
    assert world.end == "upstream_error"
