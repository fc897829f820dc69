"""The control plane: publish, cancel, and what is known of streams, as JSON."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from edge.access.doorkeeper import identity_of
from edge.errors import HistoryUnavailable, RequestError
from edge.publish import Answer, Publisher, PublishRequest
from edge.queries import known_query
from schemas.envelope import DEFAULT_TENANT, check_stream_name, stream_key
from schemas.errors import InvalidEvent
from schemas.published import time_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edge.access.identity import Identity
    from edge.core import EdgeCore
    from edge.errors import Forbidden
    from edge.index import IndexEntry

_CANCEL_BYTES_MAX = 8_192
_ENTRY_S, _ENTRY_LOOK_S = 2.0, 0.02
"""How long an entry is waited for, and how often it is looked for."""
Tenant = Annotated[str, Query(description="Whose streams.")]


def control_routes(core: EdgeCore, publisher: Publisher | None) -> APIRouter:
    """Make the routes; without a publisher the edge only shows (it plays a recording)."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(known_query)])

    @routes.get("/streams", summary="Streams, newest first")
    async def streams(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
        tenant: Annotated[str | None, Query(description="Only this tenant's.")] = None,
    ) -> Response:
        identity = identity_of(request.scope)
        _check(core, identity.may_list())

        def shown(entry: IndexEntry) -> bool:
            if tenant is not None and entry.tenant != tenant:
                return False
            return identity.lists(entry.tenant, entry.stream_id, entry.kind)

        found = await core.index.newest(limit, shown)
        core.gate.check_still(identity)  # it may have been revoked meanwhile
        return _json({"streams": [shown_stream(entry) for entry in found], "complete": core.index.complete})

    @routes.get("/streams/{stream_id}", summary="Where one stream stands")
    async def stream(request: Request, stream_id: str, tenant: Tenant = DEFAULT_TENANT) -> Response:
        entry = await known_stream(core, tenant, stream_id, identity_of(request.scope).may_see)
        marks = [
            {"seq": seq, "offset": offset}
            for seq, offset in zip(entry.mark_seqs, entry.mark_offsets, strict=True)
        ]
        return _json(
            {
                **shown_stream(entry),
                "partition": entry.partition,
                "topic_version": entry.topic_version,
                "open_offset": entry.open_offset,
                "end_offset": entry.end_offset,
                "end_seq": entry.end_seq,
                "labels": dict(entry.labels),
                "marks": marks,
            }
        )

    @routes.get("/streams/{stream_id}/rejects", summary="Events that were not accepted, newest first")
    async def rejects(request: Request, stream_id: str, tenant: Tenant = DEFAULT_TENANT) -> Response:
        check_stream_name(tenant, stream_id)
        key = stream_key(tenant, stream_id)
        may_see = identity_of(request.scope).may_see
        _check(core, may_see(tenant, stream_id, ""))
        # Of a kind that may not be seen there are none, as of a stream that does not exist.
        found = core.rejects.of(key) if may_see(tenant, stream_id, core.joiner.kind_name(key)) is None else []
        return _json(
            {
                "tenant": tenant,
                "stream_id": stream_id,
                "rejects": [verdict.shown() for verdict in found],
                "held_ms": core.options.rejects_ttl_ms,
            }
        )

    if publisher is not None:
        _writing_routes(routes, core, publisher)
    return routes


def _writing_routes(routes: APIRouter, core: EdgeCore, publisher: Publisher) -> None:
    @routes.post("/streams/{stream_id}/events", status_code=202, summary="Publish events")
    async def publish(
        request: Request,
        stream_id: str,
        tenant: Tenant = DEFAULT_TENANT,
        kind: Annotated[str | None, Query(description="Of events that name none.")] = None,
        wait: Annotated[Literal["committed"] | None, Query(description="Wait for each verdict.")] = None,
    ) -> Response:
        asked = PublishRequest(
            tenant,
            stream_id,
            kind or core.joiner.kind_name(stream_key(tenant, stream_id)) or None,
            wait is not None,
            identity_of(request.scope),
        )
        answer = await counted(core, publisher.publish(asked, request.stream(), request.headers))
        return _json(answer, status=202)

    @routes.post("/streams/{stream_id}/cancel", status_code=202, summary="Ask that a stream be stopped")
    async def cancel(request: Request, stream_id: str, tenant: Tenant = DEFAULT_TENANT) -> Response:
        identity = identity_of(request.scope)
        entry = await stream_to_cancel(core, tenant, stream_id, identity)
        asked = PublishRequest(tenant, stream_id, entry.kind, wait=False, identity=identity)

        async def cancelling() -> Answer:
            fields = await _cancel_fields(request, tenant, publisher)
            return await publisher.publish_one(asked, "cancel", fields)

        return _json(await counted(core, cancelling()), status=202)


async def counted(core: EdgeCore, publishing: Awaitable[Answer]) -> Answer:
    """Give the answer of a request that publishes, and count how it ended."""
    status = 500
    try:
        answer = await publishing
    except RequestError as error:
        status = error.status
        raise
    except InvalidEvent:
        status = 400
        raise
    except (asyncio.CancelledError, ClientDisconnect):
        status = 499  # its client has left, or its deadline has passed
        raise
    else:
        status = 202
        return answer
    finally:
        core.metrics.publishes.labels(str(status)).inc()


async def stream_to_cancel(core: EdgeCore, tenant: str, stream_id: str, identity: Identity) -> IndexEntry:
    """Give the entry of a stream that may be asked to stop. Raises RequestError: 403, 404, 409 or 503."""
    entry = await known_stream(core, tenant, stream_id, identity.may_cancel)
    if entry.ended:
        raise RequestError(
            409,
            "Stream has ended",
            f"stream {tenant}/{stream_id} ended as {entry.end_reason}",
            remedy="There is nothing left to cancel.",
        )
    return entry


def _check(core: EdgeCore, denied: Forbidden | None) -> None:
    if denied is not None:
        core.gate.denied(denied)
        raise denied


async def known_stream(
    core: EdgeCore, tenant: str, stream_id: str, judge: Callable[[str, str, str], Forbidden | None]
) -> IndexEntry:
    """Give the entry of a stream; one whose kind its asker may not see is as one that does not exist.

    Of a stream that had an event here it is waited for: both are written at once, and read in two.

    Raises:
        RequestError: 403, 404, or 503 while it cannot be said.
    """
    check_stream_name(tenant, stream_id)
    _check(core, judge(tenant, stream_id, ""))
    try:
        entry = await core.find(key := stream_key(tenant, stream_id))
        until_s = core.now_s() + _ENTRY_S
        while entry is None and _had_events(core, key) and core.now_s() < until_s:
            await asyncio.sleep(_ENTRY_LOOK_S)
            entry = await core.find(key)
    except HistoryUnavailable as error:
        raise RequestError(
            503, "Index unavailable", str(error), remedy=error.remedy, headers={"retry-after": "2"}
        ) from None
    if entry is None or judge(tenant, stream_id, entry.kind) is not None:
        raise RequestError(
            404,
            "No such stream",
            f"no stream {tenant}/{stream_id} is known",
            remedy="Check its name and tenant; a stream is known once its open was accepted, and until its "
            "history is over.",
        )
    return entry


def _had_events(core: EdgeCore, key: bytes) -> bool:
    channel = core.hub.get(key)
    return channel is not None and bool(channel.kind)


async def _cancel_fields(request: Request, tenant: str, publisher: Publisher) -> dict[str, object]:
    body = await publisher.read(
        request.stream(), request.headers, tenant, bytes_max=_CANCEL_BYTES_MAX, what="a cancel"
    )
    if not body.strip():
        return {}
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, "Not JSON", str(error)) from None
    if not isinstance(fields, dict) or not fields.keys() <= {"reason", "by"}:
        raise RequestError(400, "Not a cancel", "a cancel is an object with reason and by, or empty")
    return fields


def shown_stream(entry: IndexEntry) -> dict[str, object]:
    """One stream as lists show it."""
    return {
        "tenant": entry.tenant,
        "stream_id": entry.stream_id,
        "kind": entry.kind,
        "title": entry.title,
        "opened": time_text(entry.opened_us),
        "updated": time_text(max(entry.updated_us, entry.opened_us)),
        "last_seq": entry.last_seq,
        "ended": time_text(entry.ended_us) if entry.ended else None,
        "reason": entry.end_reason or None,
    }


def _json(body: dict[str, object], *, status: int = 200) -> Response:
    return Response(
        orjson.dumps(body),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store", "x-content-type-options": "nosniff"},
    )
