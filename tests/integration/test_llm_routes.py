"""Routes, prompts, prices and budgets over a real worker: changed while it runs, known after a restart."""

from __future__ import annotations

import json
import time
from contextlib import closing

import pytest

from connectors.llm.loopback.server import LoopbackThread
from ops.llm_versions import PromptVersions, Versions
from ops.settings import Settings
from schemas.topics import AUDIT
from tests.support.llm_world import TOPICS, LlmWorld

PROMPT = {"messages": [{"role": "system", "content": "Answer in {language}."}], "variables": {"language": {}}}
PRICE = {"input_usd": "1", "output_usd": "2"}


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path):
    topics(*TOPICS, AUDIT)
    world = LlmWorld(kafka_options, registry, tmp_path)
    yield world
    world.close()


@pytest.fixture
def versions(world, kafka_options, stack):
    with closing(Versions(Settings(), kafka_options, stack.registry_url)) as versions:
        yield versions


def route(model, **more):
    return json.dumps(
        {
            "candidates": [{"target": "here", "model": model}],
            "prices": {"here/*": PRICE},
            "max_output_tokens": 500,
        }
        | more
    )


def test_a_worker_goes_by_what_is_written_and_a_spent_budget_outlives_it(world, versions):
    versions.add_route("default", route("words?tokens=30"), "first", 0)
    versions.add_prompt("tutor", json.dumps(PROMPT), "first", 0)
    versions.move_label("tutor", "production", {1: 100}, "use it", versions.prompt("tutor"))
    with LoopbackThread() as loopback:
        provider = {"shape": "openai-chat", "base_url": loopback.base_url("openai-chat")}
        worker = world.worker({"here": provider})

        # A route, a prompt and its price, all in the attempt's record
        world.ask("a-1", prompt="tutor", variables_json='{"language": "French"}')
        assert world.answer("a-1").end == "completed"
        (row,) = world.attempts("a-1")
        assert (row.route, row.route_version, row.prompt, row.prompt_version) == ("default", 1, "tutor", 1)
        assert (row.cost_source, row.price_version) == ("known", "route")
        assert row.cost_nanos == row.input_tokens * 1_000 + row.output_tokens * 2_000
        assert row.reserved_tokens > 500
        assert row.reserved_nanos >= 500 * 2_000

        # Changed while it runs: within moments another version is gone by
        versions.add_route("default", route("words?tokens=12"), "shorter", 1)
        number = 0
        while row.route_version == 1:
            number += 1
            assert number < 100
            world.ask(f"b-{number}")
            assert world.answer(f"b-{number}").end == "completed"
            (row,) = world.attempts(f"b-{number}")
        assert (row.route_version, row.model) == (2, "words?tokens=12")

        # What a prompt, a label, or a route is not, is said to who asked
        world.ask("x-1", prompt="tutor")
        world.ask("x-2", prompt="tutr")
        world.ask("x-3", route="other")
        ends = [answer.of("end")[0] for answer in world.answers("x-1", "x-2", "x-3")]
        assert {end["reason"] for end in ends} == {"upstream_error"}
        for end, said in zip(
            ends, ["needs variable 'language'", "no prompt 'tutr'", "no route 'other'"], strict=True
        ):
            assert said in end["message"]

        # A budget: what a call may come to does not fit any more, here and in the worker after it
        taken = sum(r.input_tokens + r.output_tokens for r in [row, *world.attempts("a-1")])
        budgets = {"default": {"tokens_day": taken + 400}}
        versions.add_route("budgets", json.dumps(budgets), "bounded", 0)
        number = 0
        while True:
            number += 1
            assert number < 100
            world.ask(f"c-{number}")
            (end,) = world.answer(f"c-{number}").of("end")
            if end["reason"] != "completed":
                break
        assert "budget of tokens of this day has no room" in end["message"]
        assert "renewed at " in end["message"], "this is more than the whole of it"
        assert worker.stop() == 0
        worker.start()
        world.ask("d-1")
        (end,) = world.answer("d-1").of("end")
        assert "budget of tokens of this day has no room" in end["message"], "it has read what was spent"
        (refused,) = world.attempts("d-1")
        assert (refused.state, refused.cost_nanos) == ("refused", None)
    assert versions.prompts().get("tutor", PromptVersions()).labels == {"production": [{1: 100}]}


def cut_then_whole(mode, **more):
    """A route whose first candidate breaks off after some content, for good."""
    first = {"target": "here", "model": "words?tokens=20&fault=cut&after=6&tag=cut", "retries": 0, **more}
    second = {"target": "here", "model": "words?tokens=12&seed=2&tag=whole", **more}
    return json.dumps({"candidates": [first, second], "after_content": mode})


def test_after_content_each_mode_does_what_it_says(world, versions):
    for mode in ("surface", "restart", "continue"):
        versions.add_route(mode, cut_then_whole(mode, can_continue=mode == "continue"), "a mode", 0)
    hurried = json.dumps({"candidates": [{"target": "here", "model": "words"}], "queue_ms": 100})
    versions.add_route("hurried", hurried, "no patience", 0)
    with LoopbackThread() as loopback:
        world.worker({"here": {"shape": "openai-chat", "base_url": loopback.base_url("openai-chat")}})
        for mode in ("surface", "restart", "continue"):
            world.ask(mode, route=mode)
        world.ask("late", route="hurried", time_us=time.time_ns() // 1_000 - 5_000_000)
        surface, restart, going_on, late = world.answers("surface", "restart", "continue", "late")

        assert (surface.end, bool(surface.text)) == ("upstream_error", True)
        assert "this route ends there" in surface.of("end")[0]["message"]
        assert [row.error_class for row in world.attempts("surface")] == ["truncated"]

        assert (restart.end, len(restart.of("reset"))) == ("completed", 1)
        cut, whole = world.attempts("restart")
        assert (whole.why, len(restart.text)) == ("restart", whole.characters)

        # The second provider was given what clients had, and went on behind it
        assert (going_on.end, going_on.of("reset")) == ("completed", [])
        cut, whole = world.attempts("continue")
        assert (whole.why, whole.epoch) == ("continue", cut.epoch)
        assert len(going_on.text) == cut.characters + whole.characters
        (last,) = [
            message
            for seen in loopback.seen
            if "tag=whole" in seen.model
            for message in json.loads(seen.body)["messages"]
            if message["role"] == "assistant"
        ]
        assert last["content"] == going_on.text[: cut.characters]

        assert late.end == "timed_out"
        assert "100 ms of its route" in late.of("end")[0]["message"]
