"""``POST /v1/llm/streams``: a model is asked, and its answer becomes a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from edge.access.doorkeeper import identity_of
from edge.control import counted
from edge.llm.ask import From, traceparent_of
from edge.llm.asked import Asked, read
from schemas.envelope import DEFAULT_TENANT

if TYPE_CHECKING:
    from edge.core import EdgeCore
    from edge.llm.ask import Asker

Tenant = Annotated[str, Query(description="Who asks, and pays.")]


def llm_routes(core: EdgeCore, asker: Asker) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/v1/llm")

    @routes.post(
        "/streams",
        status_code=202,
        summary="Ask a language model",
        description="The stream's `open` and the request are written in one transaction. The answer is where "
        "the stream is read and cancelled. A stream that is there already is not asked for again: 409.",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Asked.model_json_schema(by_alias=True)}},
            }
        },
    )
    async def ask(request: Request, tenant: Tenant = DEFAULT_TENANT) -> Response:
        async def asking() -> dict[str, object]:
            asked = read(Asked, await asker.body(request.stream(), request.headers))
            traceparent = traceparent_of(request.headers.get("traceparent", ""))
            by = From(tenant, identity_of(request.scope), traceparent)
            return (await asker.ask(asked, by, wait=True)).shown()

        answer = await counted(core, asking())
        return Response(
            orjson.dumps(answer),
            status_code=202,
            media_type="application/json",
            headers={
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
                "location": str(answer["events"]),
            },
        )

    return routes
