"""``GET /v1/ws``: judges the handshake of a WebSocket, and hands the connection on as ``events.py`` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from edge.access.doorkeeper import identity_of
from edge.admission import Admission
from edge.events import TAKE_OVER
from edge.problems import problem
from edge.queries import check_query
from edge.websocket import WebSocketConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from edge.core import EdgeCore
    from edge.publish import Publisher


class WebSocketShare:
    """What all WebSocket connections of an edge have in common."""

    def __init__(self, core: EdgeCore, publisher: Publisher | None) -> None:
        self.core = core
        self.publisher = publisher
        """None where an edge plays a recording."""
        self.admission = Admission(core)
        self.held_bytes = 0
        """What clients have sent that is not dealt with."""

    @property
    def is_full(self) -> bool:
        """Whether no more can be held."""
        return self.held_bytes > self.core.options.websocket_held_bytes_max

    @property
    def may_hold_back(self) -> bool:
        """Whether a request may wait for its credit: the other half is for those that need not wait."""
        return self.held_bytes <= self.core.options.websocket_held_bytes_max // 2

    @staticmethod
    def dumps(message: Mapping[str, Any]) -> bytes:
        """Make a message's JSON."""
        return orjson.dumps(message)


class UpgradeEndpoint:
    """An ASGI app of its own, for it does not return a response.

    The server hands the request on as any other (``ws="none"``), so that it comes by the same guard.
    """

    def __init__(self, core: EdgeCore, publisher: Publisher | None) -> None:
        self._core = core
        self._share = WebSocketShare(core, publisher)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 101, or what is wrong with it."""
        response = await self._answer(scope)
        if response is not None:
            await response(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response | None:
        """Give the answer; None if the connection was handed on. Raises RequestError."""
        check_query(parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True), ())
        ws = ServerProtocol(state=OPEN, max_size=self._core.options.request_bytes_max)
        accepted = ws.accept(_request_of(scope))
        if accepted.status_code != 101:
            headers = {"upgrade": "websocket", "connection": "close"} if accepted.status_code == 426 else {}
            return problem(
                accepted.status_code,
                "Not a WebSocket",
                bytes(accepted.body).decode().partition("\n")[0],
                remedy="Open it with a WebSocket client (RFC 6455, version 13, HTTP/1.1).",
                headers=headers,
            )
        admission = self._share.admission
        identity = identity_of(scope)
        # Of a token of several tenants each subscription is counted to its own.
        busy = await admission.busy() or ("overload" if admission.is_full(identity.tenants.only) else "")
        if busy:
            self._core.metrics.joins.labels("websocket", busy).inc()
            return problem(
                503,
                "Cannot be taken now",
                f"this edge takes no connection now: {busy}",
                remedy="Come again after Retry-After.",
                headers={"retry-after": str(admission.retry_after_s)},
            )
        self._core.gate.check_still(identity)  # it may have been revoked while we waited
        head = accepted.serialize()
        peer = self._core.proxies.peer_of(scope)
        connection = WebSocketConnection(self._share, ws, peer, admission.limits(None), head=head)
        connection.authorise(identity)
        scope["extensions"][TAKE_OVER](connection)
        return None


def _request_of(scope: Scope) -> Request:
    headers = Headers()
    for name, value in scope["headers"]:
        headers[name.decode("latin-1")] = value.decode("latin-1")
    return Request(scope["path"], headers, scope["method"], f"HTTP/{scope['http_version']}")
