"""`sluicegate record`: a stream becomes a file that can be played again."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import App

    from ops.client import EdgeClient


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(record_command, name="record")


def record_command(stream: str, *, tenant: str = "default", patience_s: float = 60.0) -> int:
    """Record a stream, from its start to its end, to standard output.

    A finished stream is recorded at once, a live one as it flows. The file is text, a line an event,
    with when each came: `sluicegate replay` plays it again. Exit code 1 if events are missing.

    Example: `sluicegate record build-42 > build-42.stream.jsonl`

    Parameters
    ----------
    stream
        Id of the stream.
    tenant
        Whose stream it is.
    patience_s
        Seconds to go on while the edge is away.
    """
    import asyncio

    from ops import console
    from ops.addresses import edge_token, edge_url
    from ops.client import EdgeClient
    from ops.settings import Settings

    settings = Settings()

    async def run(url: str) -> int:
        client = EdgeClient(
            url,
            tenant=tenant,
            token=edge_token(settings),
            patience_s=patience_s,
            on_trouble=console.note,
        )
        async with client:
            return await _record(client, stream)

    return asyncio.run(run(edge_url(settings)))


async def _record(client: EdgeClient, stream: str) -> int:
    import sys
    import time

    from ops import console
    from ops.answers import object_of
    from ops.recorder import Recorder
    from ops.subscription import stream_path
    from schemas.published import time_text
    from schemas.recording import RecordingHeader

    answer = await client.get(stream_path(client.tenant, stream), {"tenant": client.tenant})
    kind = str(object_of(answer.content)["kind"])
    out = sys.stdout.buffer
    out.write(RecordingHeader(client.tenant, stream, kind, time_text(time.time_ns() // 1_000)).line())
    recorder = Recorder()
    async for event in client.events(stream):
        recorded = recorder.take(event.fields)
        if recorded is not None:
            out.write(recorded.line())
            out.flush()
    console.note(f"recorded {recorder.events} events")
    if recorder.missing:
        console.fail(f"events are missing: {', '.join(recorder.missing)}", "they are no longer to be had")
    if not recorder.ended:
        console.fail("the stream broke off without an end", "record it again")
    return 0 if recorder.ended and not recorder.missing else 1
