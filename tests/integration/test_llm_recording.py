"""What a worker kept of a provider's answer becomes a recording, and the commands that record and play."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import httpx2
import orjson
import pytest

from connectors.llm.loopback.demo import TEXT
from connectors.llm.loopback.library import OURS
from connectors.llm.loopback.play import HTML
from connectors.llm.loopback.server import LoopbackOptions, LoopbackThread
from connectors.llm.recording import SUFFIX, read_recording
from schemas.topics import LLM_ROUTES
from tests.support.llm_world import TOPICS, LlmWorld

SHAPES = ["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"]


def sluicegate(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops", "llm", *words],
        env={**os.environ, "NO_COLOR": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path):
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="module")
def loopback():
    with LoopbackThread(LoopbackOptions(speed=0)) as loopback:
        yield loopback


def route(world: LlmWorld, **config: object) -> None:
    record = {"name": "default", "version": 1, "config_json": orjson.dumps(config).decode(), "time_us": 1}
    world.append(LLM_ROUTES, b"default/1", world.wire.encode(LLM_ROUTES.subject, record))


def test_what_a_worker_kept_of_a_stream_is_the_recording_that_its_provider_played(world, loopback, tmp_path):
    target = {"shape": "anthropic", "base_url": loopback.base_url("anthropic"), "models": ["*"]}
    candidates = [{"target": "here", "model": "welcome?speed=0"}]
    route(world, candidates=candidates, keep={"raw": "full"})
    world.worker({"here": target})
    world.ask("a-1")
    world.ask("a-2")
    answers = world.answers("a-1", "a-2")
    assert [answer.text for answer in answers] == [TEXT, TEXT]
    file = tmp_path / f"kept{SUFFIX}"
    done = sluicegate("record", str(file), "--stream", "default/a-1", environment=world.environment({}))
    assert done.returncode == 0, done.stderr
    kept, played = read_recording(file), read_recording(OURS / f"welcome.anthropic{SUFFIX}")
    assert [(each.event, each.data) for each in kept.events] == [
        (each.event, each.data) for each in played.events
    ]
    assert (kept.shape, kept.note) == ("anthropic", "default/a-1, attempt 1")


def test_a_page_and_a_refusal_that_a_worker_kept_are_recorded_as_they_came(world, loopback, tmp_path):
    target = {"shape": "anthropic", "base_url": loopback.base_url("anthropic"), "models": ["*"]}
    page = {"target": "here", "model": "words?fault=html", "retries": 0}
    busy = {"target": "here", "model": "words?fault=overloaded&retry_after=7", "retries": 0}
    route(world, candidates=[page, busy], keep={"raw": "full"}, fallback_on=["malformed"])
    world.worker({"here": target})
    world.ask("b-1")
    world.answers("b-1")
    found = []
    for attempt in ("1", "2"):
        file = tmp_path / f"{attempt}{SUFFIX}"
        words = ("record", str(file), "--stream", "default/b-1", "--attempt", attempt)
        done = sluicegate(*words, environment=world.environment({}))
        assert done.returncode == 0, done.stderr
        found.append(read_recording(file))
    assert (found[0].status, found[0].body, found[0].headers["content-type"]) == (200, HTML, "text/html")
    assert (found[1].status, found[1].headers["retry-after"]) == (529, "7")
    assert orjson.loads(found[1].body)["error"]["type"] == "overloaded_error"


def test_a_stream_of_which_nothing_was_kept_is_told_with_what_to_do(world, tmp_path):
    words = ("record", str(tmp_path / "none"), "--stream", "default/none")
    done = sluicegate(*words, environment=world.environment({}))
    assert done.returncode == 1
    assert "nothing was kept of default/none" in done.stderr
    assert "keep.raw" in done.stderr
    assert list(tmp_path.glob(f"*{SUFFIX}")) == []


def test_a_recording_of_a_call_is_played_in_the_terminal(loopback, tmp_path):
    where = ("--url", loopback.base_url("gemini"), "--shape", "gemini")
    recorded = sluicegate("record", str(tmp_path / "hello"), *where, "--model", "welcome", "--prompt", "hi")
    assert recorded.returncode == 0, recorded.stderr
    played = sluicegate("play", str(tmp_path / f"hello{SUFFIX}"), "--speed", "0")
    assert (played.returncode, played.stdout.removesuffix("\n")) == (0, TEXT)
    assert "finished: stop" in played.stderr
    assert played.stderr.count("usage:") == 1


def test_an_answer_that_is_cut_is_recorded_played_and_told(loopback, tmp_path):
    asked = ("--shape", "anthropic", "--model", "words?fault=cut", "--prompt", "hi")
    recorded = sluicegate("record", str(tmp_path / "cut"), "--url", loopback.url, *asked)
    assert (recorded.returncode, "recorded as far as it came" in recorded.stderr) == (1, True)
    played = sluicegate("play", str(tmp_path / f"cut{SUFFIX}"), "--speed", "0")
    assert (played.returncode, "truncated" in played.stderr) == (1, True)
    assert len(played.stdout.split()) == 3


def test_a_key_of_the_settings_is_sent_and_is_in_no_file_and_no_output(loopback, tmp_path):
    key = "sk-very-secret-0123456789"
    providers = {
        "here": {"shape": "openai-chat", "base_url": loopback.base_url("openai-chat"), "api_key": key}
    }
    words = ("--provider", "here", "--model", "words?fault=unauthorized", "--prompt", "hi")
    environment = {"SLUICEGATE_LLM__PROVIDERS": orjson.dumps(providers).decode()}
    done = sluicegate("record", str(tmp_path / "refused"), *words, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "status 401" in done.stderr
    assert loopback.seen[-1].headers["authorization"] == "***"
    file = tmp_path / f"refused{SUFFIX}"
    assert key not in done.stdout + done.stderr + file.read_text()


def test_the_loopback_command_says_where_it_is_and_ends_on_a_signal():
    process = subprocess.Popen(
        [sys.executable, "-m", "ops", "llm", "loopback", "--model", "gpt-x=echo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
    )
    try:
        bases = dict(process.stdout.readline().split() for _ in SHAPES)
        assert list(bases) == SHAPES
        body = {"model": "gpt-x", "messages": [{"role": "user", "content": "hello there"}]}
        answer = httpx2.post(f"{bases['ollama']}/api/chat", json=body)
        said = [orjson.loads(line)["message"]["content"] for line in answer.text.splitlines()]
        assert "".join(said) == "hello there"
        time.sleep(0.6)  # a signal that follows its start at once is the same as none before
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(10)
    assert process.returncode == 0
    assert re.search(r"stopped after 1 calls", told)
