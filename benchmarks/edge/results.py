"""One line of what was measured at an edge: the fields that every work has, and those of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.results import Line

P99_MS_MAX: Final = 100.0
"""A rate is held only while the slowest hundredth comes within this."""


@dataclass(frozen=True)
class Served:
    """One server at one work; None = not measured, and ``note`` says why."""

    name: str
    work: str
    subscribers: int
    delivered_per_s: int | None
    """Events that clients had read and checked, a second."""
    writes_per_s: int | None
    """Writes of events: as ours counts them (``sluicegate_edge_writes_total``); of another server, what its
    clients needed to read them, which is its writes less those that were read along with the next."""
    p50_ms: float | None
    """From the publisher's clock just before it hands an event over, to the client's read of it."""
    p99_ms: float | None
    rss_kb_per_connection: float | None
    """Resident memory of the server with all clients, less that before the first, by clients."""
    cpu_s_per_million: float | None
    """Processor seconds of the server's processes for a million delivered events."""
    verified: bool
    """Each client was given each event that it had to be given, once, in order: counted one by one."""
    more: Mapping[str, object] = field(default_factory=dict)
    """What the work has besides."""
    note: str = ""

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        common = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "more"}
        note = common.pop("note")
        return common | dict(self.more) | ({"note": note} if note else {})


def not_had(name: str, work: str, subscribers: int, why: str) -> Served:
    """Return the line of a server that cannot be had, or that broke."""
    return Served(
        name, work, subscribers, None, None, None, None, None, None, verified=False, note=why[-300:]
    )


def show(lines: Sequence[Line], *, as_json: bool) -> None:
    """Print a table for each work, a column a server, or a JSON object a line."""
    if as_json:
        for line in lines:
            print(json.dumps(line.row()), flush=True)
        return
    for work in dict.fromkeys(line.work for line in lines):
        rows = [line.row() for line in lines if line.work == work]
        table = Table("", *(str(row["name"]) for row in rows), title=work)
        for name in dict.fromkeys(name for row in rows for name in row if name not in ("name", "work")):
            table.add_row(name, *("-" if row.get(name) is None else str(row[name]) for row in rows))
        Console(width=None if Console().is_terminal else 160).print(table)
