"""The worker that calls language models, with real Kafka, a provider on loopback, and real processes."""

from __future__ import annotations

import pytest

from connectors.llm.loopback.server import LoopbackThread
from schemas.topics import DEAD_LETTERS, LLM_REQUESTS
from tests.support.llm_world import TOPICS, LlmWorld, until
from tests.support.read_topic import read_committed


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
    assert types[0] == "open"
    assert types[-1] == "end"
    assert answer.end == "completed"
    assert len(answer.text.split()) >= 20
    assert {event.task_id for event, _ in answer.events} == {"task-9"}
    (row,) = world.attempts("a-1")
    assert (row.attempt, row.state, row.finish, row.end_reason) == (1, "completed", "stop", "completed")
    assert (row.provider, row.characters) == ("here", len(answer.text))
    assert row.output_tokens
    assert row.usage_source == "provider"
    (usage,) = answer.of("usage")
    assert (usage["input_tokens"], usage["output_tokens"]) == (row.input_tokens, row.output_tokens)


def test_a_failure_before_content_is_invisible_and_the_next_provider_answers(world, loopback):
    world.worker({
        "first": target(loopback, "words?fault=server"),
        "second": target(loopback, "words?tokens=10", "anthropic"),
    })  # fmt: skip
    world.ask("a-1")
    answer = world.answer("a-1")
    assert answer.end == "completed"
    assert answer.text
    assert not answer.of("reset")
    rows = world.attempts("a-1")
    assert [(row.provider, row.state) for row in rows][-1] == ("second", "completed")
    assert {row.provider for row in rows[:-1]} == {"first"}
    assert all((row.state, row.error_class) == ("failed", "server") for row in rows[:-1])
    assert len(answer.of("usage")) == len(rows), "a failed attempt counts as a call, too"
    assert [row.end_reason for row in rows] == [""] * (len(rows) - 1) + ["completed"]


def test_an_answer_that_is_cut_after_content_is_superseded_by_another_attempt(world, loopback):
    world.worker({
        "first": target(loopback, "words?tokens=20&fault=cut&after=6"),
        "second": target(loopback, "words?tokens=12&seed=2"),
    })  # fmt: skip
    world.ask("a-1")
    answer = world.answer("a-1")
    assert answer.end == "completed"
    rows = world.attempts("a-1")
    assert rows[0].error_class == "truncated"
    assert len(answer.of("reset")) == len(rows) - 1
    assert len(answer.text) == rows[-1].characters, "nothing of the attempt that was cut is left"
    assert [row.epoch for row in rows] == list(range(len(rows)))


def test_nothing_left_to_try_ends_the_stream_with_what_went_wrong(world, loopback):
    world.worker({"only": target(loopback, "words?fault=unauthorized")})
    world.ask("a-1")
    answer = world.answer("a-1")
    (end,) = answer.of("end")
    assert end["reason"] == "upstream_error"
    assert "401" in end["message"] or "unauthorized" in end["message"]
    (row,) = world.attempts("a-1")
    assert (row.state, row.error_class, row.http_status) == ("failed", "unauthorized", 401)


def test_a_cancel_closes_the_providers_connection_and_keeps_what_there_is(world, loopback):
    world.worker({"slow": target(loopback, "words?tokens=2000&rate=40&tag=cancel")})
    world.ask("a-1")
    until(lambda: any(seen.model.endswith("tag=cancel") and seen.sent > 3 for seen in loopback.seen))
    world.cancel("a-1")
    answer = world.answer("a-1")
    assert answer.end == "cancelled"
    assert 0 < len(answer.text.split()) < 1_000
    (row,) = world.attempts("a-1")
    assert (row.state, row.error_class) == ("cancelled", "cancelled")
    assert row.output_tokens
    assert row.usage_source == "estimated"
    (seen,) = [seen for seen in loopback.seen if seen.model.endswith("tag=cancel")]
    until(lambda: seen.outcome == "client_closed")
    world.ask("a-2")
    until(lambda: sum(seen.model.endswith("tag=cancel") and seen.sent > 3 for seen in loopback.seen) == 2)
    world.time_out("a-2")
    until(lambda: any(row.end_reason for row in world.attempts("a-2")))
    (row,) = world.attempts("a-2")
    assert (row.state, row.end_reason) == ("cancelled", "timed_out")
    assert row.output_tokens


def test_a_request_that_cannot_be_used_is_told_in_its_stream_and_one_without_a_name_is_a_dead_letter(
    world, loopback
):
    world.worker({"here": target(loopback, "words")})
    world.ask("a-1", messages_json="[{]")
    world.ask("a-2", route="nowhere")
    first, second = world.answers("a-1", "a-2")
    assert "messages: is not JSON" in first.of("end")[0]["message"]
    assert "nowhere" in second.of("end")[0]["message"]
    assert [row.state for row in world.attempts("a-1")] == ["refused"]
    world.append(LLM_REQUESTS, b"default/a-3", b"\x00\x00\x00\x00\x09junk")
    (letter,) = read_committed(world.kafka, DEAD_LETTERS, 1)
    assert world.wire.decode(letter.value(), DEAD_LETTERS.subject)["agent"] == "llm"
    world.ask("a-4")
    assert world.answer("a-4").end == "completed"


def test_what_waits_for_a_call_is_told_when_it_is_over_without_one(world, loopback):
    world.worker({"slow": target(loopback, "words?tokens=2000&rate=20&tag=queue")}, calls_max=1)
    world.route("brief", candidates=[{"target": "slow", "model": "words"}], queue_ms=3_000)
    world.ask("a-1")
    until(lambda: any(seen.model.endswith("tag=queue") and seen.sent for seen in loopback.seen))
    world.ask("a-2")
    world.ask("a-3", route="brief")
    world.cancel("a-2")
    second, third = world.answers("a-2", "a-3")
    assert (second.end, third.end) == ("cancelled", "timed_out"), "while the only call goes on"
    assert [row.state for row in world.attempts("a-2") + world.attempts("a-3")] == ["refused"] * 2
    world.cancel("a-1")
    assert world.answer("a-1").end == "cancelled"


def test_the_same_request_again_is_not_asked_again(world, loopback):
    world.worker({"here": target(loopback, "words?tokens=5&tag=twice")})
    world.ask("a-1")
    world.answer("a-1")
    world.ask("a-1")
    world.ask("a-2")
    world.answers("a-1", "a-2")
    assert len([seen for seen in loopback.seen if seen.model.endswith("tag=twice")]) == 2
    assert len(world.attempts("a-1")) == 1


def test_two_questions_for_one_stream_at_one_moment_are_not_mixed_up(world, loopback):
    world.worker({"here": target(loopback, "words?tokens=2000&rate=20&tag=two")})
    world.ask("a-1", "What is my balance?")
    until(lambda: any(seen.model.endswith("tag=two") and seen.sent for seen in loopback.seen))
    world.ask("a-1", "What is my balance?", request_id="again")
    world.ask("a-1", "What is the weather?")
    answer = world.answer("a-1")
    assert answer.end == "upstream_error"
    assert "two questions came for this stream" in answer.of("end")[0]["message"]
    assert len([seen for seen in loopback.seen if seen.model.endswith("tag=two")]) == 1


def test_of_two_questions_for_one_stream_the_one_whose_open_ingest_took_is_answered(world, loopback):
    world.worker({"here": target(loopback, "echo?first_ms=1500&tag=opens")})
    for stream_id in ("a-1", "a-2"):
        world.ask(stream_id, "the first", open_id="open-1")
        world.ask(stream_id, "the second", open_id="open-2")
    until(lambda: sum(seen.model.endswith("tag=opens") for seen in loopback.seen) == 2)
    world.refuse_open("a-1", "open-2")
    world.refuse_open("a-2", "open-1")
    answers = world.answers("a-1", "a-2")
    assert [(answer.end, answer.text) for answer in answers] == [
        ("completed", "the first"), ("completed", "the second")
    ]  # fmt: skip
    assert not any(answer.of("reset") for answer in answers)
    assert [row.state for row in world.attempts("a-1")] == ["completed"]
    assert [row.state for row in world.attempts("a-2")] == ["cancelled", "completed"], "both were paid for"
