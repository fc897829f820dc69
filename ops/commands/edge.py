"""`sluicegate edge`: the process that clients connect to."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # the command line is read by its types
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
    grpc_port: Annotated[
        int | None, Parameter(help="Port for gRPC: 0 takes a free one, -1 = none; else the next.")
    ] = None,
    processes: Annotated[int | None, Parameter(help="How many share the address; a core each.")] = None,
    process: Annotated[int, Parameter(show=False)] = 0,
    siblings: Annotated[Path | None, Parameter(show=False)] = None,
) -> int:
    """Serve streams to clients, and take events by POST.

    It keeps nothing: kill it, start it again, and its clients resume where they were. SIGTERM and Ctrl-C
    send the clients away, spread over a few seconds, and end it with exit code 0. Its addresses, for HTTP
    and for gRPC, are printed, and left in the data folder for `exec`, `publish`, `tail` and `record` to find.

    With `--processes 4` the kernel spreads clients over four processes, each of which reads all streams;
    their metrics are told together. SIGUSR1 restarts them one after the other: a client of one that goes
    comes back to another.

    Examples: `sluicegate edge --port 8600`, `sluicegate edge --processes 4`
    """
    from ops.settings import Settings

    settings = Settings()
    count = settings.edge.processes if processes is None else processes
    if count > 1 and siblings is None:
        import asyncio

        from ops.edge_processes import EdgeProcesses

        return asyncio.run(EdgeProcesses(settings, host, port, grpc_port, count).run())
    from ops.edge import run_edge

    return run_edge(settings, host, port, grpc_port, process=process, siblings=siblings)
