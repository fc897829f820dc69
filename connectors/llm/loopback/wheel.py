"""Writes what is due: one timer for all answers, and not one each, so that thousands cost little."""

from __future__ import annotations

import fcntl
import heapq
import socket
import struct
import termios
import time
from typing import TYPE_CHECKING, Final

from connectors.llm.loopback.script import STAMP

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from connectors.llm.loopback.play import Play
    from connectors.llm.loopback.seen import Seen

TICK_US: Final = 1_000
_STAMP: Final = STAMP.encode()
WRITE_FRAMES_MAX: Final = 256
"""In one write; what is due beyond goes with the next, after others had their turn."""
_DRAIN_US: Final = 2_000
_DRAIN_TRIES: Final = 5_000  # ten seconds: a client that reads nothing is cut all the same
HANG_US_MAX: Final = 900 * 1_000_000
"""So long an answer without an end is kept open."""
LAST_CHUNK: Final = b"0\r\n\r\n"


def now_us() -> int:
    """Microseconds of the monotonic clock."""
    return time.monotonic_ns() // 1_000


class Wheel:
    """Answers by the tick at which something of theirs is due; a tick with none costs nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ticks: list[int] = []
        """A heap of the ticks that have an answer."""
        self._due: dict[int, list[Playing]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0
        self._turning = False

    def put(self, playing: Playing, at_us: int) -> None:
        """Have an answer go on at a time."""
        tick = -(-at_us // TICK_US)
        waiting = self._due.get(tick)
        if waiting is not None:
            waiting.append(playing)
            return
        self._due[tick] = [playing]
        heapq.heappush(self._ticks, tick)
        if not self._turning and (self._timer is None or tick < self._timer_tick):
            self._arm()

    def close(self) -> None:
        """Write nothing more."""
        self._ticks.clear()
        self._due.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ticks:
            self._timer_tick = self._ticks[0]
            delay_us = max(0, self._timer_tick * TICK_US - now_us())
            self._timer = self._loop.call_later(delay_us / 1_000_000, self._turn)

    def _turn(self) -> None:
        self._timer = None
        self._turning = True
        now = now_us()
        until = now // TICK_US
        try:
            while self._ticks and self._ticks[0] <= until:
                for playing in self._due.pop(heapq.heappop(self._ticks)):
                    playing.go_on(now)
        finally:
            self._turning = False
            self._arm()


class Playing:
    """One answer on its way to one client."""

    __slots__ = (
        "_at_us", "_done", "_frames", "_index", "_on_done", "_paused", "_play", "_seen",
        "_transport", "_tries", "_wheel", "began_us",
    )  # fmt: skip

    def __init__(
        self,
        play: Play,
        frames: tuple[bytes, ...],
        seen: Seen,
        transport: asyncio.Transport,
        wheel: Wheel,
        on_done: Callable[[], None],
    ) -> None:
        """Take frames as they stand on the wire, with the framing of a chunk around them."""
        self._play, self._frames, self._seen = play, frames, seen
        self._at_us = play.at_us
        self._transport, self._wheel, self._on_done = transport, wheel, on_done
        self.began_us = now_us()
        self._index = 0
        self._paused = self._done = False
        self._tries = 0

    def go_on(self, now: int) -> None:
        """Write what is due at this time, and come again when more is."""
        if self._done or self._paused:
            return
        frames, index = self._frames, self._index
        count = len(frames)
        if index >= count:
            self._end(now)
            return
        elapsed = now - self.began_us
        at_us = self._at_us
        start, most = index, min(count, index + WRITE_FRAMES_MAX)
        while index < most and at_us[index] <= elapsed:
            index += 1
        if index > start:
            self._index = self._seen.sent = index
            if start <= self._play.first_content < index:
                self._seen.first_content_us = time.time_ns() // 1_000
            data = frames[start] if index == start + 1 else b"".join(frames[start:index])
            self._transport.write(stamped(data) if self._play.stamped else data)
        if self._paused:
            return
        if index < count:
            self._wheel.put(self, max(now + 1, self.began_us + at_us[index]))
        else:
            self._end(now)

    def pause(self) -> None:
        """Write nothing more: the client does not read."""
        self._paused = True

    def resume(self) -> None:
        """Go on: the client reads again."""
        self._paused = False
        self._wheel.put(self, now_us())

    def lost(self, outcome: str) -> None:
        """The connection is gone, or is about to be."""
        if not self._done:
            self._over(outcome)

    def _end(self, now: int) -> None:
        ending = self._play.ending
        if ending == "end":
            self._transport.write(LAST_CHUNK)
            self._over("ended")
            self._on_done()
        elif ending == "close":
            self._over("closed")
            self._transport.close()
        elif ending == "pings" and now - self.began_us < HANG_US_MAX:
            self._transport.write(chunk_of(self._play.ping))
            if not self._paused:
                self._wheel.put(self, now + self._play.ping_us)
        elif ending == "hang" and now - self.began_us < HANG_US_MAX:
            self._wheel.put(self, self.began_us + HANG_US_MAX)
        elif self._tries < _DRAIN_TRIES and unsent_bytes(self._transport):
            self._tries += 1  # a reset throws away what has not gone out, and the fault is not that
            self._wheel.put(self, now + _DRAIN_US)
        else:
            self._over("cut")
            reset(self._transport)

    def _over(self, outcome: str) -> None:
        self._done = True
        self._seen.outcome = outcome
        self._seen.done_us = time.time_ns() // 1_000


def stamped(data: bytes) -> bytes:
    """Put the time, microseconds since 1970, where it is to stand."""
    return data.replace(_STAMP, b"@%016d" % (time.time_ns() // 1_000))


def chunk_of(data: bytes) -> bytes:
    """Write a chunk of HTTP/1.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Count what the client's machine has not taken yet: of our buffer, and of the kernel's."""
    ours = transport.get_write_buffer_size()
    if ours:
        return ours
    fd = transport.get_extra_info("socket").fileno()
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:  # it is closed already, or this system does not tell
        return 0


def reset(transport: asyncio.Transport) -> None:
    """Cut the connection hard: the client gets a reset, and no end."""
    fd = transport.get_extra_info("socket").fileno()
    if fd >= 0:
        with socket.socket(fileno=socket.dup(fd)) as ours:  # the transport's own cannot be set
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
