"""httpx2's way to providers over aiohttp's connections.

httpx2's own reads each piece of an answer through a parser and deadlines in Python: half of a worker's time
at fifty tokens a second and stream. aiohttp parses in C, and deadlines are the attempt's own (``watch.py``).
Requests, responses and errors stay httpx2's.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import httpx2
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

CONNECTED: Final = "connected"
"""Extension of a request: called without arguments once its connection stands, before anything is sent."""
ENDED: Final = "ended"
"""Extension of a response: called without arguments once its answer is over, before it is closed."""
TAIL_S: Final = 0.05
"""So long the end of a body is waited for behind its answer's own; most bring it within some milliseconds."""
TAIL_BYTES_MAX: Final = 1_024
TAILS_MAX: Final = 256
"""Waited for at once; beyond them connections are closed."""
_HEAD_MAX: Final = 65_536
"""Bytes of one header; its own bound of 8 KiB is below what proxies in front of providers send."""
_SAID_MAX: Final = 80
"""Characters of what a provider says of itself in an error."""
_OURS: Final = frozenset({"accept", "accept-encoding", "content-type", "user-agent"})
"""Headers that aiohttp would add where a request has none."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Makes requests; to be used on one loop. Whoever calls bounds how many there are at once.

    Certificates are verified as httpx2 does by itself. Proxies of the environment are not used, redirects not
    followed, cookies not kept.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession
        self._tails: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Make the pool: it belongs to the running loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=httpx2.create_ssl_context(trust_env=False)),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=_HEAD_MAX,
            skip_auto_headers=_OURS,
            timeout=aiohttp.ClientTimeout(),
            trace_configs=[_tracing()],
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close the pool."""
        for tail in self._tails:
            tail.cancel()
        await asyncio.gather(*self._tails, return_exceptions=True)
        await self._session.close()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2. Raises httpx2.TransportError: ``ConnectError`` while nothing was sent."""
        headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers.raw]
        try:
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=headers,
                data=await request.aread(),
                allow_redirects=False,
                trace_request_ctx=request.extensions.get(CONNECTED),
            )
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.RemoteProtocolError(_said(error), request=request) from error
        body = _Body(response, request, self._tails)
        return httpx2.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=body,
            request=request,
            extensions={ENDED: body.end},
        )


def _tracing() -> aiohttp.TraceConfig:
    """Have whoever asks for it told when a connection, with its TLS, is made or taken again."""

    async def stands(_session: object, context: Any, _params: object) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(stands)
    trace.on_connection_reuseconn.append(stands)
    return trace


class _Body(httpx2.AsyncByteStream):
    """A response's body as it comes; one that is compressed is refused unread.

    Each request asks for none. httpx2 would unpack it in pieces, and nested ones (gzip in gzip) without an
    end: all calls stand still for as long as a stranger likes, for some KiB that he sends.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, request: httpx2.Request, tails: set[asyncio.Task[None]]
    ) -> None:
        self._response = response
        self._request = request
        self._tails = tails
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if packed := _packed(self._response):
            said = (
                f"it is compressed ({packed}), which was not asked for: have the proxy before it not do that"
            )
            raise httpx2.DecodingError(said, request=self._request)
        content = self._response.content
        try:
            while data := await content.readany():
                yield data
        except aiohttp.ClientPayloadError as error:
            raise httpx2.RemoteProtocolError(_said(error), request=self._request) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(_said(error), request=self._request) from error

    def end(self) -> None:
        """Take that the answer is over, whatever may still come of the body."""
        self._ended = True

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it: the provider stops.

        Behind an answer that is over the body's end is waited for first, which nobody waits for in turn.
        """
        if not self._ended or self._response.content.at_eof() or len(self._tails) >= TAILS_MAX:
            self._response.close()
            return
        tail = asyncio.get_running_loop().create_task(self._tail())
        self._tails.add(tail)
        tail.add_done_callback(self._tails.discard)

    async def _tail(self) -> None:
        """Read the rest of the body, if there is little of it, so that another call has the connection."""
        left = TAIL_BYTES_MAX
        try:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(TAIL_S):
                    while left > 0 and (data := await self._response.content.readany()):
                        left -= len(data)
        finally:
            self._response.close()


def _packed(response: aiohttp.ClientResponse) -> str:
    """Give how a body is compressed; empty = it is not."""
    codings = ",".join(response.headers.getall("content-encoding", []))
    packed = [
        each for coding in codings.split(",") if (each := coding.strip().lower()) not in ("", "identity")
    ]
    return ", ".join(packed)[:_SAID_MAX]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
