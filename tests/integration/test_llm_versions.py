"""`sluicegate llm routes` and `prompts` over a real Kafka: checked, one writer at a time, followed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest

from connectors.llm.book import Book
from connectors.llm.calls import Target
from connectors.llm.follow import BookFollower
from connectors.llm.routing import draw_of
from ops.cli import run
from ops.llm_versions import Overtaken, Versions
from ops.settings import Settings
from schemas.topics import AUDIT, LLM_CONTENTS, LLM_PROMPTS, LLM_ROUTES, TOPICS
from schemas.wire import WireCodec
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from ops.stack.addresses import Addresses

ROUTE = {"candidates": [{"target": "openai", "model": "one"}]}
OTHER = {"candidates": [{"target": "openai", "model": "two"}], "attempts_max": 2}
PROMPT = {"messages": [{"role": "system", "content": "Answer in {language}."}], "variables": {"language": {}}}


class Line:
    """`sluicegate llm` in this process: a command takes a tenth of the time of a process of its own."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._captured = captured

    def run(self, *words: str) -> tuple[int, str, str]:
        self._captured.readouterr()
        code = run(["llm", *words])
        return code, *self._captured.readouterr()

    def told(self, *words: str) -> dict[str, Any]:
        code, out, err = self.run(*words, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    def written(self, name: str, value: object) -> str:
        file = self.folder / name
        file.write_text(json.dumps(value))
        return str(file)


@pytest.fixture
def line(
    tmp_path: Path,
    stack: Addresses,
    kafka_options: KafkaOptions,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Line:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "KAFKA__BOOTSTRAP_SERVERS": kafka_options.bootstrap_servers,
        "KAFKA__TOPIC_PREFIX": kafka_options.topic_prefix,
        "REGISTRY__URL": stack.registry_url,
        "LLM__PROVIDERS__OPENAI__API_KEY": "sk-of-this-test",
    }.items():
        monkeypatch.setenv(f"SLUICEGATE_{name}", value)
    return Line(tmp_path, capfd)


def test_a_route_is_written_looked_at_and_rolled_back(
    line: Line, kafka_options: KafkaOptions, registry: Registry
) -> None:
    one, other = line.written("one.json", ROUTE), line.written("other.json", OTHER)
    assert line.told("routes", "get") == {"routes": []}

    # A dry run shows what would change, and writes nothing; --yes needs a reason
    assert line.told("routes", "set", "default", one)["dry_run"] is True
    assert line.run("routes", "set", "default", one, "--yes")[0] == 2
    assert line.told("routes", "get") == {"routes": []}

    # Written; what is wrong in a file is named, and nothing is written
    assert line.told("routes", "set", "default", one, "--reason", "first", "--yes")["version"] == 1
    bad = line.written("bad.json", ROUTE | {"attempts_maximum": 3})
    code, _, err = line.run("routes", "set", "default", bad, "--reason", "x", "--yes")
    assert (code, "attempts_maximum" in err) == (1, True)
    changed = line.told("routes", "set", "default", other, "--reason", "second", "--yes")
    assert '-      "model": "one"' in changed["diff"]
    assert '+      "model": "two"' in changed["diff"]

    # What was made of a version that is not the latest any more is refused
    code, _, err = line.run("routes", "set", "default", one, "--on", "1", "--reason", "late", "--yes")
    assert (code, "version 2 was written in between" in err) == (1, True)

    back = line.told("routes", "roll-back", "default", "--to", "1", "--yes")
    assert (back["version"], '+      "model": "one"' in back["diff"]) == (3, True)
    assert line.told("routes", "get", "default")["config"] == ROUTE
    assert line.told("routes", "get", "default", "--version", "2")["config"] == OTHER
    history = line.told("routes", "history", "default")["versions"]
    assert [(row["version"], row["reason"], row["in_force"]) for row in history] == [
        (3, "back to version 1", True), (2, "second", False), (1, "first", False),
    ]  # fmt: skip

    codec = WireCodec(registry)
    audit = [
        codec.decode(one.value() or b"", AUDIT.subject) for one in read_committed(kafka_options, AUDIT, 3)
    ]
    assert [(row["action"], row["target"]) for row in audit] == [
        ("llm routes set", "default"), ("llm routes set", "default"), ("llm routes roll-back", "default"),
    ]  # fmt: skip
    assert audit[1]["undo"] == "sluicegate llm routes roll-back default --to 1 --yes"
    assert "sk-of-this-test" not in repr(audit)


@pytest.mark.parametrize(
    ("budgets", "times"),
    [
        ({"default": {"calls": 4}}, 0),
        ({"default": {"calls": 4, "tokens_day": 9}}, 1),
        ({"tenants": {"acme": {"usd_hour": 5}}}, 1),
    ],
    ids=["calls", "tokens", "money-of-one"],
)
def test_who_sets_a_budget_is_told_how_long_answers_get_by_it(
    line: Line, budgets: dict[str, Any], times: int
) -> None:
    code, _, err = line.run("routes", "set", "budgets", line.written("budgets.json", budgets))
    assert code == 0
    assert err.count("an answer gets 4,096 tokens") == times
    assert err.count("max_output_tokens") == times


def test_a_prompt_is_written_labelled_and_rolled_back_in_one_command(line: Line) -> None:
    file = line.written("prompt.json", PROMPT)
    line.told("prompts", "set", "support", file, "--reason", "first", "--yes")
    second = PROMPT | {"messages": [{"role": "system", "content": "Briefly, in {language}."}]}
    line.told("prompts", "set", "support", line.written("second.json", second), "--reason", "2", "--yes")
    undeclared = PROMPT | {"messages": [{"role": "system", "content": "In {langauge}."}]}
    code, _, err = line.run("prompts", "set", "support", line.written("bad.json", undeclared))
    assert (code, "{langauge} stands in a message" in err) == (1, True)

    line.told("prompts", "label", "support", "production", "1", "--reason", "use it", "--yes")
    moved = line.told("prompts", "label", "support", "production", "1=90", "2=10", "--reason", "try", "--yes")
    assert (moved["before"], moved["after"]) == ("1", "1=90 2=10")
    for words, said in [
        (("1=90", "2=20"), "make 110"), (("3",), "no version 3"), (("x",), "not VERSION"), ((), "no version"),
    ]:  # fmt: skip
        code, _, err = line.run("prompts", "label", "support", "production", *words)
        assert code, words
        assert said in err, words

    assert line.told("prompts", "roll-back", "support")["dry_run"] is True
    assert line.told("prompts", "roll-back", "support", "--yes")["after"] == "1"
    shown = line.told("prompts", "show", "support", "1")
    assert (shown["template"], shown["labels"]) == (PROMPT, {"production": {"1": 100}})
    code, _, err = line.run("prompts", "roll-back", "support", "--yes")
    assert (code, "stood for nothing else" in err) == (1, True)
    assert line.told("prompts", "list")["prompts"] == [
        {"name": "support", "versions": [1, 2], "labels": {"production": {"1": 100}}}
    ]
    code, out, _ = line.run("prompts", "show", "support")
    assert (code, "Briefly, in {language}." in out) == (0, True)


def test_of_two_who_write_at_once_one_is_told_of_the_other(
    stack: Addresses, kafka_options: KafkaOptions
) -> None:
    barrier = Barrier(2)

    def write(model: str) -> int | Overtaken:
        with closing(Versions(Settings(), kafka_options, stack.registry_url)) as versions:
            barrier.wait(30)
            text = json.dumps({"candidates": [{"target": "openai", "model": model}]})
            try:
                return versions.add_route("default", text, "at once", 0)
            except Overtaken as overtaken:
                return overtaken

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(write, ["a", "b"]))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Overtaken", "int"]
    with closing(Versions(Settings(), kafka_options, stack.registry_url)) as versions:
        assert list(versions.routes()["default"]) == [1]


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1_200):
        if holds():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it did not come to hold within a minute")


def test_a_worker_knows_all_before_it_begins_and_what_changes_while_it_runs(
    stack: Addresses, kafka_options: KafkaOptions, registry: Registry
) -> None:
    """A record that no version of ours could have written is passed over."""
    draw = draw_of("default", "s1")

    async def follow(versions: Versions) -> None:
        book = Book({"openai": Target("openai", "openai-chat", "https://api.openai.com/v1")})
        follower = BookFollower(kafka_options, WireCodec(registry), book)
        follower.start()
        try:
            await asyncio.wait_for(follower.ready(), 60)
            assert book.route("default").config.candidates[0].model == "one"
            assert book.prompt("support", "production", draw).version == 1
            await asyncio.to_thread(versions.add_route, "default", json.dumps(OTHER), "changed", 1)
            await until(lambda: book.route("default").version == 2)
            assert book.route("default").config.candidates[0].model == "two"
            await asyncio.to_thread(versions.add_prompt, "support", json.dumps(PROMPT), "again", 1)
            seen = await asyncio.to_thread(versions.prompt, "support")
            await asyncio.to_thread(versions.move_label, "support", "production", {2: 100}, "use it", seen)
            await until(lambda: book.prompt("support", "production", draw).version == 2)
            assert book.refused == 0
        finally:
            await asyncio.to_thread(follower.stop)

    with closing(Versions(Settings(), kafka_options, stack.registry_url)) as versions:
        versions.add_route("default", json.dumps(ROUTE), "first", 0)
        versions.add_prompt("support", json.dumps(PROMPT), "first", 0)
        versions.move_label("support", "production", {1: 100}, "use it", versions.prompt("support"))
        assert len(read_committed(kafka_options, LLM_ROUTES, 1)) == 1
        assert len(read_committed(kafka_options, LLM_PROMPTS, 2)) == 2
        asyncio.run(follow(versions))


@pytest.mark.usefixtures("line", "registered_schemas")
def test_a_worker_that_makes_no_topics_does_not_start_without_them(
    topics: Callable[..., object], kafka_options: KafkaOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics(*(spec for spec in TOPICS if spec is not LLM_CONTENTS))
    monkeypatch.setenv("SLUICEGATE_KAFKA__CREATE_TOPICS", "false")
    done = subprocess.run(
        [sys.executable, "-m", "ops", "llm"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"there is no topic {LLM_CONTENTS.named(kafka_options.topic_prefix)}" in done.stderr
    assert "sluicegate topics create" in done.stderr
