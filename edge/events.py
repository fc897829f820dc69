"""``GET /v1/streams/{id}/events``: one stream as Server-Sent Events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog
from starlette.responses import Response

from edge.errors import HistoryUnavailable, RequestError
from edge.join import Over
from edge.problems import code_of, problem_of
from edge.sse import HEADERS, REFUSED_ID, jittered, preamble, said
from edge.watch import Watch
from schemas.envelope import DEFAULT_TENANT, check_stream_name, stream_key
from schemas.errors import CursorError, InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message, Receive, Scope, Send

    from edge.core import EdgeCore
    from edge.join import Joined
    from edge.subscriber import Subscriber
    from schemas.cursor import Cursor

log = structlog.get_logger(__name__)
_UNKNOWN_LIFE_MS = 3_600_000
_LOOK_S = 0.05


class _Out:
    """The ASGI side of one connection; each call waits until the server takes more, within the stall bound.

    Raises:
        TimeoutError: the client takes nothing.
    """

    __slots__ = ("_receive", "_send", "_stall_s", "gone", "started")

    def __init__(self, receive: Receive, send: Send, stall_ms_max: int) -> None:
        self._receive = receive
        self._send = send
        self._stall_s = stall_ms_max / 1_000
        self.gone = False
        self.started = False

    async def start(self) -> None:
        """Send status and headers."""
        self.started = True
        await self._put({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})

    async def write(self, data: bytes) -> None:
        """See Writer."""
        if self.gone:
            raise ConnectionResetError
        await self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """End the answer."""
        if not self.gone:
            await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def until_gone(self, subscriber: Subscriber) -> None:
        """Wait for the client to leave, and wake whoever serves it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        subscriber.close("gone")

    async def _put(self, message: Message) -> None:
        async with asyncio.timeout(self._stall_s):
            await self._send(message)


class EventsEndpoint:
    """An ASGI app of its own: the framework's response object would buffer and copy."""

    def __init__(self, core: EdgeCore) -> None:
        self._core = core

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 200 with events, 204 if there are no more, 4xx for what the address says."""
        try:
            await self._serve(scope, receive, send)
        except (RequestError, InvalidEvent, CursorError) as error:
            await problem_of(error)(scope, receive, send)
        except TimeoutError:
            log.warning("client_stalled", path=scope["path"], peer=_peer(scope))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        core = self._core
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        tenant = query.get("tenant", [DEFAULT_TENANT])[0]
        stream_id = scope["path_params"]["stream_id"]
        check_stream_name(tenant, stream_id)
        out = _Out(receive, send, core.options.write_stall_ms_max)
        if scope["method"] == "HEAD":
            await Response(headers={k.decode(): v.decode() for k, v in HEADERS})(scope, receive, send)
            return
        busy = await self._busy()
        if busy:
            await self._come_back(out, busy)
            return
        in_header = _header(scope, b"last-event-id")
        cursor = None
        if in_header == REFUSED_ID:
            await self._nothing_more(scope, receive, send, "over")
            return
        if in_header:
            try:
                cursor = core.joiner.cursor(in_header, tenant, stream_id)
            except CursorError as error:
                await self._refuse(out, error)
                return
        else:
            cursor = self._from_query(query, tenant, stream_id)
        try:
            await core.find(stream_key(tenant, stream_id))
            beyond = cursor is not None and await core.is_beyond_the_log(cursor)
        except HistoryUnavailable:
            await self._come_back(out, "unready")
            return
        joined = core.joiner.join(tenant, stream_id, cursor, name=_peer(scope), beyond=beyond)
        if isinstance(joined, Over):
            await self._nothing_more(scope, receive, send, "over")
            return
        core.metrics.joins.labels("sse", "open" if cursor is None else "resume").inc()
        await self._watch(out, joined, tenant, stream_id)

    async def _watch(self, out: _Out, joined: Joined, tenant: str, stream_id: str) -> None:
        core, subscriber = self._core, joined.subscriber
        kind = core.joiner.kind_of(stream_key(tenant, stream_id))
        retry_ms = kind.connection.retry_ms if kind else core.options.retry_ms
        watch = Watch(
            joined,
            core.replay,
            core.sse,
            core.metrics,
            heartbeat_ms=kind.connection.heartbeat_ms if kind else core.options.idle_heartbeat_ms,
            retry_ms=retry_ms,
            write_bytes_max=core.options.write_bytes_max,
            life_ms_max=kind.connection.connection_life_ms_max if kind else _UNKNOWN_LIFE_MS,
        )
        connections = core.metrics.connections.labels("sse")
        connections.inc()
        leaving = asyncio.create_task(out.until_gone(subscriber))
        reason = "gone"
        try:
            await out.start()
            await out.write(preamble(retry_ms))
            reason = await watch.run(out)
            await out.finish()
        except ConnectionError:
            pass
        except TimeoutError:
            reason = "stalled"
            log.warning("client_stalled", stream=f"{tenant}/{stream_id}", peer=subscriber.name)
        finally:
            leaving.cancel()
            core.hub.detach(subscriber)
            connections.dec()
            core.metrics.closed.labels("sse", reason).inc()

    def _from_query(self, query: Mapping[str, list[str]], tenant: str, stream_id: str) -> Cursor | None:
        """A cursor in the address: what is wrong with it is said by status, for no client repeats it."""
        text = (query.get("last_event_id") or query.get("lastEventId") or [""])[0]
        if not text:
            return None
        core = self._core
        try:
            cursor = core.joiner.cursor(text, tenant, stream_id)
        except CursorError as error:
            core.metrics.refused.labels(code_of(error)).inc()
            raise
        low = core.low_offset(cursor.partition)
        lost = core.joiner.lost(stream_key(tenant, stream_id), cursor, low)
        if lost is not None:
            core.metrics.refused.labels(lost.reason).inc()
            raise RequestError(
                410,
                "Cursor is too old",
                lost.detail,
                remedy="Join without a cursor: you are given what is left, and told of the gap.",
                extra={"code": lost.reason},
            )
        return cursor

    async def _busy(self) -> str:
        """Why no client can be taken now, after waiting a little for an edge that has just started."""
        core, loop = self._core, asyncio.get_running_loop()
        if core.draining:
            return "drain"
        if core.connections >= core.options.connections_max:
            return "overload"
        deadline = loop.time() + core.options.unready_wait_ms / 1_000
        while not core.caught_up:
            if loop.time() >= deadline:
                return "unready"
            await asyncio.sleep(_LOOK_S)
        return ""

    async def _come_back(self, out: _Out, reason: str) -> None:
        """Any final status but 200 would close a native client for good: say 200, and when to come back."""
        self._core.metrics.joins.labels("sse", reason).inc()
        retry_ms = jittered(2 * self._core.options.retry_ms)
        await out.start()
        text = b"retry: %d\n" % retry_ms
        await out.write(text + said({"type": "reconnect", "reason": reason, "retry_ms": retry_ms}))
        await out.finish()

    async def _refuse(self, out: _Out, error: CursorError) -> None:
        """Say in-stream what is wrong with a cursor; the id that comes with it makes the retry end in 204."""
        code = code_of(error)
        self._core.metrics.refused.labels(code).inc()
        self._core.metrics.joins.labels("sse", "refused").inc()
        await out.start()
        fields = {"type": "refused", "code": code, "detail": str(error), "remedy": error.remedy}
        await out.write(said(fields, last_id=REFUSED_ID))
        await out.finish()

    async def _nothing_more(self, scope: Scope, receive: Receive, send: Send, start: str) -> None:
        self._core.metrics.joins.labels("sse", start).inc()
        await Response(status_code=204, headers={"cache-control": "no-store"})(scope, receive, send)


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1")).strip()
    return ""


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"
