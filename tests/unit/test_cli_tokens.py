"""`sluicegate tokens issue`: what it gives out is what an edge takes, and nothing else is given out."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from edge.access.gate import Gate
from edge.access.options import AccessOptions
from edge.access.tokens import PATTERNS_MAX, TEXT_CHARS_MAX
from edge.errors import Unauthenticated
from edge.metrics import EdgeMetrics
from ops.cli import run
from ops.tokens import issue

if TYPE_CHECKING:
    from pathlib import Path

LONG = [f"{number:0100d}" for number in range(PATTERNS_MAX)]
"""Each is a name; all together make more of a token than an edge reads."""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SLUICEGATE_")]:
        monkeypatch.delenv(name)  # the demo runs these tests under settings of its own
    monkeypatch.chdir(tmp_path)


def is_taken(keys_file: Path, token: str) -> bool:
    """Whether an edge with these keys lets it in."""
    gate = Gate(AccessOptions(keys_file=keys_file), EdgeMetrics())
    gate.revocations.complete = True
    try:
        asyncio.run(gate.identify([(b"authorization", b"Bearer " + token.encode())]))
    except Unauthenticated:
        return False
    return True


@pytest.mark.parametrize(
    "words",
    [
        ("--streams", "*"),
        ("--streams", "build-*", "a.b:c_d"),
        ("--tenants", "acme", "--kinds", "job", "agent-run"),
        ("--streams", "x" * 128),
        ("--streams", *LONG[:40]),
        ("--subject", "x" * TEXT_CHARS_MAX),
    ],
    ids=lambda given: str(given)[:30],
)
def test_what_it_gives_out_an_edge_takes(
    words: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(("tokens", "issue", *words, "--folder", str(tmp_path))) == 0
    assert is_taken(tmp_path / "keys.json", capfd.readouterr().out.strip())


@pytest.mark.parametrize(
    ("option", "names", "said"),
    [
        ("streams", ["a*b"], "the beginning of names with one * at its end"),
        ("streams", ["fine", "**"], "does not take '**'"),
        ("streams", ["x" * 129], "1 to 128 characters"),
        ("streams", ["a b"], "A-Z a-z 0-9 . _ : -"),
        ("streams", LONG, "name fewer streams"),
        ("streams", ["a"] * (PATTERNS_MAX + 1), "at most 100"),
        ("tenants", ["ac*"], "or * for all"),
        ("kinds", ["jo*"], "or * for all"),
        ("subject", ["x" * (TEXT_CHARS_MAX + 1)], "an edge takes 256"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_what_an_edge_would_not_take_is_refused_with_what_it_takes(
    option: str, names: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    claims = {"sub": "me", "tenants": ["*"], "streams": ["*"], "kinds": ["*"], "scope": "subscribe"}
    claims |= {"sub": names[0]} if option == "subject" else {option: names}
    made = issue(tmp_path, claims, audience=AccessOptions().audience, issuer="", life_s=600)
    assert not is_taken(made.keys_file, made.token), "or nothing would be wrong with it"

    assert run(("tokens", "issue", f"--{option}", *names, "--folder", str(tmp_path))) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert said in told.err


@pytest.mark.parametrize("life_s", ["-1", "0", "10000000000"])
def test_a_life_that_cannot_be_is_refused(
    life_s: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(("tokens", "issue", "--life-s", life_s, "--json", "--folder", str(tmp_path))) == 2
    assert f"--life-s is from 1 to 3153600000, not {life_s}" in capfd.readouterr().err
