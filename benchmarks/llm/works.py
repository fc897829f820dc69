"""THE table of works and of who is asked: what is measured, by the name that ``WORKS=`` selects it with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from benchmarks.bench import say
from benchmarks.llm import cancel, clients, overhead, streams
from benchmarks.llm.results import Answered, not_had
from benchmarks.llm.servers import PASSED_ON, LiteLlm, Sluicegate
from benchmarks.results import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from benchmarks.goals import Goal
    from benchmarks.llm.bench import LlmBench
    from benchmarks.llm.clients import Mode
    from benchmarks.llm.provider import Provider
    from benchmarks.llm.servers import Contender

LITELLM: Final = "LiteLLM proxy"
FIRST_CLIENTS: Final = 4
FIRST_S: Final = 2.0
TRIES: Final = 10
WARM_CLIENTS: Final = 32
WARM_S: Final = 8.0
WARM_ROUNDS: Final = 3
"""A broker that was just started takes ten times the processor of one whose code is compiled."""


def measure(bench: LlmBench, work: str, provider: Provider) -> Iterator[Answered]:
    """Do one work, each contender after the other."""
    return WORKS[work](bench, provider)


def _overhead(bench: LlmBench, provider: Provider) -> Iterator[Answered]:
    beside, line = overhead.direct(bench, provider)
    yield line

    def added(contender: Contender) -> Iterator[Answered]:
        modes: list[Mode] = ["events", "chat"] if contender.name == OURS else ["chat"]
        return overhead.measure(bench, provider, contender, modes, beside)

    for one in _contenders(bench, provider, litellm_workers=(1,)):
        yield from _measured(bench, provider, one, overhead.work(), added)


def _cancel(bench: LlmBench, provider: Provider) -> Iterator[Answered]:
    for one in _contenders(bench, provider, litellm_workers=()):
        yield from _measured(
            bench, provider, one, cancel.work(), lambda ours: [cancel.measure(provider, ours)]
        )


def _streams(bench: LlmBench, provider: Provider) -> Iterator[Answered]:
    ours, *others = _contenders(bench, provider, litellm_workers=(1, 2))
    peers: list[Answered] = []
    for one in (*others, ours):  # ours last: its goal is a multiple of theirs
        say(f"streams: {one.name}")
        for line in _measured(
            bench, provider, one, streams.work(), lambda each: [streams.measure(bench, provider, each)]
        ):
            if one is ours:
                yield streams.beside(line, peers)
            else:
                peers.append(line)
                yield line


class Entry(NamedTuple):
    """One who takes part."""

    name: str
    guarantee: str
    make: Callable[[], Contender]


def _measured(
    bench: LlmBench,
    provider: Provider,
    one: Entry,
    work: str,
    measure: Callable[[Contender], Iterable[Answered]],
) -> Iterator[Answered]:
    """Start one, warm it, and measure it; if it cannot be had, or breaks, that is a line with the reason."""
    try:
        with one.make() as contender:
            warm(bench, provider, contender)
            yield from measure(contender)
    except Exception as error:  # noqa: BLE001  whatever it is: the others are still measured
        yield not_had(one.name, work, one.guarantee, error)


def _contenders(bench: LlmBench, provider: Provider, litellm_workers: Sequence[int]) -> Iterator[Entry]:
    """Give ours first, then what is wanted of the others."""
    yield Entry(OURS, Sluicegate.guarantee, lambda: Sluicegate(bench, provider, OURS))
    for workers in litellm_workers if "litellm" in bench.asked.peers else ():
        name = f"{LITELLM}, {workers} worker{'s' if workers > 1 else ''}"
        yield Entry(name, PASSED_ON, _litellm(bench, provider, name, workers))


def _litellm(bench: LlmBench, provider: Provider, name: str, workers: int) -> Callable[[], Contender]:
    return lambda: LiteLlm(bench, provider, name, workers=workers)


def warm(bench: LlmBench, provider: Provider, contender: Contender) -> None:
    """Ask until it answers, and then some more: all are measured as they are after a while.

    Raises:
        RuntimeError: it does not answer.
    """
    base = f"http://127.0.0.1:{contender.port}"
    for _ in range(TRIES):
        found = clients.ask(bench, provider, base, "chat", FIRST_CLIENTS, FIRST_S, 0.0)
        if found.is_whole:
            break
    else:
        raise RuntimeError(f"{contender.name} does not answer: {found.cause}")
    for _ in range(WARM_ROUNDS):
        clients.ask(bench, provider, base, "chat", WARM_CLIENTS, WARM_S, 1.0)


WORKS: Final[Mapping[str, Callable[[LlmBench, Provider], Iterator[Answered]]]] = {
    "overhead": _overhead,
    "cancel": _cancel,
    "streams": _streams,
}
GOALS: Final[Mapping[str, Sequence[Goal]]] = {
    "overhead": overhead.GOALS,
    "cancel": cancel.GOALS,
    "streams": streams.GOALS,
}
