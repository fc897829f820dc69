"""`sluicegate edge`: the process that clients connect to."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # the command line is read by its types
from typing import Annotated

from cyclopts import App, Parameter

SILENT_S_MAX = 120


def register(app: App) -> None:
    """Add the command to the app."""
    edge = App(name="edge")
    edge.default(edge_command)
    edge.command(check_command, name="check")
    app.command(edge)


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

    With `--processes 4` the kernel spreads clients over four processes, each of which reads all streams
    and has a quarter of what a tenant may have; their metrics are told together. SIGUSR1 restarts them
    one after the other: a client of one that goes comes back to another. The first that does not get ready
    ends that, and the others go on as they are.

    Examples: `sluicegate edge --port 8600`, `sluicegate edge --processes 4`
    """
    from ops.settings import EdgeSettings, Settings

    for option, value, name in (
        ("--port", port, "port"),
        ("--grpc-port", grpc_port, "grpc_port"),
        ("--processes", processes, "processes"),
    ):
        EdgeSettings.check_word(option, value, name)
    settings = Settings()
    count = settings.edge.processes if processes is None else processes
    if count > 1 and siblings is None:
        import asyncio

        from ops.edge_processes import EdgeProcesses

        return asyncio.run(EdgeProcesses(settings, host, port, grpc_port, count).run())
    from ops.edge import run_edge

    return run_edge(settings, host, port, grpc_port, process=process, siblings=siblings, processes=count)


def check_command(
    url: str,
    *,
    silent_s: Annotated[float, Parameter(help="Silence that it must bear: a heartbeat and a bit.")] = 16.0,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Find what a proxy in front of an edge does to its streams.

    Asks the edge behind URL for a short stream of timed frames and tells what came of it: held back,
    compressed, cut off while idle, asked for by HTTP/1.0, without its headers. It publishes and reads
    nothing; SLUICEGATE_EDGE__TOKEN is shown if it is set. Exit code 1 if anything was found, 3 if nothing
    answers.

    Example: `sluicegate edge check https://streams.example`
    """
    import asyncio

    from ops import console
    from ops.addresses import edge_token
    from ops.errors import Misused
    from ops.proxy_check import check
    from ops.settings import Settings

    if not 0 <= silent_s <= SILENT_S_MAX:
        raise Misused(f"--silent-s {silent_s:g}: an edge is silent for 0 to {SILENT_S_MAX} seconds")
    report = asyncio.run(check(url, round(silent_s * 1_000), token=edge_token(Settings())))
    if as_json:
        console.print_json(report.shown())
    elif not report.findings:
        console.out().print(f"fine: frames come as they are written (at most {report.held_ms} ms late)")
    else:
        for finding in report.findings:
            console.out().print(f"{finding.code}: {finding.problem}")
            console.out().print(f"  → {finding.remedy}")
    return 1 if report.findings else 0
