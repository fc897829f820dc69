"""The worker that calls language models, with real Kafka, a provider on loopback, and real processes."""

from __future__ import annotations

import pytest

from connectors.llm.loopback.server import LoopbackThread
from tests.support.llm_world import TOPICS, LlmWorld


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path):
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="module")
def loopback():
    with LoopbackThread() as loopback:
        yield loopback


def target(loopback, model, shape="openai-chat"):
    """Settings of a provider that asks the loopback for a model."""
    return {"shape": shape, "base_url": loopback.base_url(shape), "models": [model]}


def test_an_answer_is_a_stream_with_its_attempt_on_record(world, loopback):
    world.worker({"here": target(loopback, "words?tokens=30")})
    world.ask("a-1", task_id="task-9", request_id="req-9")
    answer = world.answer("a-1")
    types = [event.type for event, _ in answer.events]
    assert types[0] == "open" and types[-1] == "end" and answer.end == "completed"
    assert len(answer.text.split()) >= 20
    assert {event.task_id for event, _ in answer.events} == {"task-9"}
    (row,) = world.attempts("a-1")
    assert (row.attempt, row.state, row.finish, row.end_reason) == (1, "completed", "stop", "completed")
    assert (row.provider, row.characters) == ("here", len(answer.text))
    assert row.output_tokens and row.usage_source == "provider"
    (usage,) = answer.of("usage")
    assert (usage["input_tokens"], usage["output_tokens"]) == (row.input_tokens, row.output_tokens)
