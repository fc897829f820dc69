"""The machinery of ``make bench-llm`` on real parts, as small as it goes: checks must be able to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.edge.generator import NoGo, program
from benchmarks.llm import cancel, overhead, streams, works
from benchmarks.llm.asked import Asked
from benchmarks.llm.bench import LlmBench
from benchmarks.llm.clients import SOURCE
from benchmarks.llm.provider import MODEL, RATE, SEED, Provider
from benchmarks.llm.servers import Sluicegate
from benchmarks.results import OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(240)
SMALL = {
    overhead: {"STREAMS": 3, "RAMP_S": 0.2},
    cancel: {"CANCELS": 4, "AT_ONCE": 2, "ANSWERED_S": 20.0},
    # However slow the machine is: what was held is whole, and that is what is looked at.
    streams: {
        "WARMING": 2,
        "WARM_S": 0.5,
        "FIRST": 2,
        "STREAMS_MAX": 2,
        "PROBE_S": 0.5,
        "P99_MS_MAX": 60_000.0,
    },
    works: {"FIRST_CLIENTS": 2, "FIRST_S": 0.5, "WARM_ROUNDS": 0},
}


class Short(Provider):
    """A provider whose answers may lack their last tokens."""

    missing = 0

    def answers(self, tokens: int) -> str:
        text = super().answers(tokens)
        fewer = max(tokens - self.missing, 5)
        self.ask("PUT", f"/_models/{MODEL}", f"words?tokens={fewer}&rate={RATE}&seed={SEED}&stamp=1")
        return text


@pytest.fixture(scope="module")
def bench(stack, stack_settings, tmp_path_factory) -> LlmBench:
    settings = stack_settings.model_copy(update={"data_dir": tmp_path_factory.mktemp("bench-llm")})
    try:
        program(settings, SOURCE)
    except NoGo as error:
        pytest.skip(str(error))
    return LlmBench(stack, settings, Asked(seconds=0.5))


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, sizes in SMALL.items():
            for name, value in sizes.items():
                patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def started(bench, small) -> Iterator[tuple[Short, Sluicegate]]:
    with Short(bench) as provider, Sluicegate(bench, provider, OURS) as ours:
        works.warm(bench, provider, ours)
        yield provider, ours


@pytest.fixture
def provider(started) -> Iterator[Short]:
    yield started[0]
    started[0].missing = 0


@pytest.fixture
def ours(started) -> Sluicegate:
    return started[1]


def test_overhead_counts_every_token_of_each_way_and_finds_one_that_is_missing(bench, provider, ours):
    beside, direct = overhead.direct(bench, provider)
    lines = [direct, *overhead.measure(bench, provider, ours, ["events", "chat"], beside)]
    assert [(line.verified, line.note) for line in lines] == [(True, "")] * 3
    assert [line.row()["tokens"] for line in lines] == [3 * int(0.7 * RATE)] * 3
    assert {"p99_ms_added", "p99_ms_from_flush", "cpu_s_per_million"} < set(lines[1].row())

    provider.missing = 1
    (short,) = overhead.measure(bench, provider, ours, ["events"], beside)
    assert not short.verified
    assert "ended after" in short.note


def test_a_cancel_is_timed_to_the_closed_connection_and_one_that_came_too_late_is_found(
    provider, ours, monkeypatch
):
    line = cancel.measure(provider, ours)
    assert line.verified
    assert line.row()["cancels"] == 4
    assert 0 < line.row()["p50_ms"] <= line.row()["max_ms"]

    provider.missing = 10**9  # the answers are over before they are cancelled
    monkeypatch.setattr(cancel, "ANSWERED_S", 3.0)
    with pytest.raises(RuntimeError, match="cancel"):
        cancel.measure(provider, ours)


def test_streams_are_held_whole_and_never_told_where_none_is(bench, provider, ours, monkeypatch):
    line = streams.measure(bench, provider, ours)
    assert line.verified
    assert line.row()["tokens"] > 0

    provider.missing = 1
    monkeypatch.setattr(streams, "FIRST", 1)
    none = streams.measure(bench, provider, ours)
    assert (none.verified, none.row()["streams"]) == (False, 0)
    assert "not whole" in none.note
