"""One operation from its request to its end: what is on record when, and what clients see of it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from connectors.llm import operation
from connectors.llm.ledger import Attempt, Known
from connectors.llm.plan import Timers, within
from connectors.llm.route import TimersConfig
from schemas.kinds import LLM, KindTable
from tests.unit.support_llm_operation import World, chunk, head, refusal, said
from tests.unit.test_llm_routing import CHOICES, made


async def stalls(writer):
    """Say a little, then nothing until the other side leaves."""
    writer.write(head() + chunk("Once upon").encode())
    await writer.drain()
    await writer.wait_closed()


async def stalls_at_once(writer):
    """Say nothing but that it is there."""
    writer.write(head())
    await writer.drain()
    await writer.wait_closed()


async def until(holds):
    while not holds():  # noqa: ASYNC110  # it is a provider over a socket that is waited for
        await asyncio.sleep(0.005)


def test_a_schema_is_checked_beside_the_loop_and_once(monkeypatch):
    threads = []

    def checked(schema, name):
        threads.append(threading.get_ident())
        return answer_schema(schema, name)

    answer_schema = operation.answer_schema
    monkeypatch.setattr(operation, "answer_schema", checked)
    world = World(said("{}")).run(schema_json='{"type": "object"}')
    assert world.end == "completed"
    assert [fields["complete"] for name, _, fields in world.events if name == "structured"] == [True]
    (thread,) = threads
    assert thread != threading.get_ident(), "it takes up to 0.3 s, in which no answer would go on"


def test_who_asks_for_more_patience_than_there_is_is_not_waited_for_even_alone():
    world = World(refusal("429 Too Many Requests", retry_after="500")).run()
    assert (world.end, len(world.calls)) == ("upstream_error", 1)
    assert world.rows[-1].retry_after_ms == 500_000


def test_a_stream_that_ingest_ended_stops_its_call_and_says_so_on_the_ledger():
    async def time_out(world):
        await until(lambda: world.shown)
        world.operation.cancel("timed_out")
        world.operation.cancel("cancelled")

    world = World(stalls).run(aside=time_out)
    assert (world.end, world.shown) == ("timed_out", "Once upon")
    last = world.rows[-1]
    assert (last.state, last.error_class, last.end_reason) == ("cancelled", "cancelled", "timed_out")
    assert last.output_tokens


def test_a_plan_ends_before_ingest_would_end_its_stream():
    longest = TimersConfig(first_content_ms=900_000, between_contents_ms=900_000).timers()
    plan = replace(
        made(deadline_ms=86_400_000, retry_wait_ms_max=600_000),
        choices=[replace(CHOICES[0], timers=longest), CHOICES[1]],
    )
    bounded = within(plan, LLM.connection)
    assert bounded.deadline_ms == 30 * 60_000 - 5_000
    assert bounded.retry_wait_ms_max == (120_000 - 5_000) // 2, "the call after it has the other half"
    timers = bounded.choices[0].timers
    assert (timers.first_content_ms, timers.between_contents_ms) == (115_000, 115_000)
    assert bounded.choices[1].timers == Timers(), "what is shorter stays"


def test_what_waited_for_its_turn_has_less_time_to_its_first_content():
    connection = replace(LLM.connection, idle_timeout_ms=1_000)
    world = World(stalls_at_once, attempts_max=1)
    world.tools["kinds"] = KindTable([replace(LLM, connection=connection)])
    world.run()
    assert world.rows[-1].error_class == "timeout_first_content", "though its timer is of 30 s"
    assert world.end == "upstream_error"


async def hangs_up(writer):
    """Read the question, and leave."""


def test_what_was_sent_and_broke_off_before_a_status_may_be_billed():
    world = World(hangs_up, attempts_max=1).run()
    last = world.rows[-1]
    assert (last.error_class, last.http_status) == ("connect", 0)
    assert (last.cost_source, last.cost_nanos, last.output_tokens) == ("unknown", None, None)


def test_what_reached_nobody_is_free():
    world = World(attempts_max=1, candidates=[{"target": "gone", "model": "m"}]).run()
    last = world.rows[-1]
    assert (last.error_class, last.cost_source, last.cost_nanos) == ("connect", "estimated", 0)


TWO = [{"target": "here", "model": "m", "retries": 0}, {"target": "here", "model": "n", "retries": 0}]


def contents(world):
    """Tokens and resets with their epochs."""
    return [
        (name, epoch, fields.get("text", ""))
        for name, epoch, fields in world.events
        if name in ("token", "reset")
    ]


def test_what_clients_have_stays_until_another_attempt_has_content():
    world = World(said("Once upon", whole=False), refusal("500 Oops"), candidates=TWO).run()
    assert (world.end, world.shown) == ("upstream_error", "Once upon")
    assert "reset" not in world.types()
    assert [row.epoch for row in world.rows if row.state == "started"] == [0, 1], (
        "what its content would have"
    )


def test_content_of_another_attempt_supersedes_it_once_and_an_empty_answer_does_too():
    again = [*TWO, {"target": "here", "model": "o"}]
    cut = said("Once upon", whole=False)
    world = World(cut, refusal("500 Oops"), said("There was"), candidates=again).run()
    assert (world.end, world.shown) == ("completed", "There was")
    assert contents(world) == [("token", 0, "Once upon"), ("reset", 1, ""), ("token", 1, "There was")]
    assert world.rows[-1].epoch == 1
    world = World(cut, said(), candidates=TWO).run()
    assert (world.end, world.shown) == ("completed", "")


def test_a_cancel_before_new_content_keeps_what_there_is():
    async def cancel(world):
        await until(lambda: len(world.calls) == 2)
        world.operation.cancel()

    world = World(said("Once upon", whole=False), stalls_at_once, candidates=TWO).run(aside=cancel)
    assert (world.end, world.shown) == ("cancelled", "Once upon")


def dead(**fields):
    """What the ledger has of an operation whose worker died."""
    known = Known()
    row = Attempt(
        tenant="default", stream_id="s1", kind="llm", attempt=1, epoch=3, provider="here", model="m", **fields
    )
    known.take(row)
    return known


def test_who_takes_over_supersedes_nothing_before_it_has_content_of_its_own():
    world = World(refusal("400 Bad Request"), known=dead()).run()
    assert world.end == "upstream_error"
    assert "reset" not in world.types()
    assert world.events[-1][1] == 4, "above all that the dead one may still write"
    world = World(said("There was"), known=dead()).run()
    assert contents(world) == [("reset", 5, ""), ("token", 5, "There was")]
    assert (world.end, world.rows[-1].epoch) == ("completed", 5)


@pytest.mark.parametrize(("asks_ms", "on_record"), [("1500", True), ("900", False)])
def test_before_a_long_wait_what_was_settled_is_on_record(asks_ms, on_record):
    during = []

    async def cancel(world):
        await until(lambda: "usage" in world.types())
        for _ in range(20):
            await asyncio.sleep(0.005)
        during.extend((row.attempt, row.state) for row in world.rows)
        world.operation.cancel()

    world = World(refusal("429 Too Many Requests", retry_after_ms=asks_ms)).run(aside=cancel)
    assert during == [(1, "started"), *([(1, "failed")] if on_record else [])]
    assert world.end == "cancelled"
    assert [(row.attempt, row.state, row.end_reason) for row in world.rows][len(during) :] == [
        (1, "failed", "cancelled")
    ], "once, with the end"


def test_what_is_gone_on_with_is_sent_and_so_held_and_counted():
    told = "Once upon a time there was a fox. " * 20 + "It"
    going_on = [{**each, "can_continue": True} for each in TWO]
    world = World(said(told, whole=False), said(" ran."), candidates=going_on, after_content="continue").run()
    assert (world.end, world.shown) == ("completed", f"{told} ran.")
    assert world.calls[1]["messages"][-1] == {"role": "assistant", "content": told}
    first, second = ([row for row in world.rows if row.attempt == number] for number in (1, 2))
    sent = len(told) // 4
    assert second[0].reserved_tokens > first[0].reserved_tokens + sent
    assert second[-1].usage_source == "estimated"
    assert second[-1].input_tokens > first[-1].input_tokens + sent


def test_what_ends_without_a_call_says_on_record_when_and_why():
    late = World(deadline_ms=1_000)
    late.asked_ago_us = 2_000_000
    late.run()
    (row,) = late.rows
    assert (late.end, row.state, row.attempt, row.error_class) == ("timed_out", "refused", 0, "timeout_total")
    assert "was not begun within the 1000 ms" in row.error_raw
    assert row.ended_us == row.started_us > 0
    worn = World(known=dead(), attempts_max=1).run()
    row = worn.rows[-1]
    assert (worn.end, row.state, row.error_class) == ("upstream_error", "refused", "crashed")
    assert "1 attempts were made" in row.error_raw


def test_a_budget_that_is_spent_is_on_record_with_its_bound():
    world = World(budgets={"default": {"tokens_day": 1}}).run()
    (row,) = world.rows
    assert (world.end, row.state, row.error_class) == ("upstream_error", "refused", "spend_limited")
    assert "the budget of tokens of this day is spent" in row.error_raw


@pytest.mark.parametrize(
    ("asks", "later_s", "end"),
    [(b"other", 1, "upstream_error"), (b"one", 1, "cancelled"), (b"other", 3_600, "cancelled")],
    ids=["another", "the same", "long after"],
)
def test_of_two_questions_of_one_moment_neither_is_answered_with_the_others(asks, later_s, end):
    async def again(world):
        await until(lambda: world.shown)
        world.operation.asked_again(asks, world.asked_us + later_s * 1_000_000)
        await asyncio.sleep(0)
        world.operation.cancel()

    world = World(stalls).run(aside=again)
    assert world.end == end
    said_so = "two questions came for this stream" in world.events[-1][2]["message"]
    assert said_so == (end == "upstream_error")
    assert (world.rows[-1].state, world.rows[-1].end_reason) == ("cancelled", end)


@pytest.mark.parametrize(("state", "contents", "end"), [
    ("started", 0, "upstream_error"), ("failed", 3, "upstream_error"), ("failed", 0, "completed"),
], ids=["under-way", "shown", "before-content"])  # fmt: skip
def test_a_crash_before_content_ends_no_answer_that_may_not_begin_anew(state, contents, end):
    error = "" if state == "started" else "overloaded"
    left = dead(state=state, contents=contents, error_class=error)
    world = World(said("There was"), known=left, after_content="surface").run()
    assert world.end == end
    assert "reset" not in world.types()
    assert len(world.calls) == (end == "completed")


def test_a_tool_that_a_dead_worker_may_have_had_called_is_not_called_again():
    tools = {"tools_json": '[{"name": "pay"}]', "side_effects": True}
    world = World(known=dead(state="failed", contents=3, error_class="truncated")).run(**tools)
    assert (world.end, world.calls) == ("upstream_error", [])
