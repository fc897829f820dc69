"""Thousands of plain clients in one loop: each follows streams, comes back as told, checks what it sees."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

import uvloop

from tests.support.swarm_followers import SocketFollower, SseFollower, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Transport = Literal["sse", "websocket", "grpc"]
_AT_A_TIME: Final = 200
"""Connections that are opened at once in the beginning: a listener's backlog is finite."""


@dataclass
class View:
    """One client's place in one stream, and what was wrong with what it saw."""

    stream: str
    cursor: bytes = b""
    expect: int = 0
    """The seq that must come next."""
    holes: int = 0
    doubles: int = 0
    gaps: int = 0
    """Declared ones."""
    ended: bool = False

    def saw(self, cursor: bytes, type_name: bytes, first_seq: int, last_seq: int) -> None:
        """Take an event; ``first_seq`` is another one than ``last_seq`` where it is a gap."""
        self.holes += max(first_seq - self.expect, 0)
        self.doubles += first_seq < self.expect
        self.gaps += type_name == b"gap"
        self.expect, self.cursor = last_seq + 1, cursor
        self.ended = self.ended or type_name == b"end"


@dataclass
class Client:
    """One of them; over a WebSocket it follows all its streams at once."""

    transport: Transport
    views: Sequence[View]
    connected: bool = False
    retry_s: float = 1.0
    came_s: list[float] = field(default_factory=list)
    """When each of its connections was answered."""
    left_s: list[float] = field(default_factory=list)
    """When each of those was over."""
    trouble: list[str] = field(default_factory=list)
    """Answers that no client of a healthy edge gets."""
    socket: asyncio.Transport | None = None

    @property
    def ended(self) -> bool:
        """Whether it has all there is."""
        return all(view.ended for view in self.views)

    def came(self) -> None:
        """Take note that a connection was answered."""
        self.connected = True
        self.came_s.append(time.monotonic())


class Swarm:
    """Runs on a thread of its own; ``ports`` are tried at random, as a balancer would.

    ``count`` clients follow one of the streams each over SSE, and ``watchers`` over gRPC, at ``grpc_ports``;
    ``sockets`` follow all of them, each over one WebSocket.
    """

    def __init__(
        self,
        ports: Sequence[int],
        streams: Sequence[str],
        count: int,
        *,
        sockets: int = 0,
        watchers: int = 0,
        grpc_ports: Sequence[int] = (),
    ) -> None:
        def one(number: int) -> tuple[View]:
            return (View(streams[number % len(streams)]),)

        self.clients = [Client("sse", one(number)) for number in range(count)]
        self.clients += [Client("websocket", [View(name) for name in streams]) for _ in range(sockets)]
        self.clients += [Client("grpc", one(number)) for number in range(watchers)]
        self._ports = {"sse": list(ports), "websocket": list(ports), "grpc": list(grpc_ports)}
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
    def views(self) -> Sequence[View]:
        """All that all of them see."""
        return [view for client in self.clients for view in client.views]

    @property
    def connected(self) -> int:
        """How many have an answer that goes on."""
        return sum(client.connected for client in self.clients)

    def have(self, seq: int) -> int:
        """How many have seen all before ``seq``."""
        return sum(all(view.expect >= seq for view in client.views) for client in self.clients)

    def until(self, holds: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
        """Wait until something is so; tell how far they are if it never is."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline:
                last = min(view.expect for view in self.views)
                there = Counter(client.transport for client in self.clients if client.connected)
                raise AssertionError(
                    f"never seen: {what}; connected {dict(there)}, the last at {last}, {self.wrong()}"
                )
            time.sleep(0.05)

    def wrong(self) -> dict[str, int]:
        """Sums over all of them: events that are missing, or came twice."""
        return {
            "holes": sum(view.holes for view in self.views),
            "doubles": sum(view.doubles for view in self.views),
        }

    def left_between(self, since_s: float, until_s: float, transport: Transport) -> Sequence[float]:
        """When each answer over a transport was over, within a span of ``time.monotonic``; in order."""
        asked = [client for client in self.clients if client.transport == transport]
        return sorted(at for client in asked for at in client.left_s if since_s <= at < until_s)

    # -- at work ----------------------------------------------------------------------------------------

    def connect(self, client: Client) -> None:
        """Open a connection for a client; it comes back by itself from then on."""
        if not (self._stopped or client.ended):
            task = self._loop.create_task(self._connect(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def left(self, client: Client) -> None:
        """Take note that a client's connection is over; it comes again when its hint is over."""
        if client.connected:
            client.left_s.append(time.monotonic())
        client.connected, client.socket = False, None
        if not (self._stopped or client.ended):
            self._loop.call_later(client.retry_s, self.connect, client)

    async def _connect(self, client: Client) -> None:
        port = random.choice(self._ports[client.transport])
        if client.transport == "grpc":
            await watch(client, port)
            self.left(client)
            return
        follower = SseFollower if client.transport == "sse" else SocketFollower
        async with self._opening:
            try:
                await self._loop.create_connection(lambda: follower(self, client), "127.0.0.1", port)
            except OSError:
                client.retry_s = 1.0 + random.random()
                self.left(client)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self.clients:
            if client.socket is not None:
                client.socket.abort()
