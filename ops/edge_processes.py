"""The parent of edges that share one address: keeps it, starts them, restarts them in turn."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.server import bind, url_of
from edge.siblings import Siblings
from ops import console
from ops.addresses import edge_file
from ops.children import Child, Children, sluicegate
from ops.edge import Listening, address_left, edge_options, grpc_port_held
from ops.signals import on_stop_signals

if TYPE_CHECKING:
    from ops.settings import Settings

_OF_SIGTERM: Final = 128 + signal.SIGTERM
_READY_S: Final = 120.0
"""Longest that a process may take to read its way in, before the next one is sent away."""
_FINISH_S: Final = 15.0
"""Beyond the drain, for what is under way then."""
_LOOK_S: Final = 0.1
_SHORT_LIFE_S: Final = 10.0
_SHORT_LIVES_MAX: Final = 3


class EdgeProcesses:
    """``count`` edges on one address; SIGUSR1 restarts them in turn."""

    def __init__(
        self, settings: Settings, host: str | None, port: int | None, grpc_port: int | None, count: int
    ) -> None:
        self._settings = settings
        self._options = edge_options(settings, host, port).checked()
        self._count = count
        self._port = 0
        self._asked_grpc_port = grpc_port
        self._grpc_port = -1
        self._folder = Path()
        self._rolling = asyncio.Event()
        self._stopping = asyncio.Event()
        self._short_lives = 0

    async def run(self) -> int:
        """Serve until a signal; 0 if all stopped because of it. Raises PortInUse."""
        options = self._options
        stop_s = options.drain_ms / 1_000 + _FINISH_S
        with (
            closing(bind(options.host, options.port, shared=True, listens=False)) as held,
            grpc_port_held(self._settings, self._asked_grpc_port, options, held.getsockname()[1]) as for_grpc,
            tempfile.TemporaryDirectory(prefix="sluicegate-edge-") as folder,
        ):
            self._folder, self._port, self._grpc_port = Path(folder), held.getsockname()[1], for_grpc
            where = Listening(url_of(held), options.host, for_grpc)
            with address_left(edge_file(self._settings), where):
                async with Children(stop_within_s=stop_s) as children:
                    return await self._serve(children, where)

    async def _serve(self, children: Children, where: Listening) -> int:
        def stop(number: signal.Signals) -> None:
            self._stopping.set()
            console.note(f"{number.name}: sending the clients away")

        loop = asyncio.get_running_loop()
        with on_stop_signals(stop, lambda _: children.kill_all()):
            loop.add_signal_handler(signal.SIGUSR1, self._rolling.set)
            for number in range(self._count):
                await self._start(children, number)
            for child in children:
                await self._ready(child)
            console.note(f"edge at {where}; {self._count} processes, SIGUSR1 restarts them in turn")
            failed = await self._watch(children)
            await children.stop(*children)
        return 1 if failed or any(child.code not in (0, _OF_SIGTERM) for child in children) else 0

    async def _watch(self, children: Children) -> bool:
        """Start anew what ends by itself; give whether that has no end."""
        while True:
            waits = {
                asyncio.create_task(self._stopping.wait()),
                asyncio.create_task(self._rolling.wait()),
                asyncio.create_task(children.first_end()),
            }
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._stopping.is_set():
                return False
            if self._rolling.is_set():
                self._rolling.clear()
                await self._roll(children)
            for child in [child for child in children if child.code is not None]:
                if not await self._again(children, child):
                    return True

    async def _roll(self, children: Children) -> None:
        for child in list(children):
            if self._stopping.is_set():
                return
            console.note(f"edge {child.name} is restarted (process {child.pid})")
            await children.stop(child)
            children.forget(child)
            await self._ready(await self._start(children, int(child.name)))

    async def _again(self, children: Children, child: Child) -> bool:
        """Put a new process in place of one that ended; False if that has been in vain too often."""
        if time.monotonic() - child.started_at >= _SHORT_LIFE_S:
            self._short_lives = 0
        self._short_lives += 1
        if self._short_lives > _SHORT_LIVES_MAX:
            console.fail(
                f"edge {child.name} ended by itself with exit code {child.code}, again; all are stopped",
                "what it wrote last says why; start the edge again when that is mended",
            )
            return False
        console.warn(f"edge {child.name} ended by itself with exit code {child.code}; it is started anew")
        children.forget(child)
        await self._start(children, int(child.name))
        return True

    async def _start(self, children: Children, number: int) -> Child:
        words = ["--host", self._options.host, "--port", str(self._port), f"--grpc-port={self._grpc_port}"]
        words += ["--process", str(number), "--siblings", str(self._folder)]
        return await children.start(str(number), sluicegate("edge", *words))

    async def _ready(self, child: Child) -> None:
        """Wait until a process can take clients, or has ended, or has taken too long."""
        others = Siblings(self._folder, -1)
        deadline = time.monotonic() + _READY_S
        while child.code is None and not self._stopping.is_set() and time.monotonic() < deadline:
            if (self._folder / f"{child.name}.sock").exists() and await others.is_ready(child.name):
                return
            await asyncio.sleep(_LOOK_S)
