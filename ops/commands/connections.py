"""`sluicegate connections`: who is connected to the edge, and who of them does not follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cyclopts import App

Flag = Annotated[bool, Parameter(negative=())]


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(connections_command, name="connections")


def connections_command(
    *,
    slow: Flag = False,
    limit: int = 100,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    patience_s: float = 10.0,
) -> int:
    """Show who is connected to the edge: each stream of each connection, the slowest first.

    A client is slow while it takes nothing of what it is written, and until it has caught up after that. The
    policy is what its stream's kind does with one that falls behind its bound (docs/backpressure.md). Who it
    is says its token (`sub`). An edge with keys tells it to whom SLUICEGATE_EDGE__TOKEN lets operate.

    Example: `sluicegate connections --slow`

    Parameters
    ----------
    slow
        Only those that are slow.
    limit
        How many at most.
    as_json
        Print the edge's answer.
    patience_s
        Seconds to go on while the edge is away.
    """
    import asyncio

    from ops import console
    from ops.addresses import edge_token, edge_url
    from ops.answers import object_of
    from ops.client import EdgeClient
    from ops.settings import Settings

    settings = Settings()

    async def ask() -> dict[str, Any]:
        client = EdgeClient(
            edge_url(settings),
            token=edge_token(settings),
            patience_s=patience_s,
            on_trouble=console.note,
        )
        async with client as edge:
            query = {"slow": str(slow).lower(), "limit": str(limit)}
            return object_of((await edge.get("/v1/connections", query)).content)

    answer = asyncio.run(ask())
    if as_json:
        console.print_json(answer)
        return 0
    found = answer["connections"]
    if not found:
        console.note("no client is slow" if slow else "no client is connected")
        return 0
    _show(found)
    rest = answer["total"] - len(found)
    if rest > 0:
        console.note(f"and {rest} more: --limit")
    return 0


def _show(found: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ops import console
    from ops.redaction import escaped

    table = Table(box=None, pad_edge=False)
    for name in ("peer", "who", "transport", "stream", "policy", "state"):
        table.add_column(name)
    for name in ("behind", "pending", "paused", "given", "gaps", "dropped"):
        table.add_column(name, justify="right")
    for one in found:
        stream = f"{one['tenant']}/{one['stream_id']}"
        texts = (one["peer"], one["subject"], one["transport"], stream, one["policy"], one["state"])
        table.add_row(
            *(Text(escaped(str(text or "-").encode(), 256)) for text in texts),
            f"{one['events_behind']:,}",
            f"{one['bytes_pending']:,} B",
            f"{one['paused_ms'] / 1_000:.1f} s" if one["paused_ms"] else "-",
            f"{one['events']:,}",
            f"{one['gaps']:,}",
            f"{sum(one['dropped'].values()):,}",
        )
    console.out().print(table)
