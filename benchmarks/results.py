"""What was measured, as a table or as an object a line."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from statistics import median_high
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from state.checkpoint import UNIT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

RAW: Final = "librdkafka consume"
RAW_DEFAULTS: Final = "librdkafka consume, its defaults"
KAFKA_STREAMS: Final = "Kafka Streams"
OURS: Final = "sluicegate"
UNIT_MB_MAX: Final = UNIT_BYTES_MAX >> 20
"""What one unit of work writes at most: it is held beyond the budget."""
_HOLD: Final = re.compile(r"stores hold (\d+) MB")
_JUDGED: Final = ("flat", "within_budget")


class Line(Protocol):
    """What every line has."""

    @property
    def name(self) -> str:
        """Who."""

    @property
    def work(self) -> str:
        """What was done; lines of one work are one table."""

    @property
    def verified(self) -> bool:
        """Whether all that came out was right."""

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""


@dataclass(frozen=True)
class Result:
    """One line of a table of throughput; None = not measured, and ``note`` says why."""

    name: str
    work: str
    guarantee: str
    events: int
    records_per_s: int | None
    cpu_s_per_million: float | None
    peak_rss_mb: int | None
    verified: bool
    ratio_to_raw: float | None = None
    ratio_to_kafka_streams: float | None = None
    ratio_to_even: float | None = None
    """Of the work ``skew``: to the same contender with the same events spread evenly."""
    state_budget_mb: int | None = None
    """Of the work ``state``: what the stores may use of the memory, by settings."""
    state_peak_mb: int | None = None
    """And what they used of it at most, write buffers included."""
    within_budget: bool | None = None
    """Whether that was within the budget, and the write of one unit of work beside it."""
    note: str = ""

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        return asdict(self)


@dataclass(frozen=True)
class Latency:
    """From a publication to its committed output, milliseconds."""

    name: str
    work: str
    guarantee: str
    records_per_s: int | None
    """At which they were published."""
    cpu_s_per_million: float | None
    """Of the worker, while they were."""
    peak_rss_mb: int | None
    p50_ms: float
    p99_ms: float
    verified: bool

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        return asdict(self)


@dataclass(frozen=True)
class Restored:
    """From the start of a worker's process to all its partitions being ready, seconds."""

    name: str
    work: str
    guarantee: str
    records_per_s: int | None
    """Keys that were there again, by those seconds."""
    cpu_s_per_million: float | None
    peak_rss_mb: int | None
    """Of the process up to then, as is what it took of the processor."""
    seconds: float | None
    """None = it did not become ready; ``note`` says why."""
    state_mb: int
    """Of its folder, before it was killed."""
    verified: bool
    """Each key of a sample that got one more reading, some of them while it was killed, counts one more."""
    note: str = ""

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        return asdict(self)


_Rated = TypeVar("_Rated", Result, Restored)


def median(runs: Sequence[_Rated]) -> _Rated:
    """Return the run whose rate is the middle one (the lower of two), verified if all were."""
    verified = all(run.verified for run in runs)
    ordered = sorted(runs, key=lambda run: run.records_per_s or 0)
    notes = dict.fromkeys(run.note for run in runs if run.note)
    return replace(ordered[(len(runs) - 1) // 2], verified=verified, note="; ".join(notes))


def typical(runs: Sequence[Latency]) -> Latency:
    """Return the median of each figure (the higher of two), verified if all runs were."""

    def middle(figure: str) -> Any:
        return median_high(getattr(run, figure) for run in runs)

    figures = ("records_per_s", "cpu_s_per_million", "peak_rss_mb", "p50_ms", "p99_ms")
    verified = all(run.verified for run in runs)
    return replace(runs[0], **{figure: middle(figure) for figure in figures}, verified=verified)


def with_ratios(results: Sequence[Result]) -> list[Result]:
    """Compare the results of one work and one run with the limit, and with Kafka Streams."""
    rates = {result.name: result.records_per_s for result in results}
    return [
        replace(
            result,
            ratio_to_raw=ratio(result.records_per_s, rates.get(RAW)),
            ratio_to_kafka_streams=ratio(result.records_per_s, rates.get(KAFKA_STREAMS)),
        )
        for result in results
    ]


def ratio(rate: int | None, to: int | None) -> float | None:
    """Return how often one rate holds the other, None if one of them is not known."""
    return round(rate / to, 3) if rate and to else None


def show(results: Sequence[Line], *, as_json: bool) -> None:
    """Print a table for each work, or a JSON object a line."""
    if as_json:
        for result in results:
            print(json.dumps(result.row()), flush=True)
        return
    for work in dict.fromkeys(result.work for result in results):
        rows = [result.row() for result in results if result.work == work]
        named = dict.fromkeys(name for row in rows for name in row if name != "work")
        names = [name for name in named if any(row.get(name) not in (None, "") for row in rows)]
        table = Table(*names, title=work)
        for row in rows:
            table.add_row(*("-" if row.get(name) is None else str(row[name]) for name in names))
        Console(width=None if Console().is_terminal else 160).print(table)


def failed(results: Sequence[Line]) -> bool:
    """Whether a result of ours was not verified, or what must stay flat, or within a budget, did not."""
    return any(
        result.name.startswith(OURS)
        and (not result.verified or any(result.row().get(judged) is False for judged in _JUDGED))
        for result in results
    )


def judged_by_budget(result: Result, budget_mb: int, said: str) -> Result:
    """Hold what a worker's stores used at most, as it ``said`` itself, against their budget.

    One that did not say is not within it.
    """
    peaks = [int(peak) for peak in _HOLD.findall(said)]
    peak_mb = max(peaks, default=None)
    within = peak_mb is not None and peak_mb <= budget_mb + UNIT_MB_MAX
    return replace(result, state_budget_mb=budget_mb, state_peak_mb=peak_mb, within_budget=within)
