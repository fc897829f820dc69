"""What a route says, through the real worker: modes after content, gates, schemas, what is kept, budgets."""

from __future__ import annotations

import orjson
import pytest

from connectors.llm.attempts import attempts_of
from connectors.llm.loopback.server import LoopbackThread
from schemas.topics import LLM_CONTENTS, LLM_RAW
from tests.support.llm_world import TOPICS, LlmWorld
from tests.support.read_topic import read_committed

ORDER = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture(scope="module")
def loopback():
    with LoopbackThread() as loopback:
        yield loopback


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path, loopback):
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    base = loopback.base_url("openai-chat")
    world.providers = {
        "here": {"shape": "openai-chat", "base_url": base, "models": ["*"]},
        "there": {"shape": "openai-chat", "base_url": base, "models": ["*"]},
    }
    yield world
    world.close()


def only(model, target="here", **others):
    """A candidate that is tried once."""
    return {"target": target, "model": model, "retries": 0, **others}


def test_what_follows_a_failure_after_content_is_what_the_route_says(world):
    cut = only("words?tokens=20&fault=cut&after=6&seed=5")
    whole = only("words?tokens=9&seed=6", "there")
    world.route("restart", candidates=[cut, whole], after_content="restart")
    world.route("surface", candidates=[cut, whole], after_content="surface")
    goes_on = only("words?tokens=9&seed=6", "there", can_continue=True)
    world.route("continue", candidates=[cut, goes_on], after_content="continue")
    world.worker(world.providers)
    for name in ("restart", "surface", "continue"):
        world.ask(name, route=name)
    restart, surface, goes_on = world.answers("restart", "surface", "continue")

    assert restart.end == "completed"
    assert len(restart.of("reset")) == 1
    first, second = world.attempts("restart")
    assert len(restart.text) == second.characters

    assert surface.end == "upstream_error"
    assert surface.text
    assert not surface.of("reset")
    assert len(world.attempts("surface")) == 1, "nothing more is tried"

    assert goes_on.end == "completed"
    assert not goes_on.of("reset")
    first, second = world.attempts("continue")
    assert second.why == "continue"
    assert len(goes_on.text) == first.characters + second.characters, "what there was stays"
    assert goes_on.text.endswith(restart.text)


def test_a_gate_rewrites_or_ends_an_answer_before_any_client_sees_it(world):
    secret = "the key is sk-12345 and that is that"
    for name, action in (("rewrite", "rewrite:[key]"), ("end", "end:a key was in it")):
        rules = [["keys", "sk-[0-9]+", action]]
        world.route(name, candidates=[only("echo")], gate={"hold_characters": 40, "rules": rules})
    world.worker(world.providers)
    world.ask("rewritten", secret, route="rewrite")
    world.ask("ended", secret, route="end")
    rewritten, ended = world.answers("rewritten", "ended")
    assert rewritten.end == "completed"
    assert rewritten.text == secret.replace("sk-12345", "[key]")
    assert world.attempts("rewritten")[0].gate == "rewritten keys=1"
    assert ended.end == "upstream_error"
    assert "sk-" not in ended.text
    (row,) = world.attempts("ended")
    assert (row.error_class, row.gate) == ("gate", "ended:a key was in it keys=1")
    assert "a key was in it" in ended.of("end")[0]["message"]


def test_an_answer_is_held_against_its_schema_and_a_schema_that_cannot_be_used_costs_nothing(
    world,
):
    world.worker(world.providers)
    schema = orjson.dumps(ORDER).decode()
    world.ask("good", model="here/json", schema_json=schema, schema_name="order")
    world.ask("bad", '["no object"]', model="here/echo", schema_json=schema, schema_name="order")
    world.ask("none", model="here/echo", schema_json='{"type": "nothing"}')
    good, bad, none = world.answers("good", "bad", "none")
    (last,) = [shown for shown in good.of("structured") if shown["complete"]]
    assert (last["schema_name"], last["problem"]) == ("order", "")
    assert orjson.loads(last["json"]) == orjson.loads(good.text)
    (last,) = [shown for shown in bad.of("structured") if shown["complete"]]
    assert last["problem"]
    assert none.end == "upstream_error"
    assert [row.state for row in world.attempts("none")] == ["refused"]


def test_what_is_kept_is_what_the_route_says_and_raw_events_can_be_had_back(world, loopback):
    keep = {"input": "full", "output": "redacted", "raw": "full"}
    world.route("kept", candidates=[only("echo?tag=kept")], keep=keep)
    world.worker(world.providers)
    world.ask("a-1", "a word", route="kept")
    world.ask("a-2", "a word", model="here/echo")
    answer, _ = world.answers("a-1", "a-2")
    assert {(row.input_json, row.output_json) for row in world.rows()} == {(None, None)}, (
        "the ledger has none"
    )
    before, after = world.rows(topic=LLM_CONTENTS)
    assert (before.stream_id, before.state, before.output_json) == ("a-1", "started", None)
    assert (after.stream_id, after.state) == ("a-1", "completed"), "nothing of others is kept"
    (row,) = attempts_of(world.kafka, world.wire, "default", "a-1").attempts
    assert orjson.loads(row.input_json)["messages"][0]["content"] == "a word"
    assert orjson.loads(row.output_json)["text"] == "·" * len(answer.text)
    (other,) = attempts_of(world.kafka, world.wire, "default", "a-2").attempts
    assert (other.input_json, other.output_json) == (None, None), "nothing is kept by default"
    kept = [world.wire.decode(m.value(), LLM_RAW.subject) for m in read_committed(world.kafka, LLM_RAW, 1)]
    assert {record["stream_id"] for record in kept} == {"a-1"}
    chunks = [chunk for record in kept for chunk in record["chunks"]]
    assert len(chunks) == row.chunks
    assert chunks[-1] == "[DONE]"
    texts = [orjson.loads(chunk)["choices"] for chunk in chunks[:-1]]
    assert "".join(c["delta"].get("content") or "" for each in texts for c in each) == answer.text


def test_a_budget_that_is_spent_refuses_before_a_provider_is_called(world, loopback):
    world.route("budgets", tenants={"default": {"tokens_hour": 1_000}})
    world.route("small", candidates=[only("words?tokens=300&tag=budget")], max_output_tokens=400)
    world.worker(world.providers)
    names = [f"a-{number}" for number in range(6)]
    for name in names:
        world.ask(name, route="small")
        world.answer(name)
    ends = {name: answer.of("end")[0] for name, answer in zip(names, world.answers(*names), strict=True)}
    refused = [name for name, end in ends.items() if end["reason"] == "upstream_error"]
    made = [seen for seen in loopback.seen if seen.model.endswith("tag=budget")]
    assert made
    assert refused == names[len(made) :], "once it is spent, nobody is let through"
    for name in refused:
        assert "budget" in ends[name]["message"]
        assert [row.state for row in world.attempts(name)] == ["refused"]
