"""sse-starlette's EventSourceResponse with a queue a connection. Its own environment runs it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

queues: dict[str, set[asyncio.Queue[ServerSentEvent]]] = defaultdict(set)
counts: dict[str, int] = defaultdict(int)


async def events(request: Request) -> EventSourceResponse:
    """Give all that is published from now on."""
    stream = request.path_params["stream"]

    async def given() -> AsyncIterator[ServerSentEvent]:
        queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
        queues[stream].add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            queues[stream].discard(queue)

    return EventSourceResponse(given())


async def publish(request: Request) -> PlainTextResponse:
    """Take one event's data."""
    stream = request.path_params["stream"]
    counts[stream] += 1
    event = ServerSentEvent((await request.body()).decode(), id=str(counts[stream]))
    for queue in queues[stream]:
        queue.put_nowait(event)
    return PlainTextResponse("")


app = Starlette(
    routes=[
        Route("/{stream}", events, methods=["GET"]),
        Route("/{stream}", publish, methods=["POST"]),
    ]
)
