"""How throughput goes with partitions, keys and the size of events: one of them varied at a time.

Writes ``growth.md`` (a table) and ``growth.svg`` (its plot) beside this file.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.bench import say
from benchmarks.chart import Panel, svg
from benchmarks.contenders import CONTENDERS
from benchmarks.contest import contest
from benchmarks.readings import Shape, make_load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench
    from benchmarks.results import Result

FRAME_BYTES: Final = 30
"""Of a framed value all but its note."""
SCATTERED: Final = 2_654_435_761
"""A prime: keys come in no order that a store or a cache could profit from."""
BASE: Final = Shape(keys=1_000, partitions=4, note_bytes=100 - FRAME_BYTES, stride=SCATTERED)
AXES: Final = {
    "partitions": [replace(BASE, partitions=count) for count in (1, 4, 16, 64)],
    "keys": [replace(BASE, keys=count) for count in (1_000, 100_000, 10_000_000)],
    "bytes an event": [replace(BASE, note_bytes=size - FRAME_BYTES) for size in (100, 1_000, 10_000)],
}
LOAD_BYTES_MAX: Final = 2_000_000_000
"""Of large events there are fewer: the broker keeps all that is appended until the stack is stopped."""
AGENTS: Final = ("columns", "events")
PAGE: Final = """\
# Growth

Written by `make bench-engine WORKS=growth` on {date}, {cores} cores shared with the broker, {runs} of at
most {events:,} events. One of three is varied; the others stay at {base.partitions} partitions,
{base.keys:,} keys and {size} bytes an event.

![throughput over partitions, keys and event size](growth.svg)

| varied | at | agent | records/s | MB/s | CPU s / million | peak RSS MB | verified |
|---|---|---|---|---|---|---|---|
{rows}
"""
_FOLDER: Final = Path(__file__).parent


@dataclass(frozen=True)
class Grown:
    """One point of one axis."""

    name: str
    work: str
    """Which axis."""
    at: int
    """Where on it."""
    guarantee: str
    events: int
    records_per_s: int | None
    mb_per_s: float | None
    cpu_s_per_million: float | None
    peak_rss_mb: int | None
    verified: bool
    note: str = ""

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        return asdict(self)


def run(bench: Bench) -> list[Grown]:
    """Measure all points (those that axes share once), and write table and plot."""
    measured: dict[Shape, list[Result]] = {}
    lines: list[Grown] = []
    for axis, shapes in AXES.items():
        for shape in shapes:
            if shape not in measured:
                measured[shape] = _measure(bench, axis, shape)
            size_bytes = FRAME_BYTES + shape.note_bytes
            lines += [
                Grown(
                    name=result.name,
                    work=f"growth over {axis}",
                    at={"partitions": shape.partitions, "keys": shape.keys}.get(axis, size_bytes),
                    guarantee=result.guarantee,
                    events=result.events,
                    records_per_s=result.records_per_s,
                    mb_per_s=round(result.records_per_s * size_bytes / 1e6, 1)
                    if result.records_per_s
                    else None,
                    cpu_s_per_million=result.cpu_s_per_million,
                    peak_rss_mb=result.peak_rss_mb,
                    verified=result.verified,
                    note=result.note,
                )
                for result in measured[shape]
            ]
    (_FOLDER / "growth.svg").write_text(svg(panels(lines), "events/s"), encoding="utf-8")
    (_FOLDER / "growth.md").write_text(table(lines, bench.runs()), encoding="utf-8")
    return lines


def _measure(bench: Bench, axis: str, shape: Shape) -> list[Result]:
    events = min(bench.asked.events, LOAD_BYTES_MAX // (FRAME_BYTES + shape.note_bytes))
    say(f"growth over {axis}: load of {events} events, {shape}")
    load = make_load(bench.where.kafka, bench.registry(), events, of=events, shape=shape)
    ours = [contender for contender in CONTENDERS if contender.slug in AGENTS]
    return contest(bench, [(contender, load) for contender in ours], f"growth over {axis}")


def panels(lines: Sequence[Grown]) -> list[Panel]:
    """Return a panel an axis, a series an agent."""
    found = []
    for work in dict.fromkeys(line.work for line in lines):
        of_axis = [line for line in lines if line.work == work]
        series = {
            name: [line.records_per_s for line in of_axis if line.name == name]
            for name in dict.fromkeys(line.name for line in of_axis)
        }
        labels = [_short(at) for at in dict.fromkeys(line.at for line in of_axis)]
        found.append(Panel(work, labels, series))
    return found


def table(lines: Sequence[Grown], runs: str) -> str:
    """Return the lines as a page."""
    rows = [
        f"| {line.work.removeprefix('growth over ')} | {line.at:,} | {line.name} "
        f"| {line.records_per_s or 0:,} | {line.mb_per_s or 0} | {line.cpu_s_per_million or 0} "
        f"| {line.peak_rss_mb or 0} | {'yes' if line.verified else 'no'} |"
        for line in lines
    ]
    return PAGE.format(
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        cores=os.cpu_count(),
        runs=runs,
        events=max(line.events for line in lines),
        base=BASE,
        size=FRAME_BYTES + BASE.note_bytes,
        rows="\n".join(rows),
    )


def _short(number: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number // size} {letter}"
    return str(number)
