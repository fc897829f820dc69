"""A worker's pages on Faust's web server: is it alive, does it read, and its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from pipelines.role import RoleApp


def add_pages(app: RoleApp) -> None:
    """Add ``/healthz``, ``/readyz`` and ``/metrics``; Faust's own pages stay beside them."""

    @app.page("/healthz")
    async def healthz(web: Any, _request: Any) -> Any:
        return web.json({"status": "alive", "role": app.role})

    @app.page("/readyz")
    async def readyz(web: Any, _request: Any) -> Any:
        cause = app.not_ready()
        body = {
            "role": app.role,
            "partitions": app.partitions(),
            "restoring": app.restoring(),
            "paused": app.paused(),
            "standstills": [
                {**source._asdict(), "offset": at.record.offset, "cause": at.note, "attempts": at.attempts}
                for source, at in sorted(app.standstills().items())
            ],
        }
        if cause is None:
            return web.json({"status": "ready", **body})
        return web.json({"status": "not ready", "cause": cause, **body}, status=503)

    @app.page("/metrics")
    async def metrics(web: Any, _request: Any) -> Any:
        body = app.engine.metrics.render(len(app.partitions()), app.standstills())
        return web.bytes(body, content_type=CONTENT_TYPE_LATEST.split(";")[0])
