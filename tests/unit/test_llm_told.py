"""What is refused before a provider is called: whoever asks is told why, of which field, and what to do."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import orjson
import pytest

from connectors.llm.budgets import Budgets
from connectors.llm.figures import Figures
from connectors.llm.ledger import Attempt
from connectors.llm.metrics import LlmMetrics
from pipelines.attempt_figures import Called
from tests.unit.support_llm_operation import World, refusal, said

SEED = {"params_json": '{"seed": 3}'}
STOP = {"params_json": '{"stop": "a"}'}
NOT_ANSWERED = {"messages": [{"role": "system", "content": "Be kind."}]}
REQUIRED = {
    "params_json": '{"tool_choice": "required"}',
    "tools_json": '[{"name": "weather", "parameters": {}}]',
}


def end(world):
    """What a person reads of the end."""
    (fields,) = [fields for name, _, fields in world.events if name == "end"]
    return fields["message"]


def error(world):
    """What a program reads of it."""
    (value,) = [fields["value_json"] for name, _, fields in world.events if name == "state"]
    return orjson.loads(value)


@pytest.mark.parametrize(
    ("shape", "asking", "field", "why", "remedy"),
    [
        ("anthropic", SEED, "params.seed", "anthropic has none", "Leave it out, or ask another provider."),
        ("openai-responses", STOP, "params.stop", "has none", "Leave it out, or ask by openai-chat."),
        ("ollama", REQUIRED, "params.tool_choice", "required", "Leave it out, or ask another provider."),
        ("gemini", NOT_ANSWERED, "messages", "none to be answered", "Send one of role user at the least."),
    ],
    ids=["seed", "stop", "tool_choice", "messages"],
)
def test_what_a_shape_cannot_say_is_told_with_its_field(shape, asking, field, why, remedy):
    world = World(shape=shape).run(**asking)
    assert world.calls == []
    assert world.end == "upstream_error"
    assert end(world).startswith(f"here m: {field}: ")
    assert why in end(world)
    assert end(world).endswith(f"; the route tries no other provider after that. {remedy}")
    assert error(world) == {"error_class": "bad_request", "attempt": 1, "field": field}
    assert world.rows[-1].error_raw.startswith(f"{field}: "), "the operator reads the same"


@pytest.mark.parametrize(("keep", "kept"), [("off", False), ("redacted", False), ("full", True)])
def test_what_a_provider_says_is_the_operators_to_read_where_the_route_keeps_it(keep, kept):
    world = World(refusal("400 Bad Request", "the prompt 'a secret' is too odd"), keep={"raw": keep}).run()
    assert end(world) == "here m: bad request; the route tries no other provider after that"
    assert error(world) == {"error_class": "bad_request", "attempt": 1}
    assert all("a secret" not in row.error_raw for row in world.rows), "the ledger is kept for longest"
    assert ("a secret" in "".join(chunk for record in world.raw for chunk in record["chunks"])) == kept
    assert any("a secret" in (row.output_json or "") for row in world.contents) == kept


@pytest.mark.parametrize("output", ["off", "redacted", "full"])
def test_its_words_stand_beside_what_is_kept_of_the_answer(output):
    """… whose policy is another: what a provider says is no answer, and nobody's but its own."""
    keep = {"raw": "full", "output": output}
    (row, *_) = World(refusal("400 Bad Request", "too odd"), keep=keep).run().contents
    kept = json.loads(row.output_json)
    assert json.loads(kept["error"])["error"]["message"] == "too odd"
    assert kept.keys() == ({"error"} if output == "off" else {"error", "text"})
    assert "too odd" not in row.error_raw


def test_what_a_request_has_is_not_on_the_ledger_for_being_refused():
    world = World().run(schema_json='{"type": "patient Ada Lovelace"}')
    assert "Ada Lovelace" in end(world), "whoever asked is told"
    (row,) = world.rows
    assert "Ada" not in row.error_raw
    assert row.error_raw.startswith("schema/type: ")


def test_another_provider_is_asked_where_the_route_falls_back_on_it_and_its_failure_is_the_one_told():
    candidates = [{"target": "other", "model": "m"}, {"target": "here", "model": "m", "retries": 0}]
    made = partial(World, candidates=candidates, fallback_on=["bad_request"], other="anthropic")
    assert made(said("Once")).run(**SEED).shown == "Once"
    failed = made(refusal("500 Oh")).run(**SEED)
    assert end(failed).startswith("here m: server; ")
    assert "field" not in error(failed)


@pytest.mark.parametrize(
    ("asking", "field", "why", "remedy"),
    [
        ({"model": "m2"}, "route", "default has no candidate for model 'm2'", "Name one of m; or add"),
        ({"prompt": "tutor"}, None, "no prompt 'tutor'", "sluicegate llm prompts"),
        ({"variables_json": json.dumps({"a": "b"})}, "variables", "are given", "Correct the request."),
        ({"route": "other"}, None, "no route 'other'", "sluicegate llm routes"),
        ({"schema_json": '{"type": "nothing"}'}, "schema", "", "Correct the schema of the request."),
    ],
    ids=["model", "prompt", "variables", "route", "schema"],
)
def test_what_cannot_be_planned_is_told_with_what_to_do(asking, field, why, remedy):
    world = World().run(**asking)
    assert world.calls == []
    assert why in end(world)
    assert remedy in end(world)
    assert error(world).get("field", "").partition("/")[0] == (field or "")
    assert error(world)["attempt"] == 0


def test_a_budget_without_room_is_told_with_when_it_is_renewed():
    world = World(budgets={"default": {"tokens_day": 1}}).run()
    assert world.calls == []
    assert "tokens of this day has no room: 0 of 1 are used or held, and this call may take " in end(world)
    assert " 00:00 UTC; `sluicegate llm routes set budgets` changes it." in end(world)
    assert error(world) == {"error_class": "spend_limited", "attempt": 1}


def test_a_limit_of_calls_in_flight_is_told_with_when_to_ask_again(monkeypatch):
    spent = dict.fromkeys(("tokens_hour", "tokens_day", "nanos_hour", "nanos_day"), 0) | {"calls": 1}
    monkeypatch.setattr(Budgets, "spent", lambda *_: spent)
    world = World(budgets={"default": {"calls": 1}}).run()
    assert world.calls == []
    assert error(world) == {"error_class": "rate_limited", "attempt": 1, "retry_after_ms": 1_000}
    assert (world.rows[-1].state, world.rows[-1].error_class) == ("refused", "rate_limited")


@pytest.mark.parametrize(
    ("asking", "names"),
    [
        ({"prompt": "tutor", "model": "m2"}, ("m2", "default", 0, "tutor", 0)),
        ({"route": "other", "model": "m"}, ("m", "other", 0, "", 0)),
        ({"schema_json": '{"type": "nothing"}', "model": "m"}, ("m", "default", 1, "", 0)),
    ],
    ids=["prompt", "route", "after the plan"],
)
def test_what_was_refused_is_on_record_under_the_names_that_were_asked_for(asking, names):
    (row,) = World().run(**asking).rows
    assert (row.attempt, row.state, row.provider) == (0, "refused", "")
    assert (row.model, row.route, row.route_version, row.prompt, row.prompt_version) == names


def test_names_that_only_a_client_knows_make_no_groups_of_windows():
    (row,) = World().run(prompt="tutor", model="m2").rows
    assert Called.of_fields(asdict(row)) == ("default", "llm", "", "", "", 0)
    called = asdict(row) | {"provider": "here", "prompt_version": 3}
    assert Called.of_fields(called) == ("default", "llm", "here", "m2", "tutor", 3)
    called["model_named"] = False
    assert Called.of_fields(called) == ("default", "llm", "here", "other", "tutor", 3)
    partial_of_it = Called.of_fields(asdict(row))._asdict()
    assert Called.of_fields(partial_of_it) == Called.of_fields(asdict(row))


ANY = {"candidates": [{"target": "here", "when": {"models": ["*", "ours"]}}]}
NO_MODEL = refusal("404 Not Found", "no such model")


def series(world):
    """Models by which the worker counts calls."""
    rendered = world.metrics.render().decode().splitlines()
    return {
        line.split('model="')[1].split('"')[0]
        for line in rendered
        if line.startswith("sluicegate_llm_attempts_total")
    }


@pytest.mark.parametrize(
    ("model", "answer", "name"),
    [
        ("junk", NO_MODEL, "other"),
        ("ours", NO_MODEL, "ours"),
        ("near/1", said("Hello"), "near/1"),
        ("priced", NO_MODEL, "priced"),
    ],
    ids=["unknown", "of the route", "answered", "priced"],
)
def test_a_model_that_a_client_alone_names_has_no_group_before_it_answers(model, answer, name):
    world = World(answer, prices={"here/priced": {"input_usd": 1, "output_usd": 1}}, **ANY).run(model=model)
    assert world.rows[-1].model == model
    assert Called.of_fields(asdict(world.rows[-1])).model == name
    assert series(world) == {name}


def test_places_of_prometheus_are_taken_by_no_name_that_never_answered():
    metrics = LlmMetrics(lambda: 0)
    junk = Attempt(tenant="t", stream_id="s", kind="llm", attempt=1, epoch=0, provider="here", state="failed")
    for number in range(210):
        metrics.settled(replace(junk, model=f"junk-{number}", model_named=False))
    metrics.settled(replace(junk, model="real"))
    for number in range(210):
        metrics.settled(replace(junk, model=f"answered-{number}"))
    metrics.settled(replace(junk, model="ours"), configured=True)
    rendered = metrics.render().decode()
    assert 'model="junk-' not in rendered
    assert 'model="real"' in rendered
    assert 'model="ours"' in rendered


def test_a_model_that_answered_of_late_fails_under_its_name():
    figures = Figures()
    row = Attempt(tenant="t", stream_id="s", kind="llm", attempt=1, epoch=0, provider="here", model="m")
    figures.take(replace(row, state="failed", error_class="server", model_named=False))
    assert not figures.knows("here", "m")
    figures.take(replace(row, state="completed"))
    assert figures.knows("here", "m")
