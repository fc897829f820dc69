"""One operation from its request to its end: what is on record when, and what clients see of it."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import pytest

from connectors.llm import operation, structured
from connectors.llm.ledger import Attempt, Known, attempt_of
from connectors.llm.plan import Timers, within
from connectors.llm.route import TimersConfig
from schemas.kinds import LLM, KindTable
from schemas.topics import LLM_ATTEMPTS
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


def paused(*steps):
    """An answer in pieces; at an event it waits, at None until the other side leaves."""

    async def answer(writer):
        writer.write(head())
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif step is None:
                await writer.wait_closed()
            else:
                await step.wait()

    return answer


STOP = (chunk(finish="stop") + "data: [DONE]\n\n").encode()


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


def test_an_answer_that_grows_as_it_is_shown_is_not_asked_for_again(monkeypatch):
    """300 KB of ``1e9,`` were 975 KB as they were shown, which no event holds."""
    monkeypatch.setattr(structured, "INTERVAL_S", 0.0)
    world = World(said("[" + "1e9," * 40_000, *["1e9," * 15_000] * 4, "1]")).run(
        schema_json='{"type": "array"}'
    )
    assert (world.end, len(world.calls)) == ("completed", 1)
    shown = [fields for name, _, fields in world.events if name == "structured"]
    assert shown[-1]["complete"]
    assert len(shown[-1]["json"]) > 400_000


@pytest.mark.parametrize(("stop", "told"), [("END", "END"), ("other", None)])
def test_a_text_at_which_an_answer_stopped_is_told_if_it_was_asked_for(stop, told):
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}
    body = chunk("a") + f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n"
    world = World(head() + body.encode()).run(params_json=json.dumps({"stop": [stop]}))
    (note,) = [json.loads(fields["value_json"]) for name, _, fields in world.events if name == "state"]
    assert (note["finish"], note.get("stop_sequence")) == ("stop", told)


def test_who_asks_for_more_patience_than_there_is_is_not_waited_for_even_alone():
    world = World(refusal("429 Too Many Requests", retry_after="500")).run()
    assert (world.end, len(world.calls)) == ("upstream_error", 1)
    assert world.rows[-1].retry_after_ms == 500_000


def test_a_stream_that_ingest_ended_stops_its_call_and_gets_nothing_more_but_the_ledger_says_so():
    async def time_out(world):
        await until(lambda: world.shown)
        world.operation.cancel("timed_out")
        world.operation.cancel("cancelled")

    world = World(stalls).run(aside=time_out)
    assert (world.shown, world.over) == ("Once upon", True)
    assert not {"usage", "end"} & set(world.types()), "each of them would be late, and a dead letter"
    last = world.rows[-1]
    assert (last.state, last.error_class, last.end_reason) == ("cancelled", "cancelled", "timed_out")
    assert last.output_tokens


@pytest.mark.parametrize("how", ["told", "old"])
def test_a_question_that_nobody_took_before_its_stream_timed_out_is_over_without_a_word(how):
    world = World()
    if how == "old":
        world.asked_ago_us = (LLM.connection.total_timeout_ms + 66_000) * 1_000
    else:
        world.before = lambda operation: operation.cancel("timed_out")
    world.run()
    assert (world.events, world.calls, world.over) == ([], [], True)
    (row,) = world.rows
    assert (row.attempt, row.state, row.end_reason) == (0, "refused", "timed_out")


def test_a_stream_that_a_worker_is_to_open_is_told_however_late():
    world = World()
    world.asked_ago_us = (LLM.connection.total_timeout_ms + 66_000) * 1_000
    world.tools = {"queue_ms_max": 30_000}
    assert world.run(opened=False).types() == ["open", "end"]
    assert world.end == "timed_out"


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
        tenant="default", stream_id="s1", kind="llm", attempt=1, epoch=3, provider="here", model="m",
        request_offset=7, **fields,
    )  # fmt: skip
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
    settled = [row.ended_us for row in world.rows if row.state == "failed"]
    assert sorted(set(settled)) == settled, "the archive keeps the row that ended later"


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
    assert "the budget of tokens of this day has no room: 0 of 1 are used or held" in row.error_raw


PRICES = {
    "here/dear": {"input_usd": 1000, "output_usd": 1000}, "here/less": {"input_usd": 900, "output_usd": 900},
    "here/cheap": {"input_usd": 1, "output_usd": 1},
}  # fmt: skip
PRICED = [{"target": "here", "model": name} for name in ("dear", "unpriced", "less", "cheap")]


@pytest.mark.parametrize(
    ("budget", "fallback_on", "asked"),
    [
        ({"usd_day": 0.01}, ["spend_limited"], "cheap"), ({"usd_day": 2}, ["spend_limited"], "dear"),
        ({"usd_day": 0.000001}, ["spend_limited"], None), ({"usd_day": 0.01}, ["server"], None),
        ({"tokens_day": 1}, ["spend_limited"], None),
    ],
    ids=["too little for the first ones", "enough", "too little for any", "not by this route", "tokens"],
)  # fmt: skip
def test_where_the_money_is_not_enough_a_candidate_that_costs_less_is_asked(budget, fallback_on, asked):
    world = World(
        said("Once upon"), budgets={"default": budget}, candidates=PRICED, prices=PRICES,
        fallback_on=fallback_on, max_output_tokens=100,
    ).run()  # fmt: skip
    assert world.end == ("upstream_error" if asked is None else "completed")
    assert [call["model"] for call in world.calls] == ([] if asked is None else [asked])
    refused = [row for row in world.rows if row.state == "refused"]
    assert [row.model for row in refused] == ([] if asked == "dear" else ["dear"])
    if asked == "cheap":
        (row,) = refused
        assert (row.error_class, row.end_reason) == ("spend_limited", "")
        assert "the budget of USD of this day has no room" in row.error_raw
        assert "here cheap costs less, and is asked instead" in row.error_raw
        last = world.rows[-1]
        assert (last.attempt, last.why, last.end_reason) == (2, "fallback", "completed")


def test_after_a_crash_a_candidate_that_was_refused_for_its_cost_was_not_tried():
    left = dead(state="refused", error_class="spend_limited")
    left.take(replace(left.attempts[1], attempt=2, state="failed", error_class="server", model="cheap"))
    budgets = {"default": {"usd_day": 2}}
    world = World(said("Once"), known=left, budgets=budgets, candidates=PRICED, prices=PRICES).run()
    assert (world.end, world.calls[0]["model"]) == ("completed", "cheap"), "the same again, and not one fewer"


PERSON = {"schema_json": '{"type": "object", "properties": {"age": {"type": "integer"}}}'}


@pytest.mark.parametrize("where", ["request", "route"])
def test_an_answer_that_breaks_its_schema_fails_where_it_is_to(where):
    asking = PERSON | ({"on_invalid": "fail"} if where == "request" else {})
    route = {"on_invalid": "fail"} if where == "route" else {}
    world = World(said('{"age": ', '"old"}'), **route).run(**asking)
    assert (world.end, len(world.calls)) == ("upstream_error", 1)
    last = world.rows[-1]
    assert (last.state, last.error_class) == ("failed", "invalid_answer")
    assert last.error_raw == "/age: type", "the ledger has place and kind, and nobody's words"
    told = [fields["problem"] for name, _, fields in world.events if name == "structured"]
    assert "/age: 'old' is not of type 'integer'" in told, "whoever asked reads them"
    assert last.output_tokens, "it was paid for"
    (told,) = [fields for name, _, fields in world.events if name == "state" and fields["name"] == "error"]
    assert "invalid_answer" in told["value_json"]
    assert World(said('{"age": ', '"old"}')).run(**PERSON).end == "completed", "by default it is said alone"
    assert World(said('{"age": 7}'), **route).run(**asking).end == "completed"


@pytest.mark.parametrize("keep", ["off", "redacted", "full"])
def test_how_an_answer_breaks_its_schema_is_kept_in_words_as_the_answer_is(keep):
    asking = {"schema_json": '{"additionalProperties": {"type": "integer"}}', "on_invalid": "fail"}
    world = World(said('{"Ada Lovelace": "old"}'), keep={"output": keep}).run(**asking)
    assert world.rows[-1].error_raw == "/*: type"
    kept = [json.loads(row.output_json)["problem"] for row in world.contents if row.output_json]
    words = "/Ada Lovelace: 'old' is not of type 'integer'"
    assert set(kept) == {"off": set(), "redacted": {"·" * len(words)}, "full": {words}}[keep]


def test_an_answer_that_is_wrong_for_good_is_not_waited_for():
    more = '{"age": "old", "about": "' + "x" * 100
    world = World(paused(chunk(more).encode(), None)).run(**PERSON, on_invalid="fail")
    assert (world.end, world.rows[-1].error_class) == ("upstream_error", "invalid_answer")


def test_another_candidate_is_asked_for_a_better_answer_if_the_route_says_so():
    world = World(
        said('{"age": "old"}'), said('{"age": 7}'), candidates=TWO, fallback_on=["invalid_answer"]
    ).run(**PERSON, on_invalid="fail")  # fmt: skip
    assert (world.end, world.shown) == ("completed", '{"age": 7}')


@pytest.mark.parametrize(("status", "ends"), [("409 Conflict", "completed"), ("400 No", "upstream_error")])
def test_another_candidate_is_asked_after_a_status_that_the_route_names(status, ends):
    world = World(refusal(status), said("Hello"), candidates=TWO, fallback_on=["status:409"]).run()
    assert world.end == ends
    assert next(row.state for row in world.rows if row.state != "started") == "failed"


def test_a_defect_before_a_call_holds_nothing_of_the_budget(monkeypatch):
    def broken(*_):
        raise ValueError("a defect")

    monkeypatch.setattr("connectors.llm.trial.kept_input", broken)
    world = World(keep={"input": "full"}, budgets={"default": {"calls": 1}}).run()
    assert world.end == "upstream_error"
    operation = world.operation
    spent = operation._tools.desk.budgets.spent(operation.to.tenant, world.asked_us)
    assert (spent["calls"], spent["tokens_day"]) == (0, 0)


def test_a_call_of_a_tool_alone_breaks_no_schema():
    call = {"index": 0, "id": "c1", "function": {"name": "clock", "arguments": "{}"}}
    delta = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    answer = head() + f"data: {json.dumps(delta)}\n\ndata: [DONE]\n\n".encode()
    asking = {**PERSON, "on_invalid": "fail", "tools_json": '[{"name": "clock"}]'}
    assert World(answer).run(**asking).end == "completed"


@pytest.mark.parametrize(("state", "contents", "version", "end"), [
    ("started", 0, 1, "completed"), ("started", 1, 1, "upstream_error"), ("started", 0, 2, "upstream_error"),
    ("failed", 3, 1, "upstream_error"), ("failed", 0, 1, "completed"),
], ids=["under-way", "shown", "under-another-route", "settled-and-shown", "settled"])  # fmt: skip
def test_a_crash_before_content_ends_no_answer_that_may_not_begin_anew(state, contents, version, end):
    error = "" if state == "started" else "overloaded"
    left = dead(
        state=state, contents=contents, error_class=error, route="default", route_version=version
    )  # fmt: skip
    world = World(said("There was"), known=left, after_content="surface").run()
    assert world.end == end
    assert "reset" not in world.types()
    assert len(world.calls) == (end == "completed")


def test_a_tool_that_a_dead_worker_may_have_had_called_is_not_called_again():
    tools = {"tools_json": '[{"name": "pay"}]', "side_effects": True}
    world = World(known=dead(state="failed", contents=3, error_class="truncated")).run(**tools)
    assert (world.end, world.calls) == ("upstream_error", [])


class Slow(World):
    """Puts nothing on record of an answer that has begun before ``may`` is set."""

    may: asyncio.Event

    async def put(self, tenure, rows, **options):
        """See Committer."""
        started = [attempt_of(self.wire.decode(row.value, LLM_ATTEMPTS.subject)) for row in rows[:1]]
        if started[0].state == "started" and started[0].contents:
            await self.may.wait()
        await super().put(tenure, rows, **options)


@pytest.mark.parametrize("mode", ["surface", "restart"])
def test_what_may_not_begin_anew_is_on_record_as_begun_before_anybody_sees_it(mode):
    seen = []

    async def look(world):
        await until(lambda: world.calls)
        await asyncio.sleep(0.1)
        seen.append(world.shown)
        world.may.set()

    world = Slow(said("Once", " upon"), after_content=mode)
    world.may = asyncio.Event()
    world.run(aside=look)
    assert (world.end, world.shown) == ("completed", "Once upon")
    assert seen == ["" if mode == "surface" else "Once upon"]
    begun = [row for row in world.rows if row.state == "started" and row.contents]
    assert [row.first_content_us > 0 for row in begun] == [True] * (mode == "surface")


def test_an_answer_that_its_provider_gave_up_is_asked_for_again_and_its_word_is_on_record():
    aborted = head() + (chunk("On") + chunk(finish="abort") + "data: [DONE]\n\n").encode()
    world = World(aborted, said("Once")).run()
    assert (world.end, world.shown, len(world.calls)) == ("completed", "Once", 2)
    first = next(row for row in world.rows if row.attempt == 1 and row.state == "failed")
    assert (first.error_class, first.finish, first.finish_raw) == ("truncated", "other", "abort")
    surfaced = World(aborted, after_content="surface").run()
    assert (surfaced.end, surfaced.shown) == ("upstream_error", "On")
