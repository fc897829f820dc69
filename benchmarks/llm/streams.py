"""The highest number of answers at once, at 50 tokens a second each, that a server holds."""

from __future__ import annotations

from dataclasses import replace
from statistics import median_low
from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.bench import say
from benchmarks.goals import Goal
from benchmarks.llm import clients
from benchmarks.llm.provider import RATE
from benchmarks.llm.results import Answered
from benchmarks.llm.servers import used

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.llm.bench import LlmBench
    from benchmarks.llm.clients import Load
    from benchmarks.llm.provider import Provider
    from benchmarks.llm.servers import Contender

P99_MS_MAX: Final = 150.0
"""From the provider's byte to the client's, of all tokens: the same for all contenders."""
GOALS: Final = (Goal("ratio_to_litellm", 5, least=True),)
WARMING: Final = 32
WARM_S: Final = 20.0
FIRST: Final = 16
STREAMS_MAX: Final = 4_096
STARTS_PER_S: Final = 25
PROBE_S: Final = 5.0
BISECTIONS: Final = 3
HOLDS_MAX: Final = 4
LESS: Final = 0.9


class Held(NamedTuple):
    """One load, and what the server took for it."""

    streams: int
    load: Load
    used: dict[str, object]

    @property
    def kept(self) -> bool:
        """Whether all was delivered, as fast as the provider had it, within the bound."""
        load = self.load
        return load.is_whole and load.kept_pace and load.latency.p99_ms <= P99_MS_MAX


def work() -> str:
    """Say what is measured."""
    return f"streams: most answers at once, {RATE} tokens/s each, p99 under {P99_MS_MAX:.0f} ms"


def measure(bench: LlmBench, provider: Provider, contender: Contender) -> Answered:
    """Look for the highest number by short probes, then hold it for as long as was asked for."""
    _hold(bench, provider, contender, WARMING, WARM_S)  # compilers of broker and proxy are not measured
    best = _search(bench, provider, contender)
    runs = [_held(bench, provider, contender, best) for _ in range(bench.asked.runs)]
    middle = median_low(run.streams if run.kept else 0 for run in runs)
    held = next((run for run in runs if run.kept and run.streams == middle), runs[0])
    load = held.load
    figures: dict[str, object] = {
        "streams": middle,
        "tokens_per_s": int(load.tokens / load.seconds),
        "p50_ms": load.latency.p50_ms,
        "p99_ms": load.latency.p99_ms,
        "first_token_p50_ms": load.first.p50_ms,
        "first_token_p99_ms": load.first.p99_ms,
        "tokens": load.tokens,
        "events": load.events,
        **held.used,
    }
    return Answered(
        contender.name, work(), contender.guarantee, verified=load.is_whole, figures=figures, note=_why(held)
    )


def beside(ours: Answered, peers: Sequence[Answered]) -> Answered:
    """Compare ours with the better of LiteLLM's lines; None where none of them held any."""
    most = max((held for peer in peers if isinstance(held := peer.figures.get("streams"), int)), default=0)
    mine = ours.figures.get("streams")
    ratio = round(mine / most, 2) if most and isinstance(mine, int) else None
    return replace(ours, figures={**ours.figures, "ratio_to_litellm": ratio})


def _search(bench: LlmBench, provider: Provider, contender: Contender) -> int:
    best, failed, streams = 0, 0, FIRST
    while not failed and streams <= STREAMS_MAX:
        if _probe(bench, provider, contender, streams):
            best, streams = streams, 2 * streams
        else:
            failed = streams
    while not best and failed > 1:
        if _probe(bench, provider, contender, failed // 2):
            best = failed // 2
        else:
            failed //= 2
    for _ in range(BISECTIONS if best else 0):
        middle = round((best * failed) ** 0.5) if failed else best
        if middle in (best, failed):
            break
        if _probe(bench, provider, contender, middle):
            best = middle
        else:
            failed = middle
    return max(best, 1)


def _probe(bench: LlmBench, provider: Provider, contender: Contender, streams: int) -> bool:
    """Whether so many are held for a moment; tried twice, for one hiccup is more than a hundredth."""
    return any(_hold(bench, provider, contender, streams, PROBE_S).kept for _ in range(2))


def _held(bench: LlmBench, provider: Provider, contender: Contender, streams: int) -> Held:
    """Hold so many, or as many fewer as it takes."""
    held = _hold(bench, provider, contender, streams, bench.asked.seconds)
    for _ in range(HOLDS_MAX - 1):
        if held.kept or streams == 1:
            break
        streams = max(int(streams * LESS), 1)
        held = _hold(bench, provider, contender, streams, bench.asked.seconds)
    return held


def _hold(bench: LlmBench, provider: Provider, contender: Contender, streams: int, seconds: float) -> Held:
    before = contender.parts()
    ramp_s = max(streams / STARTS_PER_S, 1.0)
    base = f"http://127.0.0.1:{contender.port}"
    load = clients.ask(bench, provider, base, "chat", streams, seconds, ramp_s)
    held = Held(streams, load, used(before, contender.parts(), load.tokens))
    outcome = "held" if held.kept else f"not held ({_why(held)})"
    say(
        f"{contender.name}: {streams} answers for {seconds:.0f} s {outcome}: p99 {load.latency.p99_ms:.0f} ms"
    )
    return held


def _why(held: Held) -> str:
    load = held.load
    if held.kept:
        return ""
    if not load.is_whole:
        return f"{load.clients - load.whole} of {load.clients} not whole: {load.cause}"[:300]
    if not load.kept_pace:
        return f"an answer of {load.tokens_each / RATE:.0f} s took {load.longest_s:.1f} s"
    return f"p99 {load.latency.p99_ms:.0f} ms"
