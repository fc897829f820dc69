"""The clients: a program in Go that asks, and checks every token of every answer."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from benchmarks.edge.generator import program
from benchmarks.llm.provider import MODEL, RATE

if TYPE_CHECKING:
    from benchmarks.llm.bench import LlmBench
    from benchmarks.llm.provider import Provider

SOURCE: Final = Path(__file__).with_name("load")
QUESTION: Final = "Say some words."
FLUSH_MS: Final = 40
"""See ``LlmSettings.flush_ms``; the benchmark leaves it at its default."""
SLACK_S: Final = 60.0
Mode = Literal["chat", "events"]


@dataclass(frozen=True)
class Summary:
    """Of durations, milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Load:
    """What became of so many clients that each asked once; see ``load/main.go``."""

    clients: int
    whole: int
    cause: str
    tokens: int
    events: int
    latency: Summary
    from_flush: Summary | None
    first: Summary
    longest_s: float
    seconds: float
    cpu_s: float
    tokens_each: int

    @property
    def is_whole(self) -> bool:
        """Whether each client was given all of its answer."""
        return self.whole == self.clients and self.tokens == self.clients * self.tokens_each

    @property
    def kept_pace(self) -> bool:
        """Whether no answer took longer than the provider has for it; it waits where nobody reads."""
        return self.longest_s <= 1.05 * self.tokens_each / RATE + 0.5


def ask(  # a load's own words
    bench: LlmBench, provider: Provider, base: str, mode: Mode, clients: int, seconds: float, ramp_s: float
) -> Load:
    """Have so many clients ask one server; all answers are there at once for ``seconds``.

    Raises:
        TimeoutExpired: they were not done a minute after the last answer had to be over.
    """
    tokens = int((seconds + ramp_s) * RATE)
    text = provider.answers(tokens)
    name = f"load-{time.time_ns()}"
    folder = bench.folder / name
    folder.mkdir()
    (folder / "text").write_text(text, "utf-8")
    (folder / "body").write_text(_body(mode), "utf-8")
    timeout_s = 2 * ramp_s + seconds + SLACK_S
    command = [
        str(program(bench.settings, SOURCE)), "-base", base, "-mode", mode, "-name", name,
        "-body", str(folder / "body"), "-text", str(folder / "text"), "-tokens", str(tokens),
        "-clients", str(clients), "-spread-ms", str(int(ramp_s * 1_000)), "-flush-ms", str(FLUSH_MS),
        "-timeout-s", str(int(timeout_s)),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True, timeout=timeout_s + SLACK_S)
    found: dict[str, Any] = json.loads(done.stdout)
    from_flush = found.pop("from_flush")
    return Load(
        latency=Summary(**found.pop("latency")),
        first=Summary(**found.pop("first")),
        from_flush=Summary(**from_flush) if from_flush else None,
        tokens_each=tokens,
        **found,
    )


def _body(mode: Mode) -> str:
    asked: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
    return json.dumps(asked | ({"stream": True} if mode == "chat" else {"stream_id": "{name}-{n}"}))
