"""An edge in memory, on a real socket: takes events once by id, streams them, and fails when told to."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import orjson
import uvicorn

if TYPE_CHECKING:
    from collections.abc import Iterator


class EdgeTwin:
    """What ``ops`` needs of an edge. ``faults`` is a list of what happens to the next requests:
    a status to answer with, ``"drop"`` to lose the answer after the events were taken, ``"cut:N"`` to
    break a subscription after N events.
    """

    def __init__(self) -> None:
        self.streams: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.faults: list[int | str] = []
        self._taken: set[str | None] = set()
        self.retry_after: str | None = None
        self.away = False  # for who subscribes: 503, and who is subscribed is cut off
        self.url = ""
        self.verdict = "accepted"
        self.hold = threading.Event()
        self.hold.set()

    # ------------------------------------------------------------------ the server

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        path = scope["path"]
        query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        if "last-event-id" in headers:
            query["last-event-id"] = headers["last-event-id"]
        self.requests.append((scope["method"], path, query, body))
        stream_id = unquote(path.split("/")[3])
        if scope["method"] == "GET":
            await self._subscribe(stream_id, query, send, receive)
        elif path.endswith("/cancel"):
            self.take(stream_id, {"type": "cancel", "by": "a test", **orjson.loads(body)})
            await self._answer(send, 202, {})
        else:
            await self._publish(stream_id, body, query, send)

    async def _publish(self, stream_id: str, body: bytes, query: dict[str, str], send: Any) -> None:
        await asyncio.to_thread(self.hold.wait)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, int):
            await self._answer(send, fault, {"detail": f"told to answer {fault}"})
            return
        events = [orjson.loads(line) for line in body.splitlines()]
        for event in events:
            self.take(stream_id, event)
        if fault == "drop":
            await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"9")]})
            raise ConnectionError("told to lose the answer")
        verdicts = [{"event_id": event["event_id"], "verdict": self.verdict} for event in events]
        await self._answer(send, 202, {"verdicts": verdicts} if query.get("wait") else {})

    def take(self, stream_id: str, event: dict[str, Any]) -> None:
        """Append an event, unless one of its id is in the stream."""
        event_id = event.get("event_id")
        if event_id is None or event_id not in self._taken:
            self._taken.add(event_id)
            self.streams[stream_id].append(event)

    async def _subscribe(self, stream_id: str, query: dict[str, str], send: Any, receive: Any) -> None:
        fault = (
            self.faults.pop(0) if self.faults and str(self.faults[0])[:3] in ("cut", "ref", "503") else None
        )
        if fault == 503 or self.away:
            await self._answer(send, 503, {"detail": "told to answer 503"})
            return
        cursor = query.get("last-event-id") or query.get("last_event_id") or "c-1"
        if cursor == "bad" or not cursor.startswith("c"):
            await self._answer(
                send, 400, {"detail": f"cursor {cursor} is malformed", "remedy": "use another"}
            )
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        await send({"type": "http.response.body", "body": b"retry: 10\n\n", "more_body": True})
        left = int(fault.split(":")[1]) if isinstance(fault, str) else 1 << 30
        index = int(cursor[1:]) + 1
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            if self.away:
                raise ConnectionError("told to be away")
            stream = self.streams[stream_id]
            if index >= len(stream):
                await asyncio.sleep(0.01)
                continue
            if left == 0:
                raise ConnectionError("told to break the connection")
            event = stream[index]
            flat = {key: value for key, value in event.items() if key != "payload"} | event.get("payload", {})
            frame = b"id: c%d\ndata: %s\n\n" % (index, orjson.dumps({"seq": index, **flat}))
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            index, left = index + 1, left - 1

    async def _answer(self, send: Any, status: int, body: dict[str, Any]) -> None:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after is not None:
            headers.append((b"retry-after", self.retry_after.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(body)})

    # ------------------------------------------------------------------ what a test asks

    def lines(self, stream_id: str) -> list[str]:
        """The lines of a stream's log."""
        return [event["payload"]["line"] for event in self.streams[stream_id] if event["type"] == "log"]

    def of_type(self, stream_id: str, event_type: str) -> list[dict[str, Any]]:
        """Payloads of one type, in order."""
        return [e.get("payload", e) for e in self.streams[stream_id] if e["type"] == event_type]


@contextmanager
def running_twin() -> Iterator[EdgeTwin]:
    """Serve a twin on a free port of the loopback address."""
    twin = EdgeTwin()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        twin.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(twin, log_level="critical", timeout_graceful_shutdown=1, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield twin
        finally:
            server.should_exit = True
            thread.join(timeout=5)
