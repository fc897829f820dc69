"""FastAPI's StreamingResponse with a queue a connection. Its own environment runs it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = FastAPI()
queues: dict[str, set[asyncio.Queue[bytes]]] = defaultdict(set)
counts: dict[str, int] = defaultdict(int)


@app.get("/{stream}")
async def events(stream: str) -> StreamingResponse:
    """Give all that is published from now on."""

    async def given() -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        queues[stream].add(queue)
        try:
            yield b"retry: 1000\n\n"
            while True:
                yield await queue.get()
        finally:
            queues[stream].discard(queue)

    return StreamingResponse(given(), media_type="text/event-stream")


@app.post("/{stream}")
async def publish(stream: str, request: Request) -> dict[str, int]:
    """Take one event's data; it is encoded once for all."""
    counts[stream] += 1
    event = b"id: %d\ndata: %b\n\n" % (counts[stream], await request.body())
    for queue in queues[stream]:
        queue.put_nowait(event)
    return {"subscribers": len(queues[stream])}
