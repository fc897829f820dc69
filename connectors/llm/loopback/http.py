"""One client's connection: HTTP/1.1, one request at a time, answered by a play."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qs, urlsplit

import httptools
import orjson

from connectors.llm.loopback.answers import SHAPES, Answer, shape_of
from connectors.llm.loopback.kept import cancelled, seek_of
from connectors.llm.loopback.play import JSON_TYPE, Play
from connectors.llm.loopback.wheel import Playing, now_us

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.loopback.seen import Seen
    from connectors.llm.loopback.server import Loopback

HEAD_BYTES_MAX: Final = 65_536
BODY_BYTES_MAX: Final = 32 * 1_048_576
WANTS_HEADER: Final = "x-loopback"
"""What a request wants besides what its model's name says: ``fault=cut&after=3``."""
_NAMES: Final = ("127.0.0.1", "localhost", "::1")
_PHRASES: Final = {
    200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large", 429: "Too Many Requests",
    500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 529: "Overloaded",
}  # fmt: skip


class Connection(asyncio.Protocol):
    """Reads requests and hands their answers to the wheel."""

    def __init__(self, server: Loopback) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._playing: Playing | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._keep = True
        """The connection is used again after the answer."""
        self.on_message_begin()

    # -- of asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """See asyncio."""
        self._server.connections.discard(self)
        self._transport = None
        if self._playing is not None:
            self._playing.lost("client_closed")
            self._playing = None

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._playing is not None:
            self.abort("client_closed")  # it asks for more before it has its answer: nobody does so
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort("client_closed")
        except httptools.HttpParserError:
            self._say(400, b"this is no HTTP\n", close=True)

    def pause_writing(self) -> None:
        """See asyncio."""
        if self._playing is not None:
            self._playing.pause()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._playing is not None:
            self._playing.resume()

    # -- of httptools --

    def on_message_begin(self) -> None:
        """See httptools."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._url += url
        self._grow(len(url), HEAD_BYTES_MAX)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._grow(len(name) + len(value) + 4, HEAD_BYTES_MAX)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._size = 0
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._body.append(body)
        self._grow(len(body), BODY_BYTES_MAX)

    def on_message_complete(self) -> None:
        """See httptools."""
        method = self._parser.get_method().decode("latin-1")
        url, headers, body = self._url.decode("latin-1"), self._headers, b"".join(self._body)
        self._keep = self._parser.should_keep_alive()
        if self._playing is not None:
            self.abort("client_closed")
            return
        host = headers.get("host", "").rpartition("@")[2]
        if (urlsplit(f"//{host}").hostname or "") not in _NAMES:
            # A page whose name is pointed here must not read what others asked.
            self._say(403, b"this provider is for this machine alone\n", close=True)
            return
        try:
            self._answer(method, url, headers, body)
        except Exception as error:  # noqa: BLE001  # a defect of ours is told to the test, not hidden in a hang
            self._say(500, f"{type(error).__name__}: {error}\n".encode(), close=True)

    # -- ours --

    def abort(self, outcome: str) -> None:
        """End the connection now."""
        if self._playing is not None:
            self._playing.lost(outcome)
            self._playing = None
        if self._transport is not None:
            self._transport.abort()

    def _grow(self, size: int, most: int) -> None:
        self._size += size
        if self._size > most and self._transport is not None:
            self._say(413, b"the request is too large\n", close=True)
            self._transport.abort()

    def _answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> None:
        path, _, query = url.partition("?")
        if (asked := self._server.kept.asked(method, path)) is not None:
            self._answer_kept(asked["answer_id"], url, headers, body, cancels=bool(asked["cancel"]))
            return
        shape = shape_of(path) if method == "POST" else None
        if shape is None:
            self._say(*self._server.control.answer(method, path, parse_qs(query), body))
            return
        seen = self._server.calls.begin(shape.name, url, headers, body)
        more = headers.get(WANTS_HEADER, "")
        answer = self._server.answers.answer(shape, path, more, body)
        if shape.name == "openai-responses":
            self._server.kept.keep(path, more, body, answer, now_us())
        seen.model, seen.status, seen.events = answer.model, answer.play.status, len(answer.wire)
        said = dict(answer.play.headers)
        if shape.request_id_header and answer.play.status:
            said.setdefault(shape.request_id_header, f"req_loopback_{seen.number}")
        self._start(answer, seen, said)

    def _answer_kept(
        self, answer_id: str, url: str, headers: Mapping[str, str], body: bytes, *, cancels: bool
    ) -> None:
        """Give the rest of an answer that was asked for before, or end it."""
        shape, kept = SHAPES["openai-responses"], self._server.kept.find(answer_id)
        seen = self._server.calls.begin(shape.name, url, headers, body)
        if kept is None or (kept.cancelled and not cancels):
            status, value = shape.refused("not_found", f"There is no response {answer_id}.", "")
            answer = Answer("", Play(status, {"content-type": JSON_TYPE}, body=orjson.dumps(value)))
        elif cancels:
            kept.cancelled = True
            answer = Answer("", Play(200, {"content-type": JSON_TYPE}, body=cancelled(answer_id)))
        else:
            seek = seek_of(kept, parse_qs(urlsplit(url).query), now_us())
            answer = self._server.answers.answer(shape, kept.path, kept.more, kept.body, seek)
        seen.model, seen.status, seen.events = answer.model, answer.play.status, len(answer.wire)
        self._start(answer, seen, answer.play.headers)

    def _start(self, answer: Answer, seen: Seen, headers: Mapping[str, str]) -> None:
        transport, play = self._transport, answer.play
        if transport is None:
            seen.outcome = "client_closed"
            return
        if play.body is not None:
            self._say(play.status, play.body, headers)
            seen.outcome, seen.done_us = "ended", seen.began_us
            return
        if play.status:
            transport.write(_head(play.status, {**headers, "transfer-encoding": "chunked"}))
        playing = Playing(play, answer.wire, seen, transport, self._server.wheel, self._played)
        self._playing = playing
        playing.go_on(playing.began_us)

    def _played(self) -> None:
        self._playing = None
        if not self._keep and self._transport is not None:
            self._transport.close()

    def _say(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, close: bool = False
    ) -> None:
        if self._transport is None:
            return
        said = {"content-type": "text/plain", **(headers or {}), "content-length": str(len(body))}
        self._transport.write(_head(status, said) + body)
        if close or not self._keep:
            self._transport.close()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n{lines}\r\n".encode("latin-1", "replace")
