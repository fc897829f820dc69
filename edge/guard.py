"""Keeps other sites' pages out: a browser on this machine must not be talked into using the edge for them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edge.access.origins import SAFE, Origins
from edge.options import is_loopback
from edge.problems import problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send


class Guard:
    """Refuses a foreign Host (DNS rebinding) with 421.

    With 403 a foreign Origin, on what changes something or opens a WebSocket.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Iterable[str], origins: Origins | None = None) -> None:
        self._app = app
        self._origins = origins or Origins(())
        self._hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_ours(host):
            response = problem(
                421,
                "Not addressed to this edge",
                f"host {host[:100]!r} is none of this edge's names",
                remedy="Use localhost or 127.0.0.1, or add the name to SLUICEGATE_EDGE__ALLOWED_HOSTS.",
            )
            await response(scope, receive, send)
            return
        if self._changes(scope["method"], headers) and not self._may_change(headers.get(b"origin"), host):
            response = problem(
                403,
                "Foreign origin",
                "a page of another site may not publish, cancel or open a WebSocket through this edge",
                remedy="Add the page's origin to SLUICEGATE_EDGE__CORS_ORIGINS, if it may.",
            )
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name.endswith(".localhost") or name in self._hosts

    @staticmethod
    def _changes(method: str, headers: Mapping[bytes, str]) -> bool:
        # A page may open a WebSocket to any site, and is not held to what CORS says: RFC 6455, section 10.2.
        return method not in SAFE or headers.get(b"upgrade", "").lower() == "websocket"

    def _may_change(self, origin: str | None, host: str) -> bool:
        # No Origin: not a browser's request across sites, which always carries one.
        return origin is None or self._origins.admits(origin, host)
