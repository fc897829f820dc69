"""What the way through Kafka adds to a token, beside a direct connection to the same provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.goals import Goal
from benchmarks.llm import clients
from benchmarks.llm.results import Answered
from benchmarks.llm.servers import Direct, used

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.llm.bench import LlmBench
    from benchmarks.llm.clients import Load, Mode
    from benchmarks.llm.provider import Provider
    from benchmarks.llm.servers import Contender

STREAMS: Final = 10
RAMP_S: Final = 1.0
GOALS: Final = (Goal("p99_ms_added", 150), Goal("p99_ms_from_flush", 80))


def direct(bench: LlmBench, provider: Provider) -> tuple[Load, Answered]:
    """Ten answers at once without anything between."""
    return _asked(bench, provider, Direct(provider), "chat")


def measure(
    bench: LlmBench, provider: Provider, contender: Contender, modes: Sequence[Mode], beside: Load
) -> Iterator[Answered]:
    """Ten answers at once by each of a contender's ways, beside the direct one."""
    for mode in modes:
        _, line = _asked(bench, provider, contender, mode, beside)
        yield line


def work() -> str:
    """Say what is measured."""
    return f"overhead: {STREAMS} answers at once at {clients.RATE} tokens/s, from the provider's byte"


def _asked(
    bench: LlmBench, provider: Provider, contender: Contender, mode: Mode, beside: Load | None = None
) -> tuple[Load, Answered]:
    name = f"{contender.name}, {_WAYS[mode]}"
    say(f"overhead: {name}")
    base = f"http://127.0.0.1:{contender.port}"
    before = contender.parts()
    found = clients.ask(bench, provider, base, mode, STREAMS, bench.asked.seconds, RAMP_S)
    figures: dict[str, object] = {"p50_ms": found.latency.p50_ms, "p99_ms": found.latency.p99_ms}
    if beside is not None:
        figures |= {
            "p50_ms_added": round(found.latency.p50_ms - beside.latency.p50_ms, 2),
            "p99_ms_added": round(found.latency.p99_ms - beside.latency.p99_ms, 2),
        }
    if found.from_flush is not None:
        figures |= {
            "p50_ms_from_flush": found.from_flush.p50_ms,
            "p99_ms_from_flush": found.from_flush.p99_ms,
        }
    figures |= {"first_token_p50_ms": found.first.p50_ms, "first_token_p99_ms": found.first.p99_ms}
    figures |= {"tokens": found.tokens, "events": found.events}
    figures |= used(before, contender.parts(), found.tokens)
    line = Answered(
        name, work(), contender.guarantee, verified=found.is_whole, figures=figures, note=found.cause
    )
    return found, line


_WAYS: Final[dict[Mode, str]] = {"events": "/v1/streams/{id}/events", "chat": "/v1/chat/completions"}
