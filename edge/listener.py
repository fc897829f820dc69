"""Takes connections off a listening socket, as long as there are files for them.

An event loop's own server takes all that wait before it answers any of them; where the files do not suffice
for that, libuv closes the rest unanswered. Here the rest waits in the kernel's queue, until some of those
that were taken have been answered.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import structlog

from connectors.files import files_max

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux's
_SPARE_FILES: Final = 64
"""Left to what else is opened meanwhile: a broker's connection, a JWKS."""
_AT_ONCE: Final = 10
"""Taken in one turn of the loop, at least. With a hundred, so many requests are under way in a storm that
what stays of connections is spread among what does not: 7 KiB each in place of 4.6."""
_A_SECOND: Final = 1_000
"""Taken where turns are long, of a loop that has much to write. A core answers twice as many, so a turn that
is long for those whom it took makes the next one no longer."""
_TURN_S_MAX: Final = 0.25
_AGAIN_S: Final = 0.02
"""After the last file was taken: some are soon given back."""
_READ_S: Final = 0.05
"""In which what waits in the sockets is read: some turns of the loop."""
_TROUBLE_S: Final = 1.0
"""After the kernel gave none; as asyncio does."""


class Listener:
    """Of one listening socket, on the loop that serves it."""

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        connections_max: int,
        user_timeout_ms: int = 0,
    ) -> None:
        """``make`` gives the protocol of a connection; ``connections_max`` of them may be open at a time.

        ``user_timeout_ms``: so long may what was sent to a peer go unacknowledged; 0 = the kernel's choice.
        """
        self._listening = listening
        self._make = make
        self._connections_max = connections_max
        self._user_timeout_ms = user_timeout_ms
        self._open: WeakSet[socket.socket] = WeakSet()
        """A transport lets go of its socket when it closes it."""
        self._loop = asyncio.get_running_loop()
        self._last_file = files_max() - _SPARE_FILES
        self._connecting: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self._unfinished_s: float | None = None
        """When the last turn began, if it left somebody waiting."""
        self._listen()

    def close(self) -> None:
        """Take what has come up to now, for whoever waits in a queue that ends is cut off; then no more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listening)
        if self._again is not None:
            self._again.cancel()
        while self._take_one():
            pass
        self._listening.close()

    async def all_made(self, wait_s_max: float) -> None:
        """Wait until those that were taken are connections, and what they ask by then was read.

        Whoever ends then has them to answer. One that asked nothing yet is closed in silence.
        """
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=wait_s_max)
            await asyncio.sleep(_READ_S)

    def _listen(self) -> None:
        if self._is_full():  # with one that is taken at each look there would be no bound
            self._again = self._loop.call_later(_AGAIN_S, self._listen)
            return
        self._again = None
        self._loop.add_reader(self._listening, self._take)

    def _take(self) -> None:
        now_s = self._loop.time()
        turn_s = 0.0 if self._unfinished_s is None else min(now_s - self._unfinished_s, _TURN_S_MAX)
        self._unfinished_s = None  # a quiet time is no long turn
        for _ in range(max(_AT_ONCE, int(turn_s * _A_SECOND))):
            if not self._take_one():
                return
        self._unfinished_s = now_s

    def _take_one(self) -> bool:
        """Take a connection; give whether there may be another to take now."""
        try:
            taken, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            log.warning("connection_not_taken", cause=str(error))
            self._rest(_TROUBLE_S)
            return False
        taken.setblocking(False)  # noqa: FBT003  # the standard library's signature
        if self._user_timeout_ms and _USER_TIMEOUT is not None:
            taken.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, self._user_timeout_ms)
        self._open.add(taken)
        task = self._loop.create_task(self._connect(taken))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        # A new file has the lowest number that is free.
        if taken.fileno() >= self._last_file or self._is_full():
            self._rest(_AGAIN_S)
            return False
        return True

    def _is_full(self) -> bool:
        return len(self._open) >= self._connections_max

    def _rest(self, rest_s: float) -> None:
        if not self._closed:
            self._loop.remove_reader(self._listening)
            self._again = self._loop.call_later(rest_s, self._listen)

    async def _connect(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, taken)
        except OSError:  # its client has left
            taken.close()
