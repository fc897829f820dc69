"""`sluicegate demo`: everything at once, for somebody who wants to see it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cyclopts import App


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(demo_command, name="demo")


def demo_command(
    *,
    once: Annotated[bool, Parameter(negative=())] = False,
    model: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Start all parts, stream a real command through them, and say where to look.

    Gets and starts the local stack if none runs here, then a worker and an edge, and streams the
    project's own unit tests. Stays up until Ctrl-C, which stops all that it started.

    Example: `sluicegate demo --once`

    Parameters
    ----------
    once
        Do not stay: print the stream as the edge delivers it, stop everything, and exit with 0 if all
        went well.
    model
        Ask the local language model a question instead, and show its answer as it comes. Where the model is
        not installed (`make environment MODEL=1`), a recording is replayed in its place.
    """
    import asyncio

    from ops import console
    from ops.demo import Demo, prepare_topics
    from ops.demo_model import ModelDemo, announce
    from ops.settings import Settings
    from ops.signals import ignore_stop_signals, interrupt_once
    from ops.stack.down import down
    from ops.stack.progress import OnConsole
    from ops.stack.state import read_state
    from ops.stack.up import ensure_up

    interrupt_once()  # until the loop runs, so that what was started is stopped
    settings = Settings()
    progress = OnConsole(console.err())
    data_dir = settings.data_dir.absolute()
    with only_demo(data_dir):
        there = any(part.process.runs for part in read_state(data_dir).values())
        where = ensure_up(settings, progress, model=model and announce())
        try:
            prepare_topics(settings, where)
            demo = ModelDemo(settings, once=once) if model else Demo(settings, once=once)
            return asyncio.run(demo.run())
        finally:
            ignore_stop_signals()  # a second one must not leave the stack behind
            if not there:
                down(settings)


@contextmanager
def only_demo(data_dir: Path) -> Iterator[None]:
    """Hold the folder for one demo: a second would lose its stack to the first's end. Raises OpsError."""
    from ops.errors import OpsError
    from ops.stack.users import DEMO_LOCK, holder_of
    from pipelines.slots import hold

    data_dir.mkdir(parents=True, exist_ok=True)
    lock = hold(data_dir / DEMO_LOCK)
    if lock is None:
        holder = holder_of(data_dir / DEMO_LOCK)
        raise OpsError(
            f"a demo runs from this folder already (process {holder or 'not known'})",
            "look at that one, or end it by Ctrl-C; another needs a folder of its own (SLUICEGATE_DATA_DIR)",
        )
    with lock:
        yield
