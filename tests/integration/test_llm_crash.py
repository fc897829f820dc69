"""A worker that calls language models dies by kill -9: one end, each call on record, the text whole."""

from __future__ import annotations

import random
import time

import pytest

from connectors.llm.loopback.server import LoopbackThread
from tests.support.llm_world import TOPICS, LlmWorld, until

CHUNKS = 14
"""Of an answer of the words below."""
WORDS = "words?tokens=14&seed=3"


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path):
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    yield world
    world.close()


@pytest.fixture
def loopback():
    with LoopbackThread() as loopback:
        yield loopback


def target(loopback):
    """Settings of a provider whose models are named by each request."""
    return {"here": {"shape": "openai-chat", "base_url": loopback.base_url("openai-chat"), "models": ["*"]}}


def check(world, loopback, streams, whole):
    """Hold every stream to what a crash must not change."""
    answers = dict(zip(streams, world.answers(*streams, deadline_s=120), strict=True))
    rows = world.rows()
    for name, answer in answers.items():
        assert answer.end == "completed"
        assert answer.text == whole, name
        epochs = [event.epoch for event, _ in answer.events]
        assert epochs == sorted(epochs)
    last = {(row.stream_id, row.attempt): row for row in rows}
    assert not [row for row in last.values() if row.state == "started"], "each attempt is settled"
    for name in streams:
        ended = [row for (stream, _), row in last.items() if stream == name and row.end_reason]
        assert len(ended) == 1
    # A call that reached the provider stands on the ledger: one row each, and none is missing.
    assert loopback.calls.total <= len(last)


def test_kill_at_every_chunk_of_an_answer(world, loopback):
    """One kill: as many streams as chunks, each held up by the provider after another chunk."""
    worker = world.worker(target(loopback), session_timeout_ms=6_000)
    world.ask("whole", model=f"here/{WORDS}")
    whole = world.answer("whole").text
    streams = [f"a-{after}" for after in range(CHUNKS + 1)]
    for after, name in enumerate(streams):
        world.ask(name, model=f"here/{WORDS}&fault=stall&after={after}&times=1&tag={name}")
    until(lambda: sum(seen.sent >= 1 for seen in loopback.seen if "stall" in seen.model) == len(streams))
    until(lambda: all(_stands(seen) for seen in loopback.seen if "stall" in seen.model))
    worker.kill()
    worker.start()
    check(world, loopback, streams, whole)
    abandoned = [row for row in world.rows() if row.state == "abandoned"]
    assert {row.error_class for row in abandoned} == {"crashed"}
    assert {row.stream_id for row in abandoned} == set(streams)
    assert worker.stop() == 0


def test_owners_that_die_one_after_the_other_lose_nothing_of_those_before_them(world, loopback):
    """The second owner dies with all of it under way: the third must know what the first has begun, too."""
    worker = world.worker(target(loopback), session_timeout_ms=6_000, queue_ms_max=120_000)
    world.ask("whole", model=f"here/{WORDS}")
    whole = world.answer("whole").text
    streams = [f"a-{number}" for number in range(12)]
    for name in streams:
        world.ask(name, model=f"here/{WORDS}&fault=stall&after=4&times=2&tag={name}")
    for calls in (1, 2):
        until(
            lambda calls=calls: sum("stall" in seen.model for seen in loopback.seen) >= calls * len(streams)
        )
        worker.kill()
        worker.start()
    check(world, loopback, streams, whole)
    assert {len(world.attempts(name)) for name in streams} == {3}


def test_a_worker_that_takes_over_a_few_and_dies_at_once_leaves_the_rest_as_it_was(world, loopback):
    """One call at a time: most requests of the first owner are not taken by the second before it dies."""
    slow = target(loopback)
    worker = world.worker(slow, session_timeout_ms=6_000, queue_ms_max=120_000)
    world.ask("whole", model=f"here/{WORDS}")
    whole = world.answer("whole").text
    streams = [f"a-{number}" for number in range(12)]
    for name in streams:
        world.ask(name, model=f"here/{WORDS}&fault=stall&after=4&times=1&tag={name}")
    until(lambda: sum("stall" in seen.model for seen in loopback.seen) >= len(streams))
    worker.kill()
    few = world.worker(slow, session_timeout_ms=6_000, queue_ms_max=120_000, calls_max=1)
    until(lambda: loopback.calls.total > len(streams) + 2)
    few.kill()
    few.start()
    check(world, loopback, streams, whole)
    assert loopback.calls.total <= len({(row.stream_id, row.attempt) for row in world.rows()})


def test_partitions_that_move_between_workers_under_load_lose_and_double_nothing(world, loopback):
    """A worker joins, one is stopped and one killed while calls begin, stream and end."""
    luck = random.Random(11)
    settings = {"session_timeout_ms": 6_000, "queue_ms_max": 120_000, "drain_ms": 100}
    world.worker(target(loopback), **settings)
    world.ask("whole", model=f"here/{WORDS}")
    whole = world.answer("whole").text
    streams = []

    def ask(count):
        for _ in range(count):
            streams.append(f"a-{len(streams)}")
            world.ask(streams[-1], model=f"here/{WORDS}&rate=20")
            time.sleep(luck.uniform(0, 0.15))

    def ask_until(workers):
        deadline = time.monotonic() + 60
        while len({row.worker for row in world.rows()}) < workers:
            assert time.monotonic() < deadline, "it was given no partition"
            ask(8)

    ask(15)
    second = world.worker(target(loopback), data="second", **settings)
    ask_until(2)
    third = world.worker(target(loopback), data="third", **settings)
    ask_until(3)
    ask(20)
    assert second.stop() == 0
    second.killed = True
    ask(10)
    third.kill()
    ask(15)
    check(world, loopback, streams, whole)


def test_kills_at_any_moment_while_requests_come(world, loopback):
    """Kills while calls begin, stream and end: every step of a transaction is hit sooner or later."""
    luck = random.Random(7)
    worker = world.worker(target(loopback), session_timeout_ms=6_000, queue_ms_max=120_000)
    world.ask("whole", model=f"here/{WORDS}")
    whole = world.answer("whole").text
    streams = []
    for _ in range(5):
        for _ in range(12):
            streams.append(f"a-{len(streams)}")
            world.ask(streams[-1], model=f"here/{WORDS}&rate=30")
            time.sleep(luck.uniform(0, 0.1))
        worker.kill()
        worker.start()
    check(world, loopback, streams, whole)
    assert any(row.state == "abandoned" for row in world.rows())


def _stands(seen) -> bool:
    """Whether the provider has sent all that it sends before it is silent."""
    return seen.outcome != "playing" or seen.sent >= seen.events
