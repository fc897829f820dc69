"""The parent of edges that share one address: keeps it, starts them, restarts them in turn."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections import Counter
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
_PAUSE_S: Final = 30.0
"""Between two starts of one that ended soon more often than that, while others serve."""


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
        self._short_lives: Counter[str] = Counter()
        self._due_s: dict[str, float] = {}
        """When those that are missing are started again."""

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
                await self._start(children, str(number))
            for child in children:
                await self._ready(child)
            console.note(f"edge at {where}; {self._count} processes, SIGUSR1 restarts them in turn")
            failed = await self._watch(children)
            await children.stop(*children)
        return 1 if failed or any(child.code not in (0, _OF_SIGTERM) for child in children) else 0

    async def _watch(self, children: Children) -> bool:
        """Start anew what ends by itself; give whether that has no end and none is left."""
        while True:
            await self._until_something_happens(children)
            if self._stopping.is_set():
                return False
            if self._rolling.is_set():
                self._rolling.clear()
                await self._roll(children)
            for child in [child for child in children if child.code is not None]:
                if not self._put_off(children, child):
                    return True
            for name in [name for name, due_s in self._due_s.items() if due_s <= time.monotonic()]:
                await self._start_again(children, name)

    async def _until_something_happens(self, children: Children) -> None:
        """Wait for a signal, the end of a process, or the time to start one that is missing."""
        signals = [asyncio.create_task(event.wait()) for event in (self._stopping, self._rolling)]
        left_s = max(0.0, min(self._due_s.values()) - time.monotonic()) if self._due_s else None
        waits = {*signals, *(child.ended for child in children)}
        await asyncio.wait(waits, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in signals:
            wait.cancel()

    async def _roll(self, children: Children) -> None:
        """Restart them in turn, the missing ones first, until one does not get ready.

        It would be the same with the next, and in the end nobody would serve.
        """
        for name in [*self._due_s, *(child.name for child in children)]:
            if self._stopping.is_set():
                return
            old = next((child for child in children if child.name == name), None)
            if old is not None:
                console.note(f"edge {name} is restarted (process {old.pid})")
                await children.stop(old)
                children.forget(old)
            new = await self._start_again(children, name)
            if new is None or not await self._ready(new):
                if not self._stopping.is_set():
                    console.warn(
                        f"edge {name} did not get ready: the restart ends here, and the others go on as they "
                        "are. What it wrote last says why; mend that, and send SIGUSR1 again"
                    )
                return

    def _put_off(self, children: Children, child: Child) -> bool:
        """Say when one that ended is started again; False if that has been in vain and none is left."""
        children.forget(child)
        if time.monotonic() - child.started_at >= _SHORT_LIFE_S:
            self._short_lives[child.name] = 0
        self._short_lives[child.name] += 1
        told = f"edge {child.name} ended by itself with exit code {child.code}"
        now_s, pause_s = time.monotonic(), 0.0
        if self._short_lives[child.name] <= _SHORT_LIVES_MAX:
            console.warn(f"{told}; it is started anew")
        elif list(children) or any(due_s <= now_s for due_s in self._due_s.values()):
            pause_s = _PAUSE_S
            console.warn(
                f"{told}, again; the others go on without it, it is tried again in {pause_s:g} s. What it "
                "wrote last says why; SIGUSR1 tries it at once"
            )
        else:
            console.fail(
                f"{told}, again; all are stopped",
                "what it wrote last says why; start the edge again when that is mended",
            )
            return False
        self._due_s[child.name] = now_s + pause_s
        return True

    async def _start_again(self, children: Children, name: str) -> Child | None:
        """Start one while others serve; None if the system does not, and then it is tried later."""
        try:
            return await self._start(children, name)
        except OSError as error:  # the interpreter was replaced, or there are too many processes
            console.warn(f"edge {name} cannot be started: {error}; it is tried again in {_PAUSE_S:g} s")
            self._due_s[name] = time.monotonic() + _PAUSE_S
            return None

    async def _start(self, children: Children, name: str) -> Child:
        words = ["--host", self._options.host, "--port", str(self._port), f"--grpc-port={self._grpc_port}"]
        words += ["--processes", str(self._count), "--process", name, "--siblings", str(self._folder)]
        child = await children.start(name, sluicegate("edge", *words))
        self._due_s.pop(name, None)
        return child

    async def _ready(self, child: Child) -> bool:
        """Wait until a process can take clients, has ended or has taken too long; give whether it can."""
        others = Siblings(self._folder, -1)
        deadline = time.monotonic() + _READY_S
        while child.code is None and not self._stopping.is_set() and time.monotonic() < deadline:
            if (self._folder / f"{child.name}.sock").exists() and await others.is_ready(child.name):
                return True
            await asyncio.sleep(_LOOK_S)
        return False
