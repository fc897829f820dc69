"""A gate on an operation: what passes, what is held, and what clients never see of an answer that broke."""

from __future__ import annotations

import json

import pytest

from tests.unit.support_llm_operation import World, chunk, head, said
from tests.unit.test_llm_operation_runs import TWO, contents, paused, until


def calling(*pieces, whole=True):
    """An answer that says a word and calls a tool."""
    events = [chunk("Sure.")]
    for piece in pieces:
        call = {"index": 0, "id": "c1", "function": {"name": "book", "arguments": piece}}
        events.append(f"data: {json.dumps({'choices': [{'delta': {'tool_calls': [call]}}]})}\n\n")
    end = chunk(finish="tool_calls") + "data: [DONE]\n\n" if whole else ""
    return head() + ("".join(events) + end).encode()


def test_a_call_of_a_tool_passes_the_gate_and_is_kept_as_clients_were_given_it():
    gate = {"hold_characters": 16, "rules": [["secret", "secret", "rewrite:#"]]}
    world = World(calling('{"to": "sec', 'ret"}'), gate=gate, keep={"output": "full"}).run()
    calls = [fields for name, _, fields in world.events if name == "token" and fields["channel"] == "tool"]
    assert [(call["call_id"], call["tool"], call["text"]) for call in calls] == [
        ("c1", "book", '{"to": "#"}')
    ]
    assert (world.end, world.rows[-1].gate) == ("completed", "rewritten secret=1")
    assert json.loads(world.contents[-1].output_json) == {
        "text": "Sure.", "tool_calls": [{"id": "c1", "name": "book", "arguments": '{"to": "#"}'}]
    }  # fmt: skip


def test_a_call_of_a_tool_that_broke_off_at_the_gate_is_not_shown():
    gate = {"hold_characters": 16, "rules": [["secret", "secret", "end:no"]]}
    world = World(calling('{"to": "sec', whole=False), gate=gate, after_content="surface").run()
    assert [fields["channel"] for name, _, fields in world.events if name == "token"] == ["text"]
    assert (world.end, world.rows[-1].error_class) == ("upstream_error", "truncated")
    world = World(calling('{"to": "sec', 'ret"}'), gate=gate).run()
    assert [fields["channel"] for name, _, fields in world.events if name == "token"] == ["text"]
    assert (world.rows[-1].error_class, world.rows[-1].gate) == ("gate", "ended:no secret=1")


CARDS = {"hold_characters": 64, "rules": [["card", r"\b\d{13,19}\b", "rewrite:[card]"]]}


@pytest.mark.parametrize("mode", ["surface", "restart", "continue"])
def test_what_a_gate_holds_of_an_answer_that_broke_off_was_never_shown(mode):
    answers = said("Card 41111111", whole=False), said("All good.")
    able = [{**each, "can_continue": True} for each in TWO]
    world = World(*answers, candidates=able, after_content=mode, gate=CARDS).run()
    assert (world.end, world.shown, len(world.calls)) == ("completed", "All good.", 2)
    assert contents(world) == [("token", 0, "All good.")], "as if the first had said nothing"
    settled = [row for row in world.rows if row.state != "started"]
    assert [row.gate for row in settled] == ["passed dropped=13", "passed"]
    assert [(row.contents, row.shown) for row in settled] == [(1, False), (1, True)]


def responses(*events):
    """Events of OpenAI's responses."""
    return "".join(
        f"data: {json.dumps({'type': f'response.{name}', **fields})}\n\n" for name, fields in events
    )


def test_what_a_gate_holds_of_a_broken_answer_is_not_shown_while_its_usage_is_awaited():
    def text(said):
        return "output_text.delta", {"output_index": 0, "content_index": 0, "item_id": "i", "delta": said}

    error = f"data: {json.dumps({'type': 'error', 'code': 'server_error', 'message': 'no'})}\n\n"
    good = responses(text("All good."), ("completed", {"response": {"id": "r", "status": "completed"}}))
    world = World(
        paused((responses(text("Card 41111111")) + error).encode(), None), head() + good.encode(),
        shape="openai-responses", candidates=TWO, after_content="surface", gate=CARDS | {"hold_ms": 50},
    ).run()  # fmt: skip
    assert (world.end, world.shown, len(world.calls)) == ("completed", "All good.", 2)
    assert world.rows[1].gate == "passed dropped=13"


@pytest.mark.parametrize(("finish", "shown"), [("length", "Card 41111111"), ("content_filter", "")])
def test_a_filter_of_the_providers_cuts_an_answer_short_and_a_limit_of_tokens_ends_one(finish, shown):
    answer = head() + (chunk("Card 41111111") + chunk(finish=finish) + "data: [DONE]\n\n").encode()
    world = World(answer, fallback_on=[], gate=CARDS).run()
    assert world.shown == shown
    assert world.rows[-1].gate == ("passed" if shown else "passed dropped=13")


def test_a_cancel_shows_nothing_of_what_a_gate_holds():
    async def cancel(world):
        await until(lambda: len(world.shown) == 29)
        world.operation.cancel()

    said_so_far = [chunk(text).encode() for text in ("x" * 80, "Card 41111111")]
    world = World(paused(*said_so_far, None), gate=CARDS).run(aside=cancel)
    assert (world.end, world.shown) == ("cancelled", "x" * 29)
    assert world.rows[-1].gate == "passed dropped=64"
