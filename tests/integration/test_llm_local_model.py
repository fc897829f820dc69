"""A real model's real server, in the three wire shapes that it speaks, through our providers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httpx2
import pytest

from connectors.llm.attempt import Attempt, Outcome
from connectors.llm.calls import Call, Params, Target
from connectors.llm.deltas import Media, Named, Piece
from connectors.llm.plan import Choice, Timers
from connectors.llm.providers import PROVIDERS
from tests.support.local_model import gemma

__all__ = ["gemma"]

# A loaded machine takes a second a token.
PATIENT = Timers(connect_ms=60_000, first_content_ms=120_000, between_contents_ms=60_000, total_ms=240_000)
pytestmark = pytest.mark.timeout(300)


@dataclass
class Collected:
    """A sink that keeps what it is given."""

    pieces: list[Piece] = field(default_factory=list)
    names: list[Named] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    status: int = 0

    def connected(self, status: int) -> None:
        self.status = status

    def content(self, delta: Piece | Media) -> None:
        assert isinstance(delta, Piece)
        self.pieces.append(delta)

    def named(self, named: Named) -> None:
        self.names.append(named)

    def failed(self) -> None:
        """See Sink."""

    def body(self, status: int, headers: object, text: str) -> None:
        """See Sink."""

    def raw(self, event: str, data: str) -> None:
        self.events.append((event, data))

    def comment(self, text: str) -> None:
        """See Sink."""


def ask(gemma, shape, question, *, key=None, tokens=5) -> tuple[Outcome, Collected]:
    target = Target("local", shape, gemma.base_url, gemma.key if key is None else key)
    call = Call(
        gemma.name,
        [{"role": "user", "content": question}],
        Params(max_output_tokens=tokens, temperature=0.0),
    )

    async def run() -> tuple[Outcome, Collected]:
        sink = Collected()
        async with httpx2.AsyncClient(timeout=None, trust_env=False, verify=False) as client:
            attempt = Attempt(client, PROVIDERS[shape], Choice(target, gemma.name, PATIENT), call, sink)
            return await attempt.run(240.0), sink

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("shape", "finish"), [("openai-chat", "length"), ("openai-responses", "stop"), ("anthropic", "length")]
)
def test_its_tokens_its_usage_and_its_finish_come_through_our_providers(gemma, shape, finish):
    outcome, got = ask(gemma, shape, "Count from one to one hundred.", tokens=5)

    assert (outcome.error_class, outcome.http_status) == (None, 200)
    assert "".join(piece.text for piece in got.pieces).strip()
    assert {piece.channel for piece in got.pieces} == {"text"}
    assert len(got.pieces) >= 4, "a token at a time"
    # In the shape of responses its server says "completed" of an answer that it cut, and nothing else.
    assert outcome.finish == finish
    assert outcome.usage is not None
    assert outcome.usage.input_tokens is not None
    assert 5 < outcome.usage.input_tokens < 40
    assert outcome.usage.output_tokens == 5
    assert any(named.model == gemma.name for named in got.names)
    assert outcome.chunks == len(got.events)


@pytest.mark.parametrize("shape", ["openai-chat", "openai-responses", "anthropic"])
def test_who_has_not_its_key_gets_nothing(gemma, shape):
    outcome, got = ask(gemma, shape, "Anything?", key="another")

    assert (outcome.error_class, outcome.http_status) == ("unauthorized", 401)
    assert got.pieces == []
    assert "another" not in outcome.error_raw


def test_a_page_of_a_browser_may_not_ask_it(gemma):
    said = httpx2.post(
        f"{gemma.base_url}/chat/completions",
        json={},
        headers={"origin": "http://page.example"},
        trust_env=False,
        verify=False,
    )

    assert said.status_code == 401
    assert said.headers.get("access-control-allow-origin") in (None, "")
