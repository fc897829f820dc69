"""Clients who come and go as they like, and hold what they are shown to the contract.

Each has a ``View`` of every stream that it follows. What it has not taken when its connection ends is lost,
as in a socket's buffer; it comes back with the cursor of what it took last, or with any other.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import grpc
import orjson

from edge.events import TAKE_OVER, EventsEndpoint
from edge.grpc_service import StreamCalls
from edge.sse import REFUSED_ID
from schemas.cursor import Cursor
from schemas.proto.sluicegate.v1.stream_pb2 import WatchRequest
from tests.support.fake_call import FakeCall
from tests.support.fake_transport import FakeTransport
from tests.unit.support_pressure import said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.unit.support_pressure import Scene

Message = dict[str, Any]
REFUSALS: Final = ("malformed_cursor", "foreign_cursor")
_FRAME = re.compile(rb"(?:^id: (.*)\n)?^data: (.*)$", re.MULTILINE)


class Place(NamedTuple):
    """Where a client may go on: what it says, and the seq that it must then be shown first."""

    cursor: str
    next_seq: int
    life: int = -1
    """Of which stream of the name; -1 = of any, for none was shown yet."""


START: Final = Place("", 0)


class View:
    """What one client is shown of one stream: each event is the next one, or a gap says what is missing."""

    def __init__(self, stream: str, seen: list[Place], lives: Mapping[str, int]) -> None:
        self.stream = stream
        self._lives = lives
        self.place = START
        self.ended = False
        self._seen = seen
        """Of all clients of the stream: a cursor is good in anybody's hands, and over any transport."""

    def resume(self, place: Place) -> None:
        self.place, self.ended = place, False

    @property
    def through(self) -> bool:
        """Whether it was shown the end of what the name stands for now."""
        return self.ended and self.place.life == self._lives[self.stream]

    def show(self, cursor: str, event: Mapping[str, Any]) -> None:
        assert not self.ended, f"shown after the end: {event}"
        expected, life = self.place.next_seq, self.place.life
        if event["type"] == "gap" and event["to_seq"] < 0:
            assert (event["from_seq"], event["count"]) == (expected, -1)
            assert event["reason"] in ("history", "reopened")
            expected, life = -1, -1
        elif event["type"] == "gap":
            assert event["from_seq"] == expected
            assert event["count"] == event["to_seq"] + 1 - expected > 0
            assert event["reason"] == "slow"
            expected = event["to_seq"]
        else:
            event_id, _, shown_life = event["event_id"].partition(".")
            assert (event["seq"], event_id) == (expected, f"e{expected}")
            assert life in (-1, int(shown_life or 0)), "of another stream of the name, and nothing was said"
            life = int(shown_life or 0)
        self.place = Place(cursor, expected + 1, life)
        self.ended = event["type"] == "end"
        self._seen.append(self.place)


class Client(Protocol):
    """What a client can do, over whatever it comes."""

    transport: str
    views: Sequence[View]

    @property
    def connected(self) -> bool:
        """Whether its connection is open."""
        ...

    @property
    def through(self) -> bool:
        """Whether it has all there is, and waits for nothing."""
        ...

    async def come(self) -> None:
        """Come back if it is not there, with the cursor of what it took last."""
        ...

    async def go_to(self, view: View, place: Place) -> None:
        """Go on elsewhere in a stream than where it is."""
        ...

    async def lie(self, stream: str, cursor: str) -> None:
        """Come with a cursor that is none of the stream's, and see that it is refused in so many words."""
        ...

    async def comes_in_vain(self) -> None:
        """Come once more after the end, and see that there is nothing."""
        ...

    def stall(self) -> None:
        """Read nothing more."""
        ...

    def read_on(self) -> None:
        """Take what waits, and what comes."""
        ...

    def take(self) -> None:
        """Look at what came."""
        ...

    def kill(self) -> None:
        """Be gone in mid-stream."""
        ...

    def written(self) -> list[Message]:
        """All that was written to it, whether it took it or not."""
        ...


def strangers(own: str) -> list[str]:
    """Cursors that a stream's edge must refuse, beside one of its own."""
    foreign = Cursor(1, 0, 0, 0)
    return [
        own[:-1] + ("A" if own[-1] != "A" else "B"),
        own[:-1],
        own + own,
        "x" * 200,
        "no cursor!",
        foreign.encode("default", "other"),
        foreign.encode("rival", "s"),
    ]


# -- Server-Sent Events -----------------------------------------------------------------------------------


class SseClient:
    """Asks as a native ``EventSource`` does."""

    transport = "sse"

    def __init__(self, edge: Scene, view: View) -> None:
        self._endpoint = EventsEndpoint(edge.core)
        self._view = view
        self.views = (view,)
        self.outs: list[FakeTransport] = []
        self._read = 0

    @property
    def connected(self) -> bool:
        return bool(self.outs) and not self.outs[-1].is_closing()

    @property
    def through(self) -> bool:
        return self._view.through

    async def come(self) -> None:
        if self.connected:
            return
        self.take()
        place = self._view.place
        status, _, out = await self._ask(place.cursor)
        assert (status, out is None) == (200, False)
        assert out is not None
        self._view.resume(place)
        self.outs.append(out)
        self._read = 0

    async def go_to(self, view: View, place: Place) -> None:
        self.kill()
        self.take()
        view.resume(place)
        await self.come()

    async def lie(self, stream: str, cursor: str) -> None:
        status, body, out = await self._ask(cursor, stream)
        assert (status, out) == (200, None), "any other status would stop a native client for good"
        (refused,) = said(body)
        assert refused["type"] == "refused"
        assert refused["code"] in REFUSALS
        assert f"id: {REFUSED_ID}\n".encode() in body
        assert (await self._ask(REFUSED_ID, stream))[0] == 204

    async def comes_in_vain(self) -> None:
        assert (await self._ask(self._view.place.cursor))[0] == 204

    def stall(self) -> None:
        if self.connected:
            self.outs[-1].full = True

    def read_on(self) -> None:
        if self.connected:
            self.outs[-1].drain()

    def take(self) -> None:
        if not self.outs:
            return
        out = self.outs[-1]
        took = out.data[self._read : len(out.data) - out.get_write_buffer_size()]
        whole, cut, _ = took.rpartition(b"\n\n")
        self._read += len(whole + cut)
        for cursor, data in _FRAME.findall(whole):
            event = orjson.loads(data)
            if "seq" in event:
                self._view.show(cursor.decode(), event)

    def kill(self) -> None:
        if self.connected:
            self.outs[-1].lose()

    def written(self) -> list[Message]:
        return [one for out in self.outs for one in said(out.data)]

    async def _ask(self, cursor: str, stream: str = "") -> tuple[int, bytes, FakeTransport | None]:
        outs: list[FakeTransport] = []
        answer: list[Message] = []

        def take_over(connection: Any) -> bool:
            outs.append(FakeTransport().serve(connection))
            return True

        async def send(message: Message) -> None:
            answer.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "http_version": "1.0",  # what is said is then not cut into chunks
            "query_string": b"",
            "headers": [(b"last-event-id", cursor.encode())] if cursor else [],
            "path_params": {"stream_id": stream or self._view.stream},
            "client": ("127.0.0.1", 1),
            "extensions": {TAKE_OVER: take_over},
        }
        await self._endpoint(scope, _nothing_to_receive, send)  # type: ignore[arg-type]
        if outs:
            return 200, b"", outs[0]
        return answer[0]["status"], b"".join(one.get("body", b"") for one in answer), None


async def _nothing_to_receive() -> Message:
    raise AssertionError("a request for a stream has no body")


# -- gRPC -------------------------------------------------------------------------------------------------


class GrpcClient:
    """Calls ``StreamService.Watch``."""

    transport = "grpc"

    def __init__(self, edge: Scene, view: View) -> None:
        calls = StreamCalls(edge.core, None)
        self._watch = calls.answered(calls.watch)
        self._view = view
        self.views = (view,)
        self._calls: list[FakeCall] = []
        self._task: asyncio.Task[None] | None = None
        self._read = 0

    @property
    def connected(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def through(self) -> bool:
        return self._view.through

    async def come(self) -> None:
        if self.connected:
            return
        self.take()
        self._view.resume(self._view.place)
        self._calls.append(FakeCall())
        self._read = 0
        self._task = asyncio.create_task(self._call(self._calls[-1], self._view.place.cursor))

    async def go_to(self, view: View, place: Place) -> None:
        self.kill()
        self.take()
        view.resume(place)
        await self.come()

    async def lie(self, stream: str, cursor: str) -> None:
        call = FakeCall()
        await self._call(call, cursor, stream)
        assert call.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
        (refused,) = call.said
        assert refused.refused.code in REFUSALS

    async def comes_in_vain(self) -> None:
        call = FakeCall()
        await self._call(call, self._view.place.cursor)
        assert (call.code, call.messages) == (None, [])

    def stall(self) -> None:
        if self._calls:
            self._calls[-1].reads.clear()

    def read_on(self) -> None:
        if self._calls:
            self._calls[-1].reads.set()

    def take(self) -> None:
        if not self._calls:
            return
        events = self._calls[-1].events
        for event in events[self._read :]:
            self._view.show(event.cursor, orjson.loads(event.json))
        self._read = len(events)

    def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def written(self) -> list[Message]:
        """As far as gRPC has it."""
        found = []
        for call in self._calls:
            for message in call.said:
                found += [orjson.loads(event.json) for event in message.events]
                if message.HasField("reconnect"):
                    found.append({"type": "reconnect", "reason": message.reconnect.reason})
        return found

    async def _call(self, call: FakeCall, cursor: str, stream: str = "") -> None:
        asked = WatchRequest(stream_id=stream or self._view.stream, cursor=cursor)
        with suppress(grpc.aio.AbortError):
            await self._watch(asked.SerializeToString(), call)
