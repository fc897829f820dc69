"""``GET /v1/selftest``: a short stream of nothing, by whose times a client sees what stands in between.

It publishes and reads nothing. `sluicegate edge check` asks it through a proxy and tells what it found. It
goes the way of a real stream, from the framework to a protocol of its own, so that it is framed as one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qs

import orjson
from starlette.responses import Response
from starlette.routing import Route

from edge.events import TAKE_OVER
from edge.problems import problem
from edge.sse import HEADERS, chunk, head_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

FRAMES: Final = 20
"""Before the silence; one more comes after it."""
PERIOD_MS: Final = 100
SILENT_MS_MAX: Final = 120_000
_AT_A_TIME_MAX: Final = 8
"""Each holds a connection for up to two minutes, and is meant for a person who asks."""


def selftest_route() -> Route:
    """Make the route."""
    return Route("/v1/selftest", SelftestEndpoint(), methods=["GET"], name="selftest")


class SelftestEndpoint:
    """An ASGI app of its own, as it hands the connection on."""

    def __init__(self) -> None:
        self._under_way: set[SelftestConnection] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the stream, or with what is wrong with the request."""
        response = self._answer(scope)
        if response is not None:
            await response(scope, receive, send)

    def _answer(self, scope: Scope) -> Response | None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        text = query.get("silent_ms", ["0"])[0]
        if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) <= SILENT_MS_MAX):
            detail = f"silent_ms is a number from 0 to {SILENT_MS_MAX}"
            return problem(400, "Request is malformed", detail, extra={"field": "silent_ms"})
        if scope["method"] == "HEAD":
            return Response(headers={name.decode(): value.decode() for name, value in HEADERS})
        if len(self._under_way) >= _AT_A_TIME_MAX:
            return problem(
                503,
                "Too many self-tests",
                f"{_AT_A_TIME_MAX} are under way",
                remedy="Ask again when one is over.",
                headers={"retry-after": "5"},
            )
        sent = dict(scope["headers"])
        came = {
            "type": "selftest",
            "http_version": scope["http_version"],
            "last_event_id": sent.get(b"last-event-id", b"").decode("latin-1")[:100],
        }
        connection = SelftestConnection(came, int(text), self._under_way)
        scope["extensions"][TAKE_OVER](connection)
        return None


class SelftestConnection(asyncio.Protocol):
    """Writes its frames on time, a silence, the last frame, and closes."""

    def __init__(
        self, came: Mapping[str, object], silent_ms: int, under_way: set[SelftestConnection]
    ) -> None:
        self._came = came
        self._chunked = came["http_version"] == "1.1"
        self._silent_s = silent_ms / 1_000
        self._under_way = under_way
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._under_way.add(self)
        self._transport.write(head_of(HEADERS, chunked=self._chunked))
        self._write(0)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """See asyncio."""
        self._under_way.discard(self)
        if self._next is not None:
            self._next.cancel()

    def _write(self, number: int) -> None:
        """``at_ms`` is when a frame was written, since the first: clocks of two machines need not agree."""
        at_ms = round((self._loop.time() - self._began_s) * 1_000)
        frame = b"data: %b\n\n" % orjson.dumps({**self._came, "number": number, "at_ms": at_ms})
        self._transport.write(chunk(frame) if self._chunked else frame)
        if number == FRAMES:
            if self._chunked:
                self._transport.write(b"0\r\n\r\n")
            self._transport.close()
            return
        due_s = self._began_s + (number + 1) * PERIOD_MS / 1_000
        if number == FRAMES - 1:
            due_s += self._silent_s
        self._next = self._loop.call_at(due_s, self._write, number + 1)
