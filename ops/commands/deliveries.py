"""`sluicegate deliveries`: how a stream was delivered, from PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cyclopts import App


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(deliveries_command, name="deliveries")


def deliveries_command(
    stream: str,
    *,
    tenant: str = "default",
    limit: int = 100,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Show how a stream was delivered: its record, and each connection that it was given to.

    From the tables of the archive, so it needs PostgreSQL, and is some seconds late. Who is connected now,
    and who of them is slow, says `sluicegate connections`. Exit code 1 if nothing is known of the stream.

    Example: `sluicegate deliveries build-42`

    Parameters
    ----------
    stream
        Id of the stream.
    tenant
        Whose stream it is.
    limit
        Most connections to show, the latest first.
    as_json
        Print a JSON document with every field.
    """
    from connectors.postgres.deliveries import delivered
    from ops import console
    from ops.addresses import archive_options
    from ops.errors import Misused
    from ops.settings import Settings

    if not 1 <= limit <= 10_000:
        raise Misused(f"--limit {limit} is not between 1 and 10,000", "give a number of connections")
    options = archive_options(Settings(), "how streams were delivered is in PostgreSQL", "deliveries")
    found = delivered(options, tenant, stream, limit)
    if as_json:
        told = {"tenant": tenant, "stream_id": stream, "record": found.record}
        console.print_json({**told, "connections": found.connections})
    elif found.record is not None or found.connections:
        _show_record(found.record)
        _show_connections(found.connections)
    if found.record is None and not found.connections:
        console.fail(
            f"nothing is archived of stream {tenant}/{stream}",
            "check the name; `sluicegate lag` says how late the archive is",
        )
        return 1
    return 0


def _show_record(record: Mapping[str, Any] | None) -> None:
    from rich.text import Text

    from ops import console
    from ops.redaction import escaped

    if record is None:
        console.note("the stream has not opened, or its record is not archived yet")
        return
    ended = record["end_reason"] or "open"
    events = sum(record["events_by_type"].values())
    told = (
        f"{record['kind']} {record['tenant']}/{record['stream_id']}: {ended}, events {events:,}, "
        f"last seq {record['last_seq']}\n"
        f"connections {record['connections']:,} (open {record['connections_open']:,}), "
        f"resumed {record['resumes']:,}, gaps {record['gaps']:,}, events dropped {record['dropped']:,}, "
        f"last seq written {record['last_seq_written']}"
    )
    for line in told.splitlines():
        console.out().print(Text(escaped(line.encode(), 1_000)))


def _show_connections(connections: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ops import console
    from ops.redaction import escaped
    from schemas.published import time_text

    if not connections:
        return
    table = Table(box=None, pad_edge=False)
    for title in ("opened", "peer", "who", "transport", "ended"):
        table.add_column(title)
    for title in ("lasted", "given", "last seq", "gaps", "dropped"):
        table.add_column(title, justify="right")
    for one in connections:
        ended = one["reason"] if one["action"] == "closed" else "open"
        texts = (one["peer"], one["subject"], one["transport"], ended)
        table.add_row(
            time_text(one["opened_us"]),
            *(Text(escaped(str(text or "-").encode(), 256)) for text in texts),
            f"{one['duration_ms'] / 1_000:.1f} s" if one["action"] == "closed" else "-",
            f"{one['events']:,}",
            f"{one['seq']}",
            f"{one['gaps']:,}",
            f"{one['dropped']:,}",
        )
    console.out().print(table)
