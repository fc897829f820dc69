"""The parent of a worker's processes: passes signals on, and stops all when one ends by itself."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from ops import console
from ops.children import Child, Children, sluicegate
from ops.signals import on_stop_signals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A role ends its last unit of work or leaves it to the next owner within 13 s, and is gone 10 s later at the
# latest (pipelines/role.py). A process that needs longer hangs; killed, it loses nothing either.
STOP_WITHIN_S = 25.0
MADE_WAY = 5  # as pipelines/app.py has it
_OF_SIGTERM = 128 + signal.SIGTERM


async def supervise(roles: Mapping[str, Sequence[str]]) -> int:
    """Run each role in a process of its own, with its words, until a signal comes; 0 if all stopped by it.

    128 + the signal's number if one that was to migrate its state did not come to run.
    """
    stopping = asyncio.Event()
    asked: list[signal.Signals] = []
    async with Children(stop_within_s=STOP_WITHIN_S) as children:

        def stop(number: signal.Signals) -> None:
            asked.append(number)
            stopping.set()  # first: of a terminal that was closed nothing more can be said
            console.note(f"{number.name}: stopping {', '.join(child.name for child in children)}")

        with on_stop_signals(stop, lambda _: children.kill_all()):
            for role, words in roles.items():
                child = await children.start(role, sluicegate("worker", *words, "--role-process", role))
                console.note(f"role {role} runs as process {child.pid}")
            failed = await _until_stopping(stopping, children)
            await children.stop(*children)
    if failed is not None:
        return failed.code or 1
    # A role that had not begun yet dies of the signal itself: nothing was under way.
    hard = [
        f"{child.name} (exit code {child.code})" for child in children if child.code not in (0, _OF_SIGTERM)
    ]
    if hard:
        console.warn(f"did not stop cleanly: {', '.join(hard)}")
        return 1
    # What was asked for is not known to be done: a script behind it must not go on as if it were.
    if early := [child.name for child in children if child.code and "--migrate" in roles[child.name]]:
        console.warn(
            f"{', '.join(early)}: stopped before its state was migrated and it ran",
            "the same command goes on where it stood; `sluicegate worker --roles ROLE --abandon-migration`, "
            "with the code from before, gives up what was begun",
        )
        return 128 + asked[0]
    return 0


async def _until_stopping(stopping: asyncio.Event, children: Children) -> Child | None:
    """Wait for a signal, or for a process that ends by itself: that one is returned."""
    while True:
        told = asyncio.create_task(stopping.wait())
        ended = asyncio.create_task(children.first_end())
        try:
            await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.is_set():
                return None
            failed = ended.result()
        finally:
            told.cancel()
            ended.cancel()
        if failed.code != MADE_WAY:
            break
        console.note(f"role {failed.name} has made way for its next generation, the others go on")
        children.forget(failed)
        if not any(True for _ in children):
            return None
    console.fail(
        f"role {failed.name} ended by itself with exit code {failed.code}; the others are stopped",
        "what it wrote last says why; start the worker again when that is mended",
    )
    return failed
