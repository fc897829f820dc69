"""Thousands of plain clients in one loop: each follows a stream, comes back as told, checks what it sees."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FRAME = re.compile(rb'^id: (\S+)\ndata: \{"type":"([a-z_]+)","seq":(\d+)', re.MULTILINE)
_GAP = re.compile(rb'"from_seq":(\d+)')
_RETRY = re.compile(rb"^retry: (\d+)$", re.MULTILINE)
_AT_A_TIME = 200
"""Connections that are opened at once in the beginning: a listener's backlog is finite."""


@dataclass
class Client:
    """One of them: its place, and what was wrong with what it saw."""

    path: str
    cursor: bytes = b""
    expect: int = 0
    """The seq that must come next."""
    holes: int = 0
    doubles: int = 0
    gaps: int = 0
    """Declared ones."""
    ended: bool = False
    connected: bool = False
    retry_s: float = 1.0
    came_s: list[float] = field(default_factory=list)
    """When each of its connections was answered."""
    transport: asyncio.Transport | None = None


class Swarm:
    """Runs on a thread of its own; ``ports`` are tried at random, as a balancer would."""

    def __init__(self, ports: Sequence[int], paths: Sequence[str], count: int) -> None:
        self.clients = [Client(paths[number % len(paths)]) for number in range(count)]
        self._ports = list(ports)
        self._loop = uvloop.new_event_loop()
        self._opening = asyncio.Semaphore(_AT_A_TIME)
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, name="swarm", daemon=True)
        self._thread.start()
        self._loop.call_soon_threadsafe(lambda: [self.connect(client) for client in self.clients])
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    # -- what a test asks -------------------------------------------------------------------------------

    @property
    def connected(self) -> int:
        """How many have an answer that goes on."""
        return sum(client.connected for client in self.clients)

    def have(self, seq: int) -> int:
        """How many have seen all before ``seq``."""
        return sum(client.expect >= seq for client in self.clients)

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
        """Wait until something is so; tell how far they are if it never is."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                places = sorted(client.expect for client in self.clients)
                raise AssertionError(
                    f"never seen: {what}; {self.connected} connected, the last at {places[0]}, {self.wrong()}"
                )
            time.sleep(0.05)

    def wrong(self) -> dict[str, int]:
        """Sums over all of them: events that are missing, or came twice."""
        return {
            "holes": sum(client.holes for client in self.clients),
            "doubles": sum(client.doubles for client in self.clients),
        }

    def came_since(self, since_s: float) -> list[float]:
        """When each answer began since then (``time.monotonic``), in order."""
        return sorted(at for client in self.clients for at in client.came_s if at >= since_s)

    # -- at work ----------------------------------------------------------------------------------------

    def connect(self, client: Client) -> None:
        """Open a connection for a client; it comes back by itself from then on."""
        if not (self._stopped or client.ended):
            task = self._loop.create_task(self._connect(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def come_back(self, client: Client) -> None:
        """Connect again when its hint is over."""
        if not (self._stopped or client.ended):
            self._loop.call_later(client.retry_s, self.connect, client)

    async def _connect(self, client: Client) -> None:
        async with self._opening:
            try:
                await self._loop.create_connection(
                    lambda: _Follower(self, client), "127.0.0.1", random.choice(self._ports)
                )
            except OSError:
                client.retry_s = 1.0 + random.random()
                self.come_back(client)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self.clients:
            if client.transport is not None:
                client.transport.abort()


class _Follower(asyncio.Protocol):
    def __init__(self, swarm: Swarm, client: Client) -> None:
        self._swarm = swarm
        self._client = client
        self._left = b""

    def connection_made(self, transport: Any) -> None:
        self._client.transport = transport
        last = b"Last-Event-ID: %b\r\n" % self._client.cursor if self._client.cursor else b""
        path = self._client.path.encode()
        transport.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path, last))

    def data_received(self, data: bytes) -> None:
        """A frame is never cut by the framing of chunks, for a chunk is a whole write."""
        client = self._client
        whole, cut, self._left = (self._left + data).rpartition(b"\n\n")
        whole += cut
        for retry in _RETRY.findall(whole):
            client.retry_s = int(retry) / 1_000
            if not client.connected and b'"reconnect"' not in whole:
                client.connected = True
                client.came_s.append(time.monotonic())
        for found in _FRAME.finditer(whole):
            cursor, type_name, seq = found[1], found[2], int(found[3])
            if type_name == b"gap" and (beyond := _GAP.search(whole, found.end())):
                client.gaps += 1
                client.expect = int(beyond[1])
            client.holes += max(seq - client.expect, 0) if type_name != b"gap" else 0
            client.doubles += seq < client.expect
            client.expect, client.cursor = seq + 1, cursor
            client.ended = client.ended or type_name == b"end"

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.connected = False
        self._client.transport = None
        self._swarm.come_back(self._client)
