"""What was measured, as a table or as an object a line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

RAW: Final = "librdkafka consume"
RAW_DEFAULTS: Final = "librdkafka consume, its defaults"
KAFKA_STREAMS: Final = "Kafka Streams"
OURS: Final = "sluicegate"


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
    p50_ms: float
    p99_ms: float
    verified: bool

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        return asdict(self)


def median(runs: Sequence[Result]) -> Result:
    """Return the run whose rate is the middle one (the lower of two), verified if all were."""
    verified = all(run.verified for run in runs)
    ordered = sorted(runs, key=lambda run: run.records_per_s or 0)
    notes = dict.fromkeys(run.note for run in runs if run.note)
    return replace(ordered[(len(runs) - 1) // 2], verified=verified, note="; ".join(notes))


def with_ratios(results: Sequence[Result]) -> list[Result]:
    """Compare the results of one work and one run with the limit, and with Kafka Streams."""
    rates = {result.name: result.records_per_s for result in results}
    return [
        replace(
            result,
            ratio_to_raw=_ratio(result.records_per_s, rates.get(RAW)),
            ratio_to_kafka_streams=_ratio(result.records_per_s, rates.get(KAFKA_STREAMS)),
        )
        for result in results
    ]


def _ratio(rate: int | None, to: int | None) -> float | None:
    return round(rate / to, 3) if rate and to else None


def show(results: Sequence[Result | Latency], *, as_json: bool) -> None:
    """Print a table for each work, or a JSON object a line."""
    if as_json:
        for result in results:
            print(json.dumps(result.row()), flush=True)
        return
    for work in dict.fromkeys(result.work for result in results):
        rows = [result.row() for result in results if result.work == work]
        names = [
            name for name in rows[0] if name != "work" and any(row[name] not in (None, "") for row in rows)
        ]
        table = Table(*names, title=work)
        for row in rows:
            table.add_row(*("-" if row[name] is None else str(row[name]) for name in names))
        Console(width=None if Console().is_terminal else 160).print(table)


def failed(results: Sequence[Result | Latency]) -> bool:
    """Whether a result of ours was not verified."""
    return any(result.name.startswith(OURS) and not result.verified for result in results)
