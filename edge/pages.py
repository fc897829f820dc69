"""The console page and what a machine asks an edge: is it alive, is it ready, what did it count."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from edge.siblings import merged

if TYPE_CHECKING:
    from starlette.requests import Request

    from edge.core import EdgeCore

_FILES: Final = {
    "index.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "ask.js": "text/javascript; charset=utf-8",
    "clients.js": "text/javascript; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "rows.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# Nothing but our own files, no inline script or style, no frame around us: a hostile line stays text.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def page_routes(core: EdgeCore) -> list[Route]:
    """Make the routes."""
    return [*_file_routes(), *_asked_by_machines(core)]


def _file_routes() -> list[Route]:
    pages = {name: files("edge.console").joinpath(name).read_bytes() for name in _FILES}
    browser_client = files("edge.client").joinpath("sluicegate.js").read_bytes()

    def page(name: str) -> Response:
        return Response(pages[name], media_type=_FILES[name], headers=_HEADERS)

    async def console(_request: Request) -> Response:
        return page("index.html")

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        return page(name) if name in pages else Response(status_code=404)

    async def client(_request: Request) -> Response:
        return Response(browser_client, media_type=_FILES["console.js"], headers=_HEADERS)

    async def home(_request: Request) -> Response:
        return RedirectResponse("/console", status_code=307)

    return [
        Route("/", home),
        Route("/console", console),
        Route("/console/{name}", asset),
        Route("/client/sluicegate.js", client),
    ]


def _asked_by_machines(core: EdgeCore) -> list[Route]:
    async def healthz(_request: Request) -> Response:
        return _json({"status": "alive"})

    async def readyz(_request: Request) -> Response:
        # Who asks shows no token: where there are keys, how many are here and what is wrong, in words, is
        # told to who works here, by the metrics and the log.
        causes = [
            {"cause": cause, "detail": detail if core.gate.open else "see the edge's log and metrics"}
            for cause, detail in core.unready
        ]
        if not causes:
            return _json({"status": "ready", **({"connections": core.connections} if core.gate.open else {})})
        return _json({"status": "not ready", "causes": causes}, status=503)

    async def metrics(request: Request) -> Response:
        text = generate_latest(core.metrics.registry)
        if core.siblings is not None and "own" not in request.query_params:
            others = await core.siblings.ask("/metrics?own")
            text = await asyncio.to_thread(merged, {core.siblings.name: text, **others})
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
    ]


def _json(body: dict[str, object], *, status: int = 200) -> Response:
    return Response(
        orjson.dumps(body),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )
