"""`sluicegate llm loopback`: a provider on this machine that plays recordings and fails on demand."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # the command line is read by its types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App

    from connectors.llm.loopback.server import LoopbackOptions


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(loopback_command, name="loopback")


def loopback_command(
    *,
    port: Annotated[int, Parameter(help="Port to bind; 0 takes a free one.")] = 0,
    recordings: Annotated[
        Path | None, Parameter(help="Folder of *.stream.jsonl, besides those that come with us.")
    ] = None,
    speed: Annotated[float, Parameter(help="Of recordings: 2 = twice as fast, 0 = as fast as can be.")] = 1.0,
    model: Annotated[
        tuple[str, ...], Parameter(help="NAME=WANTED: what another model's name stands for.", negative=())
    ] = (),
) -> int:
    """Be a provider of language models, on loopback, in all five wire shapes; it costs and knows nothing.

    What it answers is said by the model's name: `echo` gives the question back, `words` makes words up,
    `tool` calls a tool, `json` follows a schema, and a recording's name (`welcome`) plays it. A query after
    the name sets the pace and the faults: `words?tokens=150&rate=50`, `welcome?fault=cut&after=3`.
    `GET /_faults` lists the faults, `GET /_calls` tells what it was asked and which calls were closed by
    their client.

    Example: `sluicegate llm loopback --port 8700 --model gpt-x="words?rate=50"`
    """
    import asyncio
    from itertools import starmap

    import uvloop

    from connectors.llm.loopback.server import LoopbackOptions
    from ops.errors import Misused

    pairs = [each.partition("=") for each in model]
    if wrong := [name for name, equals, wanted in pairs if not name or not equals or not wanted]:
        raise Misused(f"--model {wrong[0]}: is not NAME=WANTED", "for example gpt-x=words?rate=50")
    if recordings is not None and not recordings.is_dir():
        raise Misused(f"--recordings {recordings}: there is no such folder")
    if not 0 <= port <= 65_535 or not 0 <= speed <= 1_000_000:
        raise Misused("--port is from 0 to 65535, --speed from 0 to 1000000")
    options = LoopbackOptions(
        port=port,
        recordings=recordings,
        speed=speed,
        models=dict(starmap(lambda name, _, wanted: (name, wanted), pairs)),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options))
    return 0


async def _serve(options: LoopbackOptions) -> None:
    import asyncio

    from connectors.llm.loopback.answers import SHAPES
    from connectors.llm.loopback.server import Loopback
    from ops import console
    from ops.signals import on_stop_signals

    stop = asyncio.Event()
    async with Loopback(options) as loopback:
        with on_stop_signals(lambda _: stop.set(), lambda _: stop.set()):
            for shape in SHAPES:
                console.out().print(f"{shape:17} {loopback.base_url(shape)}")
            console.note(f"models: {', '.join(loopback.control.names())}")
            console.note("Ctrl-C ends it")
            await stop.wait()
    playing = sum(seen.outcome == "stopped" for seen in loopback.seen)
    console.note(f"stopped after {loopback.calls.total} calls" + (f", {playing} amid" if playing else ""))
