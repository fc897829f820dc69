"""`sluicegate edge`: the process that clients connect to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(edge_command, name="edge")


def edge_command(
    *,
    host: Annotated[str | None, Parameter(help="Address to bind; loopback only, unless allowed.")] = None,
    port: Annotated[int | None, Parameter(help="Port to bind; 0 takes a free one.")] = None,
) -> int:
    """Serve streams to clients, and take events by POST.

    It keeps nothing: kill it, start it again, and its clients resume where they were. SIGTERM and Ctrl-C
    send the clients away, spread over a few seconds, and end it with exit code 0. Its address is printed,
    and left in the data folder for `exec`, `publish`, `tail` and `record` to find.

    Example: `sluicegate edge --port 8600`
    """
    from ops.edge import run_edge
    from ops.settings import Settings

    return run_edge(Settings(), host, port)
