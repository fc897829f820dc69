"""Who is connected, and who of them does not follow: by address, subject, stream and how far behind."""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from edge.access.doorkeeper import identity_of
from edge.queries import known_query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.connection import Connection
    from edge.core import EdgeCore
    from edge.delivery import Delivery

_SHOWN_MAX = 1_000


def connection_routes(core: EdgeCore) -> APIRouter:
    """Make the routes."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(known_query)])

    @routes.get("/connections", summary="Who is connected, the slowest first")
    async def connections(
        request: Request,
        *,
        slow: Annotated[bool, Query(description="Only those that take nothing, or fell behind.")] = False,
        limit: Annotated[int, Query(ge=1, le=_SHOWN_MAX)] = 100,
        own: Annotated[bool, Query(description="Of this process alone.")] = False,
    ) -> Response:
        denied = identity_of(request.scope).may_operate()
        if denied is not None:
            core.gate.denied(denied)
            raise denied
        chosen = [one for one in _deliveries(core) if not slow or _is_slow(one[1])]
        total = len(chosen)
        # Of ten thousand no more are described than are shown: the streams wait meanwhile.
        found = [shown(core, *one) for one in nlargest(limit, chosen, key=lambda one: _slowness(core, *one))]
        if core.siblings is not None and not own:
            answers = await core.siblings.ask(f"/v1/connections?own=true&slow={slow}&limit={limit}")
            for answer in map(orjson.loads, answers.values()):
                total += answer["total"]
                found += answer["connections"]
        found.sort(key=lambda one: (one["paused_ms"], one["events_behind"]), reverse=True)
        body = {"connections": found[:limit], "total": total}
        return Response(
            orjson.dumps(body),
            media_type="application/json",
            headers={"cache-control": "no-store", "x-content-type-options": "nosniff"},
        )

    return routes


def _deliveries(core: EdgeCore) -> Iterator[tuple[Connection, Delivery]]:
    for client in core.clients:
        for delivery in client.deliveries:
            yield client, delivery


def _is_slow(delivery: Delivery) -> bool:
    return delivery.paused or delivery in delivery.subscriber.channel.laggards


def _slowness(core: EdgeCore, client: Connection, delivery: Delivery) -> tuple[int, int]:
    """For how long it took nothing, in ms, and by how many events it is behind."""
    return _paused_ms(core, client), delivery.subscriber.channel.ring.behind(delivery.expect).events


def _paused_ms(core: EdgeCore, client: Connection) -> int:
    return int((core.now_s() - client.paused_s) * 1_000) if client.paused else 0


def shown(core: EdgeCore, client: Connection, delivery: Delivery) -> dict[str, Any]:
    """One stream of one connection, as it is now."""
    subscriber, channel = delivery.subscriber, delivery.subscriber.channel
    behind = channel.ring.behind(delivery.expect)
    return {
        "peer": client.name,
        "subject": delivery.subject,
        "transport": client.transport_name,
        "tenant": channel.tenant,
        "stream_id": channel.stream_id,
        "kind": channel.kind,
        "policy": core.pressure.policy_of(delivery),
        "state": delivery.state,
        "seq": delivery.expect - 1,
        "events": delivery.events,
        "bytes": delivery.bytes,
        "gaps": delivery.gaps,
        "dropped": dict(subscriber.dropped),
        "events_behind": behind.events,
        "bytes_behind": behind.bytes,
        "bytes_pending": client.transport.get_write_buffer_size(),
        "bytes_ahead": delivery.bytes_ahead,
        "paused_ms": _paused_ms(core, client),
        "open_ms": int((core.now_s() - client.opened_s) * 1_000),
    }
