"""A worker that calls language models dies by kill -9: one end, each call on record, the text whole."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter

import pytest

from connectors.llm.loopback.script import words
from connectors.llm.loopback.server import LoopbackOptions, LoopbackThread
from tests.support.llm_calls import check_on_record
from tests.support.llm_failpoints import AFTER_ITS_END, BEFORE_ITS_END, GATE
from tests.support.llm_stalls import recordings, stalled_name, stalls
from tests.support.llm_world import TOPICS, LlmWorld, until

CHUNKS = 14
"""Of an answer of the words below."""
WORDS = "words?tokens=14&seed=3"
WORD = max((word for word in words(CHUNKS, random.Random(3)) if word.isascii()), key=len).strip()
"""One of them, which a gate takes away."""
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}, "names": {"type": "array"}},
}


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
    """Settings of providers whose models are named by each request; ``kept`` can keep its answers."""
    shapes = {"here": "openai-chat", "kept": "openai-responses", "other": "anthropic"}
    return {
        name: {"shape": shape, "base_url": loopback.base_url(shape), "models": ["*"]}
        for name, shape in shapes.items()
    }


def check(world, loopback, whole):
    """Hold every stream to what a crash must not change, once nothing is left that could be done again.

    ``whole`` has the text of each.
    """
    until(world.is_at_rest, timeout_s=120)
    answers = dict(zip(whole, world.answers(*whole, deadline_s=120), strict=True))
    rows = world.rows()
    for name, answer in answers.items():
        assert answer.end == "completed"
        assert answer.ends_written == 1, name
        assert answer.text == whole[name], name
        epochs = [event.epoch for event, _ in answer.events]
        assert epochs == sorted(epochs)
    last = {(row.stream_id, row.attempt): row for row in rows}
    settled = Counter((row.stream_id, row.attempt) for row in rows if row.state != "started")
    assert settled == dict.fromkeys(last, 1), "each attempt is settled, once"
    ended = Counter(row.stream_id for row in rows if row.end_reason)
    assert {name: ended[name] for name in whole} == dict.fromkeys(whole, 1)
    check_on_record(loopback.seen, rows)
    return answers


def test_kill_at_every_chunk_of_an_answer(world, loopback):
    """One kill: as many streams as an answer has chunks, each held up by the provider after another one.

    Beside them a call of a tool, an answer with a schema, one that passes a gate, one whose clients cannot be
    told to forget, and one that its provider keeps; the worker dies as it is about to end one more.
    """
    kept = f"{WORDS}&fault=stall&after=5&times=1&tag=r-5"
    candidates = [{"target": "kept", "model": kept, "can_resume": True}]
    world.route("kept", candidates=candidates, after_content="resume")
    gate = {"hold_characters": 16, "rules": [["word", rf"\b{WORD}\b", "rewrite:[gone]"]], "function": GATE}
    world.route("gated", candidates=[{"target": "here"}], gate=gate)
    worker = world.worker(target(loopback), session_timeout_ms=6_000, gate_functions=GATE)
    world.ask("whole", model=f"here/{WORDS}&tag=whole")
    whole = world.answer("whole").text
    streams = [f"a-{after}" for after in range(CHUNKS + 1)]
    for after, name in enumerate(streams):
        world.ask(name, model=f"here/{WORDS}&fault=stall&after={after}&times=1&tag={name}")
    # The clients of these cannot be told to forget what they have; before there is anything, nothing is lost.
    for after in (0, 5):
        name = f"{WORDS}&fault=stall&after={after}&times=1&tag=s-{after}"
        world.ask(f"s-{after}", model=f"here/{name}", after_content="surface")
    world.ask("r-5", route="kept")
    tool, schema = json.dumps([{"name": "look", "parameters": SCHEMA}]), json.dumps(SCHEMA)
    for name, stall in (("whole", ""), ("2", "&fault=stall&after=2&times=1")):
        world.ask(f"t-{name}", model=f"other/tool?seed=3{stall}&tag=t-{name}", tools_json=tool)
        shaped = f"here/json?seed=3{stall}&tag=j-{name}"
        world.ask(f"j-{name}", model=shaped, schema_json=schema, schema_name="trip")
    world.ask("g-9", model=f"here/{WORDS}&fault=stall&after=9&times=1&tag=g-9", route="gated")
    stalled = len(streams) + 6
    until(lambda: sum(seen.sent >= 1 for seen in loopback.seen if "stall" in seen.model) == stalled)
    until(lambda: all(_stands(seen) for seen in loopback.seen if "stall" in seen.model))
    until(lambda: any(row.stream_id == "s-5" and row.contents for row in world.rows()))
    until(lambda: any(row.stream_id == "r-5" and row.provider_request_id for row in world.rows()))
    world.ask(BEFORE_ITS_END, model=f"here/{WORDS}&tag={BEFORE_ITS_END}")
    worker.dies()
    worker.start()
    streams.append(BEFORE_ITS_END)
    check(world, loopback, dict.fromkeys(streams, whole))
    abandoned = [row for row in world.rows() if row.state == "abandoned"]
    assert {row.error_class for row in abandoned} == {"crashed"}
    assert {row.stream_id for row in abandoned} == {*streams, "s-0", "s-5", "t-2", "j-2", "g-9"}
    unseen, seen, resumed = world.answers("s-0", "s-5", "r-5")
    assert (resumed.end, resumed.text) == ("completed", whole)
    assert [(row.state, row.why) for row in world.attempts("r-5")] == [("completed", "resume")]
    assert sum("r-5" in seen.body for seen in loopback.seen) == 1, "it was paid for once"
    assert (unseen.end, unseen.text, unseen.of("reset")) == ("completed", whole, [])
    assert (seen.end, seen.of("reset")) == ("upstream_error", [])
    assert seen.text
    assert whole.startswith(seen.text)
    gated, called, called_whole, shaped, shaped_whole = world.answers(
        "g-9", "t-2", "t-whole", "j-2", "j-whole"
    )
    assert WORD in whole
    assert (gated.end, gated.text) == ("completed", re.sub(rf"\b{WORD}\b", "[gone]", whole))
    assert (called.end, called.channel("tool")) == ("completed", called_whole.channel("tool"))
    assert json.loads(called.channel("tool")).keys() == SCHEMA["properties"].keys()
    assert (shaped.end, shaped.text) == ("completed", shaped_whole.text)
    final = shaped.of("structured")[-1]
    assert (final["json"], final["complete"], final["problem"]) == (shaped.text, True, "")
    for answer in (unseen, seen, resumed, gated, called, shaped):
        assert answer.ends_written == 1
    assert worker.stop() == 0


def test_kill_at_every_chunk_of_a_recording_of_each_shape(world, tmp_path):
    """One kill: a stream for each chunk of an answer that each provider gave, held up before it."""
    folder = recordings(tmp_path / "recordings")
    with LoopbackThread(LoopbackOptions(recordings=folder, speed=0)) as loopback:
        for stall in stalls():
            loopback.answers.set_model(stall.model, stalled_name(stall))
        shapes = sorted({stall.shape for stall in stalls()})
        providers = {
            f"of-{shape}": {"shape": shape, "base_url": loopback.base_url(shape), "models": ["*"]}
            for shape in shapes
        }
        worker = world.worker(providers, session_timeout_ms=6_000)
        for shape in shapes:
            world.ask(f"whole-{shape}", model=f"of-{shape}/reasoning?tag=whole-{shape}")
        whole = dict(zip(shapes, world.answers(*(f"whole-{shape}" for shape in shapes)), strict=True))
        for stall in stalls():
            world.ask(stall.stream, model=f"of-{stall.shape}/{stall.model}")
        wanted = {stall.model: stall.chunks for stall in stalls()}
        until(lambda: {seen.model: seen.sent for seen in loopback.seen if seen.model in wanted} == wanted)
        worker.kill()
        for stall in stalls():
            loopback.answers.set_model(stall.model, "reasoning")
        worker.start()
        answers = check(world, loopback, {stall.stream: whole[stall.shape].text for stall in stalls()})
        for stall in stalls():
            shown = answers[stall.stream].channel("reasoning")
            assert shown == whole[stall.shape].channel("reasoning"), stall.stream
        last = {(row.stream_id, row.attempt): row.state for row in world.rows()}
        for stall in stalls():
            states = [last.get((stall.stream, attempt)) for attempt in (1, 2, 3)]
            assert states == ["abandoned", "completed", None], stall.stream
        assert worker.stop() == 0


def test_owners_that_die_one_after_the_other_lose_nothing_of_those_before_them(world, loopback):
    """The second owner dies with all of it under way: the third must know what the first has begun, too.

    It dies when the end of one more is in Kafka, and nobody was told.
    """
    settings = {"session_timeout_ms": 6_000, "queue_ms_max": 120_000, "gate_functions": GATE}
    worker = world.worker(target(loopback), **settings)
    world.ask("whole", model=f"here/{WORDS}&tag=whole")
    whole = world.answer("whole").text
    streams = [f"a-{number}" for number in range(12)]
    for name in streams:
        world.ask(name, model=f"here/{WORDS}&fault=stall&after=4&times=2&tag={name}")
    for calls in (1, 2):
        until(
            lambda calls=calls: sum("stall" in seen.model for seen in loopback.seen) >= calls * len(streams)
        )
        if calls == 1:
            worker.kill()
        else:
            world.ask(AFTER_ITS_END, model=f"here/{WORDS}&tag={AFTER_ITS_END}")
            worker.dies()
        worker.start()
    check(world, loopback, dict.fromkeys([*streams, AFTER_ITS_END], whole))
    assert {len(world.attempts(name)) for name in streams} == {3}
    assert [row.state for row in world.attempts(AFTER_ITS_END)] == ["completed"], "it was asked once"


def test_a_worker_that_takes_over_a_few_and_dies_at_once_leaves_the_rest_as_it_was(world, loopback):
    """One call at a time: most requests of the first owner are not taken by the second before it dies."""
    slow = target(loopback)
    worker = world.worker(slow, session_timeout_ms=6_000, queue_ms_max=120_000)
    world.ask("whole", model=f"here/{WORDS}&tag=whole")
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
    check(world, loopback, dict.fromkeys(streams, whole))


def test_partitions_that_move_between_workers_under_load_lose_and_double_nothing(world, loopback):
    """A worker joins, one is stopped and one killed while calls begin, stream and end."""
    luck = random.Random(11)
    settings = {"session_timeout_ms": 6_000, "queue_ms_max": 120_000, "drain_ms": 100}
    world.worker(target(loopback), **settings)
    world.ask("whole", model=f"here/{WORDS}&tag=whole")
    whole = world.answer("whole").text
    streams = []

    def ask(count):
        for _ in range(count):
            streams.append(f"a-{len(streams)}")
            world.ask(streams[-1], model=f"here/{WORDS}&rate=20&tag={streams[-1]}")
            time.sleep(luck.uniform(0, 0.15))

    def ask_until(workers):
        deadline = time.monotonic() + 60
        # One look may be slow, or miss the end of a partition that is written all the time: the next sees it.
        while len({row.worker for row in world.rows(quiet_s=0, deadline_s=10)}) < workers:
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
    check(world, loopback, dict.fromkeys(streams, whole))


def test_kills_at_any_moment_while_requests_come(world, loopback):
    """Kills while calls begin, stream and end: every step of a transaction is hit sooner or later."""
    luck = random.Random(7)
    worker = world.worker(target(loopback), session_timeout_ms=6_000, queue_ms_max=120_000)
    world.ask("whole", model=f"here/{WORDS}&tag=whole")
    whole = world.answer("whole").text
    streams = []
    for _ in range(5):
        for _ in range(12):
            streams.append(f"a-{len(streams)}")
            world.ask(streams[-1], model=f"here/{WORDS}&rate=30&tag={streams[-1]}")
            time.sleep(luck.uniform(0, 0.1))
        worker.kill()
        worker.start()
    check(world, loopback, dict.fromkeys(streams, whole))
    assert any(row.state == "abandoned" for row in world.rows())


def _stands(seen) -> bool:
    """Whether the provider has sent all that it sends before it is silent."""
    return seen.outcome != "playing" or seen.sent >= seen.events
