"""`sluicegate publish`: events of a file, a line each, go to the edge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    import asyncio
    from io import BufferedReader
    from typing import BinaryIO

    from cyclopts import App

    from ops.publication import FileReader, Publication, Tally

Flag = Annotated[bool, Parameter(negative=())]


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(publish_command, name="publish")


def publish_command(
    file: str,
    *,
    stream: str | None = None,
    kind: str | None = None,
    tenant: str = "default",
    wait: Flag = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    patience_s: float = 60.0,
) -> int:
    """Publish events from a file of NDJSON, or from standard input.

    Each line is an event, `{"type": "progress", "payload": {"done": 3, "total": 9}}`, or a CloudEvent.
    A file is checked to its last line before the first event is sent; what comes through a pipe is sent
    as it comes. Errors name file and line. Exit code 1 if any event was refused. Publishing the same file
    again doubles nothing: events that carry no `event_id` get one that follows from the file and the line.

    Example: `sluicegate publish --stream build-42 events.ndjson`

    Parameters
    ----------
    file
        Path of the file, or `-` for standard input.
    stream
        Stream of events that name no `stream_id` of their own.
    kind
        Kind of events that name none: needed for a new stream, by default that of the stream.
    tenant
        Whose streams they are.
    wait
        Wait for the verdict on each event: accepted, or why not. `pending` when none came in the patience.
    as_json
        Print the summary as JSON.
    patience_s
        Seconds to go on while the edge is away, or has no verdict yet.
    """
    import asyncio

    from ops import console
    from ops.addresses import edge_token, edge_url
    from ops.client import EdgeClient
    from ops.errors import BadFile
    from ops.publication import FileReader, Publication
    from ops.settings import Settings
    from schemas.catalog import LocalSchemas
    from schemas.payloads import PayloadCodec

    settings = Settings()
    url, token = edge_url(settings), edge_token(settings)
    try:
        source = Path(file).open("rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise BadFile(file, str(error.strerror), "name a file of events, or - for standard input") from None
    with source, asyncio.Runner() as runner:
        reader = FileReader(
            file,
            tenant=tenant,
            stream_id=stream,
            kind=kind,
            payloads=PayloadCodec(LocalSchemas()),
            content=_what_it_is(source),
        )
        if source.seekable():
            _check_all(source, reader)
        client = EdgeClient(url, tenant=tenant, token=token, patience_s=patience_s, on_trouble=console.note)
        publication = Publication(client, reader, kind=kind, wait=wait, note=console.note)
        _publish(source, publication, runner)
        runner.run(client.close())
    _summarise(publication.tally, file, as_json=as_json)
    return 1 if publication.tally.rejected else 0


def _what_it_is(source: BufferedReader) -> bytes:
    """The digest of a file; of a pipe, nobody knows what comes, and each run of it is another."""
    import hashlib
    import secrets

    if not source.seekable():
        return secrets.token_bytes(16)
    digest = hashlib.file_digest(source, "sha256").digest()
    source.seek(0)
    return digest


def _check_all(source: BinaryIO, reader: FileReader) -> None:
    from ops.publication import LineReader

    lines = LineReader(reader.name, source)
    while block := lines.block():
        for number, text in block:
            if text.strip():
                reader.event(number, text)
    source.seek(0)


def _publish(source: BinaryIO, publication: Publication, runner: asyncio.Runner) -> None:
    """Read in this thread, so that Ctrl-C ends a read of a silent pipe; send in the runner's loop."""
    from ops.publication import LineReader

    lines = LineReader(publication.name, source)
    try:
        while block := lines.block():
            runner.run(publication.send(block))
    except BaseException:
        _say_how_far(publication, again=source.seekable())
        raise


def _say_how_far(publication: Publication, *, again: bool) -> None:
    from ops import console

    if publication.tally.events:
        console.warn(
            f"{publication.tally.events} events before it were published; "
            + ("the same file again doubles none of them" if again else "send only what comes after them")
            + ", and events with an event_id of their own are never doubled"
        )


def _summarise(tally: Tally, name: str, *, as_json: bool) -> None:
    from ops import console

    if not tally.events:
        console.warn(f"{name} has no events: nothing was published")
    if as_json:
        console.print_json(
            {
                "events": tally.events,
                "requests": tally.requests,
                "streams": sorted(tally.streams),
                "verdicts": dict(tally.verdicts),
                "rejected": tally.rejected,
            }
        )
        return
    if not tally.events:
        return
    for rejected in tally.rejected:
        detail = f": {rejected['detail']}" if rejected["detail"] else ""
        console.fail(f"{name}:{rejected['line']}: {rejected['verdict']}{detail}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in tally.verdicts.most_common())
    console.note(
        f"published {tally.events} events to {len(tally.streams)} streams in {tally.requests} requests"
        + (f": {counts}" if counts else "")
    )
