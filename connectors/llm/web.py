"""What a machine asks a worker: is it alive, is it ready, what did it count."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Receive = Callable[[], Awaitable[dict[str, Any]]]


class Pages:
    """Three pages. ``unready`` says why no requests are taken, ``render`` gives the numbers."""

    def __init__(self, unready: Callable[[], Sequence[str]], render: Callable[[], bytes]) -> None:
        self._unready = unready
        self._render = render

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        await receive()
        status, kind, body = self._answer(scope["method"], scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        if method not in ("GET", "HEAD"):
            return 405, "application/json", b'{"error":"GET alone"}'
        if path == "/healthz":
            return 200, "application/json", b'{"status":"alive"}'
        if path == "/readyz":
            causes = list(self._unready())
            body = orjson.dumps({"status": "not ready" if causes else "ready", "causes": causes})
            return (503 if causes else 200), "application/json", body
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, self._render()
        return 404, "application/json", b'{"error":"/healthz, /readyz and /metrics are here"}'


@contextlib.asynccontextmanager
async def serving(app: Pages, host: str, port: int) -> AsyncIterator[None]:
    """Serve the pages meanwhile; port 0 = not at all. Raises OSError: the address is in use."""
    if not port:
        yield
        return
    config = uvicorn.Config(app, host, port, log_config=None, lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    taken = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    task = asyncio.create_task(server._serve([taken]))  # noqa: SLF001  # `serve` takes the signals for itself
    try:
        yield
    finally:
        server.should_exit = True
        await task
