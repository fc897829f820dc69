"""A transport in memory: takes what is written, or nothing of it while it is told to be full."""

from __future__ import annotations

import asyncio
from typing import Final

from edge.connection import ConnectionLimits

LIMITS: Final = ConnectionLimits(heartbeat_ms=10_000, retry_ms=1_000, life_ms_max=60_000, drain_ms=1_000)
"""Longer than a test is: whoever wants one of them says so."""


class FakeTransport(asyncio.Transport):
    def __init__(self, *, unsent: int = 0) -> None:
        """``unsent``: bytes of an answer before, that its client has not taken."""
        super().__init__()
        self.written: list[bytes] = []
        self.at_s: list[float] = []
        self.full = unsent > 0
        self.reading = True
        self.half_closed = False
        self.aborted = False
        self._unsent = unsent
        self._closing = False
        self._protocol: asyncio.Protocol

    def serve(self, protocol: asyncio.Protocol) -> FakeTransport:
        self._protocol = protocol
        protocol.connection_made(self)
        return self

    def write(self, data: bytes) -> None:
        assert not self._closing, "written to after it was closed"
        assert not self.half_closed, "written to after its end was written"
        self.written.append(data)
        self.at_s.append(asyncio.get_running_loop().time())
        if self.full:
            first, self._unsent = not self._unsent, self._unsent + len(data)
            if first:  # as asyncio does, who says it once
                self._protocol.pause_writing()

    def drain(self, *, full: bool = False) -> None:
        """Take all that waits, and more from now on; or one write more, if it is to be full again."""
        self.full, unsent, self._unsent = full, self._unsent, 0
        if unsent:
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def lose(self) -> None:
        """The client is gone: the protocol is told at once, with no moment in which it could still write."""
        if not self._closing:
            self._closing = True
            self._protocol.connection_lost(None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    @property
    def data(self) -> bytes:
        return b"".join(self.written)
