"""`sluicegate replay`: a recording plays again, as a new stream or straight from an edge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from typing import BinaryIO

    from cyclopts import App

    from ops.player import Player
    from schemas.recording import Recording

Flag = Annotated[bool, Parameter(negative=())]


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(replay_command, name="replay")


def replay_command(
    file: str,
    *,
    speed: float = 1.0,
    as_id: Annotated[str | None, Parameter(name="--as")] = None,
    tenant: str | None = None,
    serve: int | None = None,
    loop: Flag = False,
    patience_s: float = 60.0,
) -> int:
    """Play a recording again: the same payloads in the same cadence, as a new stream.

    With `--serve PORT` nothing else is needed, no Kafka and no worker: an edge plays it on that port,
    so that a page can be made against it.

    Example: `sluicegate replay build-42.stream.jsonl --speed 10`

    Parameters
    ----------
    file
        A file that `sluicegate record` made, or `-` for standard input.
    speed
        2 is twice as fast; 0 is as fast as it goes.
    as_id
        Id of the new stream; by default the old one's with a stamp. Playing a recording twice as the
        same stream doubles nothing.
    tenant
        Whose stream it becomes; by default the recording's.
    serve
        Play it from an edge on this port (0 takes a free one) until Ctrl-C.
    loop
        With --serve: begin again when it is over, as a new stream each time.
    patience_s
        Seconds to go on while the edge is away.
    """
    from ops.errors import BadFile, Misused
    from ops.settings import EdgeSettings

    EdgeSettings.check_word("--serve", serve, "port")
    if speed < 0:
        raise Misused(f"--speed {speed:g} is less than 0", "2 is twice as fast, 0 as fast as it goes")
    if loop and serve is None:
        raise Misused("--loop goes with --serve", "a stream that is published ends once")
    try:
        source = Path(file).open("rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise BadFile(file, str(error.strerror), "name a recording, or - for standard input") from None
    with source:
        if serve is not None:
            return _serve(source, file, serve, speed, loop=loop)
        return _replay(source, file, speed, as_id, tenant, patience_s)


def _serve(source: BinaryIO, name: str, port: int, speed: float, *, loop: bool) -> int:
    from edge.options import EdgeOptions
    from edge.recorded import Playing, create_replay_app
    from edge.server import bind, run, url_of
    from ops import console
    from ops.addresses import console_page
    from schemas.recording import read_recording

    recording = read_recording(source, name)
    header = recording.header
    options = EdgeOptions(port=port)
    app = create_replay_app(header, recording.events, Playing(speed, loop), options)
    with bind(options.host, options.port) as listening:
        page = console_page(url_of(listening), header.tenant, header.stream_id)

        def say() -> None:
            console.out().print(f"playing {name} at {page}")

        run(app, listening, on_listening=say)
    return 0


def _replay(
    source: BinaryIO, name: str, speed: float, as_id: str | None, tenant: str | None, patience_s: float
) -> int:
    import asyncio

    from ops import console
    from ops.addresses import edge_token, edge_url
    from ops.client import EdgeClient
    from ops.commands.execute import default_stream_id
    from ops.player import Player
    from ops.settings import Settings
    from schemas.redaction import redacted

    recording = _checked(source, name)
    header = recording.header
    stream_id = as_id or default_stream_id(f"{header.stream_id[:90]}-replay")
    settings = Settings()
    url, token = edge_url(settings), edge_token(settings)
    console.note(f"stream {stream_id} on {redacted(url)}")

    async def run() -> Player:
        client = EdgeClient(
            url,
            tenant=tenant or header.tenant,
            token=token,
            patience_s=patience_s,
            on_trouble=console.note,
        )
        async with client:
            player = Player(client, stream_id, header.kind)
            await _play(player, recording, stream_id, speed)
            return player

    player = asyncio.run(run())
    console.note(f"played {player.sent} events")
    if not player.ended:
        console.warn("the recording has no end: the new stream stays open until its time-out")
    return 0


async def _play(player: Player, recording: Recording, stream_id: str, speed: float) -> None:
    import asyncio
    import time

    from ops.player import Rewriter

    rewriter = Rewriter(stream_id, speed=speed, start_us=time.time_ns() // 1_000)
    try:
        await player.play(rewriter.rewrite(recording.events))
    except asyncio.CancelledError:
        await player.stop(rewriter)
        raise


def _checked(source: BinaryIO, name: str) -> Recording:
    """Read the recording to its end first: nothing of a broken one is published."""
    import shutil
    import tempfile

    from schemas.recording import read_recording

    if not source.seekable():
        spooled = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the recording is read
        shutil.copyfileobj(source, spooled)
        spooled.seek(0)
        source = spooled
    for _ in read_recording(source, name).events:
        pass
    source.seek(0)
    return read_recording(source, name)
