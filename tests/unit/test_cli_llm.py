"""The commands that record and play providers' answers: what they print, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from connectors.llm.loopback.demo import TEXT
from connectors.llm.recording import SUFFIX, Recorded, Recording, write_recording
from ops import console
from ops.cli import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _fresh_consoles():
    """A console keeps the stream that it was made with: each test has its own."""
    console.out.cache_clear()
    console.err.cache_clear()
    yield
    console.out.cache_clear()
    console.err.cache_clear()


def test_a_command_of_llm_that_is_none_is_told_with_the_one_that_was_meant(capsys):
    assert run(["llm", "aks", "why is the sky blue"]) == 2
    told = capsys.readouterr().err
    assert "llm has no command 'aks'" in told
    assert "did you mean `sluicegate llm ask`?" in told
    assert run(["llm", "zzzz"]) == 2
    told = capsys.readouterr().err
    assert "did you mean" not in told
    assert "there are ask, attempts, costs, loopback, play, prompts, record, routes" in told


def test_the_help_of_llm_says_that_alone_it_runs_the_worker(capsys):
    assert run(["llm", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("Usage: sluicegate llm [COMMAND] Run the worker ")
    assert "(sluicegate llm alone)" in told
    assert "WORDS" not in told


@pytest.mark.parametrize("shape", ["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"])
def test_our_recording_of_each_shape_is_played_as_the_same_text(shape, capsysbinary):
    assert run(["llm", "play", f"welcome.{shape}", "--speed", "0", "--json"]) == 0
    lines = [orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert "".join(line["text"] for line in lines if line["delta"] == "piece") == TEXT
    assert [line["finish"] for line in lines if line["delta"] == "finished"] == ["stop"]
    *_, usage = [line for line in lines if line["delta"] == "usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (24, 160)
    assert lines[-1]["delta"] == "over"


def test_names_and_errors_of_a_provider_cannot_steer_the_terminal(tmp_path: Path, capsys):
    events = [
        Recorded(0, orjson.dumps({"model": "\x1b]0;mine\x07[red]m"}).decode()),
        Recorded(0, orjson.dumps({"error": "\x1b[2Jgone [bold]"}).decode()),
    ]
    write_recording(tmp_path / f"a{SUFFIX}", Recording("ollama", events, note="\x1b[2J"))
    assert run(["llm", "play", str(tmp_path / f"a{SUFFIX}"), "--speed", "0"]) == 1
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "[red]m" in told
    assert "gone [bold]" in told


def test_a_recording_that_is_not_whole_is_told_and_fails(tmp_path: Path, capsys):
    said = orjson.dumps({"message": {"role": "assistant", "content": "so far"}, "done": False}).decode()
    write_recording(tmp_path / f"a{SUFFIX}", Recording("ollama", [Recorded(0, said)], note="yesterday"))
    assert run(["llm", "play", str(tmp_path / f"a{SUFFIX}")]) == 1
    told = capsys.readouterr()
    assert told.out == "so far\n"
    assert "truncated" in told.err
    assert "yesterday" in told.err


def test_a_file_that_is_no_recording_is_refused_by_its_line(tmp_path: Path, capsys):
    (tmp_path / "x").write_text('{"recording": 1, "shape": "gemini"}\nnonsense\n')
    assert run(["llm", "play", str(tmp_path / "x")]) == 1
    assert "x, line 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "m", "--prompt", "p"), "one of --provider and --url is needed"),
        (("--url", "http://127.0.0.1:9", "--model", "m", "--prompt", "p"), "--url needs --shape"),
        (("--url", "ftp://x", "--shape", "gemini", "--model", "m", "--prompt", "p"), "no http or https URL"),
        (("--provider", "nobody", "--model", "m", "--prompt", "p"), "the settings have none"),
        (
            ("--provider", "x", "--shape", "gemini", "--model", "m", "--prompt", "p"),
            "--shape goes with --url",
        ),
        (("--stream", "a/b", "--model", "m"), "--stream asks nobody"),
        (("--attempt", "1", "--model", "m", "--prompt", "p"), "--attempt goes with --stream"),
        (("--url", "http://127.0.0.1:9"), "--model and --prompt are needed"),
    ],
)
def test_words_of_record_that_do_not_go_together_are_told(words, said, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_LLM__PROVIDERS", "{}")
    assert run(["llm", "record", str(tmp_path / "x"), *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_is_there_is_not_written_over_unasked(tmp_path: Path, capsys):
    (tmp_path / f"x{SUFFIX}").write_text("paid for")
    words = ["--url", "http://127.0.0.1:9", "--shape", "ollama", "--model", "m", "--prompt", "p"]
    assert run(["llm", "record", str(tmp_path / "x"), *words]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / f"x{SUFFIX}").read_text() == "paid for"


def test_a_provider_that_does_not_answer_is_told(tmp_path: Path, capsys):
    words = ["--url", "http://127.0.0.1:9", "--shape", "ollama", "--model", "m", "--prompt", "p"]
    assert run(["llm", "record", str(tmp_path / "x"), *words]) == 3
    assert "http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "gpt-x"), "is not NAME=WANTED"),
        (("--model", "gpt-x=words?fault=nonsense"), "there is no fault nonsense"),
        (("--recordings", "absent"), "no such folder"),
        (("--port", "70000"), "--port is from 0"),
        (("--speed", "-1"), "--speed from 0"),
    ],
)
def test_words_of_loopback_that_make_no_sense_are_told(words, said, capsys):
    assert run(["llm", "loopback", *words]) in (1, 2)
    assert said in capsys.readouterr().err
