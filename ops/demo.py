"""The demo: every part for real, a real command through all of them, and nothing left behind.

1. The local stack is started if none runs (or the one that the settings name is used).
2. Schemas are registered and topics created.
3. An edge and a worker are started beside us, and asked until the edge is ready.
4. A real command, the project's own unit tests, is run by `sluicegate exec` (ops/demo_model.py: a question
   is asked).
5. Once: its stream is printed as the edge delivers it. Else: all stays up, says what to try, and what
   somebody kills to try it is started anew.
6. Whatever happened: the command, the worker and the edge are stopped, in this order, and then the
   stack, if step 1 started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ops import console
from ops.addresses import edge_token, edge_url, kafka_options
from ops.children import Child, Children, sluicegate
from ops.client import EdgeClient
from ops.commands.execute import default_stream_id
from ops.commands.tail import follow
from ops.errors import StageFailed, Unreachable
from ops.invitation import invitation
from ops.signals import on_stop_signals
from schemas.redaction import redacted

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

    from ops.settings import Settings
    from ops.stack.addresses import Addresses

EDGE_READY_S_MAX: Final = 120.0  # a busy machine is not a broken part
# The edge gives up its drain and the worker its unit of work well before; see their own bounds.
STOP_WITHIN_S: Final = 30.0
# A part that ends sooner did not get to work; starting it again would end the same way.
LIVES_S_MIN: Final = 5.0
ROOT: Final = Path(__file__).resolve().parent.parent


def demo_command() -> list[str]:
    """A command worth watching: real, with real output, for a while: part of the project's own unit tests."""
    # The same examples each time: a demo that fails once in a hundred runs tells nobody anything. All of them
    # take minutes, and one is enough to watch: half of the alphabet, without the many of language models.
    unit = ROOT / "tests" / "unit"
    left_out = (f"--ignore-glob={unit / name}" for name in ("*_llm_*", "test_[a-h]*"))
    steady = ("--hypothesis-seed=0", "-p", "no:cacheprovider", *left_out)
    where = ("--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), str(unit))
    return [sys.executable, "-u", "-m", "pytest", "-v", "--color=no", *steady, *where]


def prepare_topics(settings: Settings, where: Addresses) -> None:
    """Register the schemas and create the topics that are missing, unless the settings say not to."""
    from connectors.kafka.admin import ensure_topics
    from connectors.registry import Registry
    from schemas.topics import TOPICS

    if settings.registry.register_schemas:
        with contextlib.closing(Registry(where.registry_url)) as registry:
            registry.register_all()
    if settings.kafka.create_topics:
        ensure_topics(kafka_options(settings, where.kafka), TOPICS)


class Demo:
    """One demo over a stack that runs."""

    def __init__(self, settings: Settings, *, once: bool) -> None:
        self._settings = settings
        self._once = once
        self._logs = settings.data_dir.absolute() / "logs"
        self._children = Children(
            stop_within_s=STOP_WITHIN_S, on_stop=lambda name: console.note(f"stopping: {name}")
        )
        self._environment: dict[str, str] = {}
        self._stream = ""

    async def run(self) -> int:
        """Steps 3 to 5; 0 if all went well. Raises StageFailed with the end of a log."""
        running = asyncio.current_task()
        assert running is not None

        def stop(number: signal.Signals) -> None:
            running.cancel()  # first: of a terminal that was closed nothing more can be said
            console.note(f"{number.name}: stopping what was started; a second one kills it")

        with on_stop_signals(stop, lambda _: self._children.kill_all()):
            try:
                async with self._children:
                    return await self._run()
            except asyncio.CancelledError:
                return 130 if self._once else 0  # Ctrl-C is how a demo that stays is ended

    async def _run(self) -> int:
        parts = []
        if self._settings.edge.url:
            console.note(f"the edge of the settings is used: {redacted(self._settings.edge.url)}")
        else:
            parts.append(await self._start("edge", "edge", "--port", str(self._edge_port())))
        worker = await self._start("worker", "worker")
        parts.append(worker)
        url = self._settings.edge.url or await self._until_ready(parts[0])
        parts += await self._more_parts()  # not before: on two cores they would only keep each other waiting
        await self._begin(url)
        watch = asyncio.create_task(self._fail_with(parts) if self._once else self._keep_up(parts, url))
        show = asyncio.create_task(self._show(url, worker))
        try:
            done, _ = await asyncio.wait({watch, show}, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in (watch, show):
                task.cancel()
            await asyncio.gather(watch, show, return_exceptions=True)

    async def _more_parts(self) -> list[Child]:
        """Start what else this demo needs."""
        return []

    async def _begin(self, url: str) -> None:  # noqa: ARG002  # a demo may begin by the edge
        """Let something come that can be watched."""
        self._stream = default_stream_id("unit-tests")
        words = ("--stream", self._stream, "--title", "unit tests of sluicegate", "--label", "demo=yes")
        self._command = await self._start("exec", "exec", *words, "--", *demo_command())

    async def _start(self, name: str, *words: str, again: bool = False) -> Child:
        log = self._logs / f"{name}.log"
        child = await self._children.start(
            name, sluicegate(*words), log=log, append=again, environment=self._environment
        )
        console.note(f"{name} runs as process {child.pid}, log {log}")
        return child

    def _edge_port(self) -> int:
        """The configured port, or any free one if that is only the default and somebody has it."""
        port = self._settings.edge.port
        if "port" in self._settings.edge.model_fields_set:
            return port
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._settings.edge.host, port))
            except OSError:
                return 0
        return port

    async def _until_ready(self, edge: Child) -> str:
        deadline = time.monotonic() + EDGE_READY_S_MAX
        while time.monotonic() < deadline:
            if edge.ended.done():
                raise self._failed(edge)
            with contextlib.suppress(Unreachable):
                url = edge_url(self._settings, pid=edge.pid)
                async with EdgeClient(url, patience_s=0.2) as client:
                    await client.get("/readyz")
                return url
            await asyncio.sleep(0.1)
        raise StageFailed(
            f"the edge was not ready within {EDGE_READY_S_MAX:g} s; it wrote last:\n{edge.log_tail()}",
            f"its whole log is {edge.log}",
        )

    async def _fail_with(self, parts: Sequence[Child]) -> int:
        """Wait until one of the parts ends, which none should."""
        raise self._failed(await _first_ended(parts))

    async def _keep_up(self, parts: list[Child], url: str) -> int:
        """Start a part anew that ended: somebody tries what happens. One that cannot live is an error."""
        while True:
            ended = await _first_ended(parts)
            if time.monotonic() - ended.started_at < LIVES_S_MIN:
                raise self._failed(ended)
            console.note(f"{ended.name} ended with exit code {ended.code}; it is started anew")
            self._children.forget(ended)
            port = ("--port", url.rpartition(":")[2]) if ended.name == "edge" else ()
            parts[parts.index(ended)] = await self._start(ended.name, ended.name, *port, again=True)

    async def _show(self, url: str, worker: Child) -> int:
        stream, command = self._stream, self._command
        if not self._once:
            console.out().print(invitation(url, stream, worker.pid))
            await command.wait()
            console.note(f"the command ended with exit code {command.code}; its stream can still be read")
            await asyncio.Event().wait()
        async with EdgeClient(url, token=edge_token(self._settings), on_trouble=console.note) as client:
            completed = await follow(client, stream)
        await command.wait()
        if command.code:
            raise self._failed(command)
        return completed

    def _failed(self, child: Child) -> StageFailed:
        return StageFailed(
            f"{child.name} ended with exit code {child.code}; it wrote last:\n{child.log_tail()}",
            f"its whole log is {child.log}",
        )


async def _first_ended(parts: Sequence[Child]) -> Child:
    await asyncio.wait({part.ended for part in parts}, return_when=asyncio.FIRST_COMPLETED)
    return next(part for part in parts if part.ended.done())
