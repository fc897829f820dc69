"""`sluicegate tail`: one stream in the terminal, as it flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App

    from ops.client import EdgeClient

SILENT_S: Final = 5.0
"""A model that is there says its first words within a second or two."""


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(tail_command, name="tail")


def tail_command(
    stream: str,
    *,
    from_cursor: Annotated[str | None, Parameter(name="--from")] = None,
    tenant: str = "default",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    patience_s: float = 60.0,
) -> int:
    """Show a stream from its start, as it flows, to its end.

    A connection that breaks is taken up again where it broke. The last line is `end REASON`; the exit
    code is 0 if that is `completed`, else 1.

    Example: `sluicegate tail build-42`

    Parameters
    ----------
    stream
        Id of the stream, or TENANT/STREAM as other commands print it.
    from_cursor
        Only what came after this cursor: the `cursor` of an event that `--json` printed.
    tenant
        Whose stream it is.
    as_json
        Print each event as a line of JSON, with its cursor.
    patience_s
        Seconds to go on while the edge is away.
    """
    import asyncio

    from ops import console
    from ops.addresses import edge_token, edge_url
    from ops.client import EdgeClient
    from ops.naming import stream_named
    from ops.settings import Settings

    settings = Settings()
    tenant, stream = stream_named(stream, tenant)

    async def run(url: str) -> int:
        client = EdgeClient(
            url,
            tenant=tenant,
            token=edge_token(settings),
            patience_s=patience_s,
            on_trouble=console.note,
        )
        async with client:
            if not await client.knows(stream):
                console.note(f"no stream {tenant}/{stream} is known yet; waiting until it opens")
            return await follow(client, stream, from_cursor, as_json=as_json)

    return asyncio.run(run(edge_url(settings)))


async def follow(
    client: EdgeClient, stream: str, cursor: str | None = None, *, as_json: bool = False, if_silent: str = ""
) -> int:
    """Print a stream's events until its end; 0 if it completed.

    ``if_silent`` is told on standard error where nothing follows the stream's ``open`` within ``SILENT_S``.
    """
    import asyncio

    from ops import console
    from ops.rendering import Renderer

    renderer = Renderer(console.out())
    reason = None
    loop = asyncio.get_running_loop()
    telling = loop.call_later(SILENT_S, console.warn, if_silent) if if_silent else None
    try:
        async for event in client.events(stream, cursor=cursor):
            if telling is not None and event.type != "open":
                telling.cancel()
            if as_json:
                console.print_json({"cursor": event.cursor, **event.fields})
            else:
                renderer.show(event.type, event.fields)
            if event.type == "end":
                reason = event.fields.get("reason")
    finally:
        if telling is not None:
            telling.cancel()
        renderer.end_line()
    if reason is None:
        console.note("the stream had ended before this cursor: nothing follows")
        return 0
    return 0 if reason == "completed" else 1
