"""HTTP as the server speaks it: bounded while a request comes in, and left by connections that stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edge.access.doorkeeper import PRIVATE
from edge.events import TAKE_OVER

if TYPE_CHECKING:
    import asyncio

    from edge.options import EdgeOptions

log = structlog.get_logger(__name__)
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 22\r\nconnection: close\r\n\r\nheaders are too large\n"
)
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 36\r\nconnection: close\r\n\r\nthe request did not come in its time\n"
)


class EdgeProtocol(HttpToolsProtocol):
    """A client's connection until it streams.

    A request's head is bounded in bytes and in time. A client may take nothing of an answer for twice as
    long as a stream's client may: closing a transport waits for its buffer to empty, so one that neither
    reads nor leaves would keep its socket for ever.
    """

    def __init__(self, *args: Any, options: EdgeOptions, private: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._private = private
        self._options = options
        self._stall_s = 2 * options.write_stall_ms_max / 1_000
        self._head_s = options.header_read_ms_max / 1_000
        self._watching: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs
        """See asyncio."""
        super().connection_made(transport)
        # So that any byte that is not taken counts as a pause.
        transport.set_write_buffer_limits(high=0)
        self._reading = self.loop.call_later(self._head_s, self._is_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._watch_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._reading is None:
                self._reading = self.loop.call_later(self._head_s, self._is_too_slow)
        super().data_received(data)
        if (
            self._in_head
            and self._head_bytes > self._options.header_bytes_max
            and not self.transport.is_closing()
        ):
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self.scope["extensions"] = {TAKE_OVER: self._take_over}  # type: ignore[dict-item]  # theirs are dicts
        if self._private:
            self.scope["extensions"][PRIVATE] = {}

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head, self._head_bytes = False, 0
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if (
            sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
            > self._options.header_bytes_max
        ) or len(self.headers) > self._options.headers_max:
            self._refuse(_TOO_LARGE)
            return
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request was handed on as it is, and ``upgrade.py`` answers it."""

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._in_head = True
        if self.cycle is not None:
            super().on_message_complete()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        super().resume_writing()

    def _take_over(self, connection: asyncio.Protocol) -> bool:
        """Put another protocol in place of this one; False if the client has left."""
        cycle, transport = self.cycle, self.transport
        if cycle.disconnected or transport.is_closing():
            return False
        self._watch_no_more()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        # To the server the request is answered.
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        self.pipeline.clear()
        self.flow.resume_reading()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        return True

    def _refuse(self, answer: bytes) -> None:
        self._watch_no_more()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _is_too_slow(self) -> None:
        self._reading = None
        self._refuse(_TOO_SLOW)

    def _watch(self) -> None:
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._watching = self.loop.call_later(self._stall_s, self._look)

    def _watch_no_more(self) -> None:
        for handle in (self._watching, self._reading):
            if handle is not None:
                handle.cancel()
        self._watching = self._reading = None

    def _look(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent_bytes:
            self._watch()  # slow, but it reads
            return
        log.warning("connection_given_up", peer=self.client, unsent_bytes=self._unsent_bytes)
        self.transport.abort()
