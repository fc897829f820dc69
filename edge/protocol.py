"""HTTP as the server speaks it: bounded while a request comes in, and left by connections that stream."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edge.access.doorkeeper import PRIVATE
from edge.events import TAKE_OVER

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from edge.options import EdgeOptions

log = structlog.get_logger(__name__)
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 22\r\nconnection: close\r\n\r\nheaders are too large\n"
)
_MALFORMED: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 26\r\nconnection: close\r\n\r\nthis is no HTTP/1 request\n"
)
_FRAMING_SHARE: Final = 16
"""Bytes of framing that a byte of a body may have: a chunk of one byte has five."""
_REST_BYTES_MAX: Final = 16 * 1_048_576
"""So much of a body is still taken, and thrown away, when it is answered: a client that sends all before it
reads would otherwise see a reset and not the answer."""
_WAITING_MAX: Final = 64
"""Requests that wait for the one before them, some KiB each; one read may bring fourteen thousand.
The last of them closes the connection, and whoever asked for more asks again (RFC 9112, section 9.3.2)."""
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 36\r\nconnection: close\r\n\r\nthe request did not come in its time\n"
)


class EdgeProtocol(HttpToolsProtocol):
    """A client's connection until it streams.

    A request's head is bounded in bytes and in time, and so is what frames a body: sizes of chunks and their
    extensions, trailers, and what still comes of it once it is answered. A client may take nothing of an
    answer for twice as long as a stream's client may: closing a transport waits for its buffer to empty, so
    one that neither reads nor leaves would keep its socket for ever. The kernel ends it sooner if all
    that while nothing of what was sent is acknowledged (``tcp_user_timeout_ms``).
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
        self._answered: RequestResponseCycle | None = None
        """The request that is answered, or was last."""
        self._enough = False
        """More requests came in a row than may wait: no more is read."""
        self._wire_bytes = self._body_bytes = 0
        """What came since the head, and how much of that was a body's own."""
        self._wire_bytes_max = math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs
        """See asyncio."""
        super().connection_made(transport)
        # So that any byte that is not taken counts as a pause.
        transport.set_write_buffer_limits(high=0)
        self._reading = self.loop.call_later(self._head_s, self._is_too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._watch_no_more()
        if self._answered is not None:  # uvicorn tells the last of those that wait, and no other
            self._answered.disconnected = True
            self._answered.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._enough:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._reading is None:
                self._reading = self.loop.call_later(self._head_s, self._is_too_slow)
        else:
            self._wire_bytes += len(data)
        super().data_received(data)
        if self._wire_bytes > self._wire_bytes_max:
            self.transport.close()
        if not self.transport.is_closing() and (
            self._head_bytes > self._options.header_bytes_max if self._in_head else self._frames_too_much()
        ):
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """See httptools."""
        if len(self.pipeline) >= _WAITING_MAX:
            self._enough = True
            self.cycle.keep_alive = False
            raise RuntimeError("too many requests in a row")  # to the parser, which stops there
        super().on_message_begin()
        self.scope["extensions"] = {PRIVATE: {}} if self._private else {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools; of a trailer, too, which nobody here reads: a list of them would have no bound."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head, self._head_bytes = False, 0
        self._wire_bytes = self._body_bytes = 0
        self._wire_bytes_max = math.inf
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if (
            sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
            > self._options.header_bytes_max
        ) or len(self.headers) > self._options.headers_max:
            self._refuse(_TOO_LARGE)
            return
        if sum(name == b"host" for name, _ in self.headers) > 1:  # which one counts is each reader's guess
            self._refuse(_MALFORMED)
            return
        super().on_headers_complete()
        # Its own: when it is called, another request may have been read behind it.
        self.scope["extensions"][TAKE_OVER] = partial(self._take_over, self.cycle)  # type: ignore[assignment]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """See uvicorn."""
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request was handed on as it is, and ``upgrade.py`` answers it."""

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._body_bytes += len(body)
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._in_head = True
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if self.cycle is not None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """See uvicorn; a body that nobody reads any more may not go on for ever."""
        super().on_response_complete()
        if not self._in_head and self._reading is None and self.cycle.response_complete:
            self._reading = self.loop.call_later(self._head_s, self.transport.close)
            self._wire_bytes_max = self._wire_bytes + _REST_BYTES_MAX

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # ours says it
        """See uvicorn."""
        if not self._enough:
            self._refuse(_MALFORMED)

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

    def _frames_too_much(self) -> bool:
        framing_bytes = self._wire_bytes - self._body_bytes
        return framing_bytes > self._options.header_bytes_max + _FRAMING_SHARE * self._body_bytes

    def _take_over(self, cycle: RequestResponseCycle, connection: asyncio.Protocol) -> bool:
        """Put another protocol in place of this one; False if the client has left.

        What else it asked for on this connection is not answered: the stream is its last answer.
        """
        transport = self.transport
        if cycle.disconnected or transport.is_closing():
            cycle.disconnected = True  # it may not have been told yet: an answer is not missed then
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
        if self.transport.is_closing():
            return
        cycle = self.cycle
        under_way = cycle is not None and not cycle.response_complete
        if under_way and (cycle.response_started or cycle.scope is not self.scope):
            self.transport.abort()  # it would be taken for a part of another answer, or for that answer
            return
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
