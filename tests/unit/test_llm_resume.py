"""An answer whose connection breaks, of a provider that keeps it: it is gone on with, and paid for once."""

from __future__ import annotations

import asyncio
import time

import httpx2
import orjson
import pytest

from connectors.llm import attempt
from connectors.llm.deltas import Failed, Piece
from connectors.llm.kept_answers import Gathered
from connectors.llm.ledger import Attempt, Known
from connectors.llm.loopback.server import LoopbackThread
from connectors.llm.normalised import unfinished
from connectors.llm.provider import Cursor
from connectors.llm.providers.openai_responses import OpenAiResponses
from tests.unit.support_llm_operation import World

PAYS = {"name": "pay", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}}}
TOOLS = {"tools_json": orjson.dumps([PAYS]).decode()}
SCHEMA = {"schema_json": '{"type": "object", "properties": {"name": {"type": "string"}}}'}


@pytest.fixture(scope="module")
def provider():
    with LoopbackThread() as loopback:
        yield loopback


@pytest.fixture(autouse=True)
def quick(monkeypatch, provider):
    monkeypatch.setattr(attempt, "_BACKOFF_S", 0.01)
    provider.calls.clear()


def resuming(provider, model, *others, **route):
    """A world whose provider keeps its answers, and goes on with them."""
    candidates = [
        {"target": "here", "model": name, "can_resume": True, "retries": 0} for name in (model, *others)
    ]
    return World(
        **{
            "shape": "openai-responses", "base_url": provider.base_url("openai-responses"),
            "candidates": candidates, "after_content": "resume", **route,
        }
    )  # fmt: skip


def made(provider):
    """What was asked of the provider: calls, connections that go on with an answer, and answers dropped."""
    paths = [seen.path for seen in provider.seen]
    gone_on = sum("?stream=true" in path for path in paths)
    dropped = sum(path.endswith("/cancel") for path in paths)
    return len(paths) - gone_on - dropped, gone_on, dropped


def contents(world, name):
    """Pieces of a channel as they came, whatever superseded them."""
    return "".join(
        fields["text"] for kind, _, fields in world.events if kind == "token" and fields["channel"] == name
    )


@pytest.mark.parametrize(
    ("fault", "asking"),
    [
        ("words?tokens=40&fault=cut", {}), ("words?tokens=40&fault=closed", {}),
        ("words?tokens=40&fault=ended", {}), ("words?tokens=40&fault=cut_utf8", {}),
        ("words?tokens=40&reasoning=20&fault=cut", {}),
        ("words?tokens=40&fault=stall", {}), ("tool?fault=cut", TOOLS), ("json?fault=cut", SCHEMA),
    ],
    ids=["reset", "closed", "ended", "within a character", "reasoning", "silent", "tool", "structured"],
)  # fmt: skip
def test_no_token_of_an_answer_is_lost_or_doubled_and_its_usage_counts_once(provider, fault, asking):
    whole = resuming(provider, fault.partition("&fault")[0].partition("?fault")[0]).run(**asking)
    provider.calls.clear()
    timers = {"between_contents_ms": 500}
    world = resuming(provider, f"{fault}&after=5&times=3&tag={time.monotonic_ns()}", timers=timers).run(
        **asking
    )
    assert world.end == whole.end == "completed"
    for channel in ("text", "reasoning", "tool"):
        assert contents(world, channel) == contents(whole, channel)
    calls, gone_on, dropped = made(provider)
    assert (calls, dropped) == (1, 0)
    assert gone_on >= 1
    assert "reset" not in world.types()
    assert world.types().count("usage") == 1
    row, expected = world.rows[-1], whole.rows[-1]
    assert (row.attempt, row.state, row.usage_source) == (1, "completed", "provider")
    assert (row.input_tokens, row.output_tokens) == (expected.input_tokens, expected.output_tokens)
    assert row.provider_request_id.startswith("resp_")
    assert f"gone on with {gone_on} times" in row.error_raw
    judged = [fields for name, _, fields in world.events if name == "structured" and fields["complete"]]
    assert [fields["problem"] for fields in judged] == [""] * ("json" in fault)


def test_it_is_asked_for_in_the_background_only_where_it_may_be_gone_on_with(provider):
    def bodies():
        return [orjson.loads(seen.body) for seen in provider.seen]

    resuming(provider, "words?tokens=3").run()
    assert [(body["background"], body["store"]) for body in bodies()] == [(True, True)]
    provider.calls.clear()
    resuming(provider, "words?tokens=3", after_content="restart").run()
    cannot = [{"target": "here", "model": "words?tokens=4"}]
    world = resuming(provider, "", candidates=[*cannot, {"target": "gone", "model": "m", "can_resume": True}])
    world.run()
    assert [("background" in body, body["store"]) for body in bodies()] == [(False, False)] * 2


@pytest.mark.parametrize("shape", ["openai-responses", "openai-chat", "anthropic", "gemini", "ollama"])
def test_where_a_provider_cannot_go_on_the_answer_is_begun_anew(provider, shape):
    candidates = [
        {"target": "here", "model": f"words?tokens=9&fault=cut&times=1&tag={time.monotonic_ns()}"},
        {"target": "gone", "model": "m", "can_resume": True},
    ]
    base_url = provider.base_url(shape)
    world = World(shape=shape, base_url=base_url, candidates=candidates, after_content="resume").run()
    assert (world.end, len(world.shown.split())) == ("completed", 9)
    assert world.types().count("reset") == 1
    assert [(row.attempt, row.why) for row in world.rows if row.state == "completed"] == [(2, "restart")]


def test_an_answer_that_brings_nothing_more_is_given_up_dropped_and_begun_anew(provider):
    world = resuming(provider, "words?tokens=9&fault=cut&after=0", "words?tokens=7").run()
    assert (world.end, len(world.shown.split())) == ("completed", 7)
    assert made(provider) == (2, attempt.FRUITLESS_MAX, 1)
    first = next(row for row in world.rows if row.state == "failed")
    assert (first.attempt, first.error_class) == (1, "truncated")


def test_an_answer_that_is_kept_no_more_is_begun_anew_and_both_are_counted(provider):
    async def forget(world):
        while not world.shown:  # noqa: ASYNC110  # a provider over a socket is waited for
            await asyncio.sleep(0.005)
        provider.kept.forget()

    model = "words?tokens=9&fault=stall&after=4&stall_ms=0"
    timers = {"between_contents_ms": 500}
    world = resuming(provider, model, "words?tokens=7", timers=timers).run(aside=forget)
    assert (world.end, len(world.shown.split())) == ("completed", 7)
    assert world.types().count("reset") == 1
    settled = {row.attempt: row for row in world.rows}
    assert settled[1].error_class == "timeout_between_contents", "not that it was not found"
    assert "to go on with it: not_found" in settled[1].error_raw
    assert (settled[1].usage_source, settled[2].usage_source) == ("estimated", "provider")
    assert settled[1].output_tokens


def test_a_cancel_has_the_provider_end_what_it_would_go_on_with(provider):
    async def cancel(world):
        while not world.shown:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        world.operation.cancel()

    world = resuming(provider, "words?tokens=900&rate=50").run(aside=cancel)
    assert world.end == "cancelled"
    assert made(provider) == (1, 0, 1)


def left_by_a_dead_worker(provider, model, **fields):
    """What is on record of an answer that a worker was reading when it died."""
    body = {"model": model, "input": "hi", "stream": True, "background": True, "store": True}
    url = f"{provider.base_url('openai-responses')}/responses"
    told = httpx2.post(url, json=body, trust_env=False, verify=False).text
    answer_id = orjson.loads(told.partition("data: ")[2].partition("\n")[0])["response"]["id"]
    provider.calls.clear()
    known = Known()
    row = Attempt(
        tenant="default", stream_id="s1", kind="llm", attempt=1, epoch=0, provider="here", model=model,
        request_offset=7, route="default", route_version=1, provider_request_id=answer_id, **fields,
    )  # fmt: skip
    known.take(row)
    return known


def test_after_a_crash_the_answer_is_read_from_its_beginning_and_paid_for_once(provider):
    model = "words?tokens=12"
    world = resuming(provider, model)
    world._known = left_by_a_dead_worker(provider, model)
    world.run()
    assert (world.end, len(world.shown.split())) == ("completed", 12)
    assert made(provider) == (0, 1, 0), "nobody was asked anew"
    assert world.types().count("reset") == 1, "what the dead one showed is not known"
    assert [row.shown for row in world.rows] == [True] * len(world.rows), "of the next owner, too"
    assert {row.attempt for row in world.rows} == {1}
    last = world.rows[-1]
    assert (last.state, last.why, last.usage_source) == ("completed", "resume", "provider")


def test_after_a_crash_what_is_kept_raw_is_the_answer_as_the_new_owner_read_it(provider):
    model = "words?tokens=12"
    world = resuming(provider, model, keep={"raw": "full"})
    world._known = left_by_a_dead_worker(provider, model)
    world.run()
    gathered = Gathered("openai-responses")
    begun = {**world.raw[0], "epoch": 0, "chunks": ["{}"] * 3, "comments": [1], "at_us": [0] * 3}
    for record in ({**begun, "events": [""] * 3}, *world.raw):
        gathered.take(record)
    whole = gathered.recording("")
    assert not gathered.missing
    assert unfinished(whole, OpenAiResponses()) == ""
    assert len(whole.events) == world.rows[-1].chunks


def test_after_a_crash_an_answer_that_is_kept_no_more_is_begun_anew_at_an_unknown_cost(provider):
    model = "words?tokens=11"
    world = resuming(provider, model)
    world._known = left_by_a_dead_worker(provider, model)
    provider.kept.forget()
    world.run()
    assert (world.end, len(world.shown.split())) == ("completed", 11)
    settled = {row.attempt: row for row in world.rows}
    assert (settled[1].error_class, settled[1].cost_source, settled[1].output_tokens) == (
        "crashed",
        "unknown",
        None,
    )
    assert settled[2].why == "crash"


def test_after_a_crash_no_call_of_a_tool_that_cannot_be_taken_back_is_shown_twice(provider):
    world = resuming(provider, "words?tokens=3")
    world._known = left_by_a_dead_worker(provider, "words?tokens=3")
    world.run(**TOOLS, side_effects=True)
    assert (world.end, made(provider)) == ("upstream_error", (0, 0, 1)), "it is ended at the provider"


def test_after_a_crash_what_was_cancelled_meanwhile_is_ended_at_the_provider(provider):
    async def cancel(world):
        world.operation.cancel()

    world = resuming(provider, "words?tokens=5")
    world._known = left_by_a_dead_worker(provider, "words?tokens=5")
    world.run(aside=cancel)
    assert (world.end, made(provider)) == ("cancelled", (0, 0, 1))


@pytest.mark.parametrize("contents", [0, 3])
def test_after_a_crash_who_cannot_take_back_is_given_what_is_kept_if_nothing_was_shown(provider, contents):
    world = resuming(provider, "words?tokens=5")
    world._known = left_by_a_dead_worker(provider, "words?tokens=5", contents=contents)
    world.run(no_reset=True)
    assert "reset" not in world.types()
    if contents:
        assert (world.end, world.shown, made(provider)) == ("upstream_error", "", (0, 0, 1))
    else:
        assert (world.end, len(world.shown.split()), made(provider)) == ("completed", 5, (0, 1, 0))


def events(*numbers):
    """Deltas of text, by their number in the answer."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    for number in numbers:
        value = {
            "type": "response.output_text.delta",
            "sequence_number": number,
            **place,
            "delta": f"{number} ",
        }
        yield "response.output_text.delta", orjson.dumps(value).decode()


def test_events_that_come_twice_are_left_out_and_a_hole_is_no_answer():
    normaliser = OpenAiResponses().normaliser()
    created = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "model": "m"}}
    normaliser.take("response.created", orjson.dumps(created).decode())
    said = [normaliser.take(*each) for each in events(1, 2)]
    assert normaliser.cursor == Cursor("resp_1", 2)
    normaliser.reconnected()
    said += [normaliser.take(*each) for each in events(0, 1, 2, 3)]
    texts = [delta.text for deltas in said for delta in deltas if isinstance(delta, Piece)]
    assert texts == ["1 ", "2 ", "3 "]
    normaliser.reconnected()
    (failed,) = [normaliser.take(*each)[0] for each in events(6)]
    assert isinstance(failed, Failed)
    assert "events 4 to 5 are missing" in failed.raw
    assert normaliser.cursor is None
