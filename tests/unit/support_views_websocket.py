"""A client as those of ``support_views``, that follows several streams over one WebSocket."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.server import ServerProtocol

from edge.upgrade import WebSocketShare
from edge.websocket import WebSocketConnection
from schemas.cursor import decode_cursor
from tests.support.fake_transport import LIMITS, FakeTransport
from tests.unit.support_views import REFUSALS, Place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.unit.support_pressure import Scene
    from tests.unit.support_views import Message, View

_LEAVING: Final = ("leaving", "not_subscribed")
"""What a connection that is about to be closed may still answer."""


class Line:
    """One WebSocket from its client's end, as the ``websockets`` library speaks."""

    def __init__(self, share: WebSocketShare) -> None:
        server = ServerProtocol(state=OPEN)
        self.connection = WebSocketConnection(share, server, "a client", LIMITS, head=b"")
        self.out = FakeTransport().serve(self.connection)
        self._wire = Protocol(CLIENT, max_size=None)
        self._read = 0
        self._unsaid = b""
        """What the network holds while the edge does not read."""

    @property
    def open(self) -> bool:
        return not self.out.is_closing()

    def say(self, **message: Any) -> None:
        if self._wire.state is OPEN:
            self._wire.send_text(json.dumps(message).encode())
        self._speak()

    def heard(self) -> list[Message]:
        """What was taken since this was asked last."""
        end = len(self.out.data) - self.out.get_write_buffer_size()
        took, self._read = self.out.data[self._read : end], end
        self._wire.receive_data(took)
        found = _messages(self._wire)
        self._speak()
        return found

    def written(self) -> list[Message]:
        wire = Protocol(CLIENT, max_size=None)
        wire.receive_data(self.out.data)
        return _messages(wire)

    def _speak(self) -> None:
        """Send what was said, and what the library answers by itself: pongs, and the end."""
        self._unsaid += b"".join(self._wire.data_to_send())
        if self._unsaid and self.open and self.out.reading:
            data, self._unsaid = self._unsaid, b""
            self.connection.data_received(data)


class WebSocketClient:
    """Follows several streams over one connection."""

    transport = "websocket"

    def __init__(self, edge: Scene, views: Sequence[View]) -> None:
        self._share = WebSocketShare(edge.core, None)
        self.views = tuple(views)
        self._of = {view.stream: view for view in views}
        self._lines: list[Line] = []
        self._ids = count()
        self._asked: dict[int, tuple[View, Place]] = {}
        """Subscriptions of this connection."""
        self._follows: set[str] = set()
        """Streams that are subscribed to, or soon are."""
        self._unanswered: dict[str, int] = {}
        """The last subscription of a stream, while nothing was heard of it."""

    @property
    def connected(self) -> bool:
        return bool(self._lines) and self._lines[-1].open

    @property
    def through(self) -> bool:
        return all(view.through for view in self.views) and not (self._follows or self._unanswered)

    async def come(self) -> None:
        if not self.connected:
            self.take()
            self._lines.append(Line(self._share))
            self._asked.clear()
            self._follows.clear()
            self._unanswered.clear()
        for view in self.views:
            if view.stream not in self._follows and not view.through:
                self._subscribe(view, view.place)

    async def go_to(self, view: View, place: Place) -> None:
        """Over the connection that there is, without waiting for its answers."""
        await self.come()
        if view.stream in self._follows:
            self._lines[-1].say(type="unsubscribe", id="u", stream=view.stream)
        self._subscribe(view, place)

    async def lie(self, stream: str, cursor: str) -> None:
        line, heard = Line(self._share), []
        line.say(type="subscribe", id=1, stream=stream, cursor=cursor)
        while len(heard) < 2:
            heard += line.heard()
            await asyncio.sleep(0)
        assert [one["type"] for one in heard] == ["connected", "refused"]
        assert heard[1]["code"] in REFUSALS
        line.say(type="ping", id=2)
        assert line.heard()[0]["type"] == "pong", "the connection stays"
        line.out.close()

    async def comes_in_vain(self) -> None:
        assert self.connected, "the end of a stream is none of the connection"
        line, heard = self._lines[-1], []
        for view in self.views:
            line.say(type="subscribe", id=view.stream, stream=view.stream, cursor=view.place.cursor)
        while len(heard) < len(self.views):
            heard += line.heard()
            await asyncio.sleep(0)
        assert {(one["type"], one["id"]) for one in heard} == {("ended", view.stream) for view in self.views}
        line.out.close()

    def stall(self) -> None:
        if self.connected:
            self._lines[-1].out.full = True

    def read_on(self) -> None:
        if self.connected:
            self._lines[-1].out.drain()

    def take(self) -> None:
        for message in self._lines[-1].heard() if self._lines else ():
            self._hear(message)

    def kill(self) -> None:
        if self.connected:
            self._lines[-1].out.lose()

    def written(self) -> list[Message]:
        found = [message for line in self._lines for message in line.written()]
        return [message.get("event", message) for message in found]

    def _subscribe(self, view: View, place: Place) -> None:
        number = next(self._ids)
        self._asked[number] = view, place
        self._unanswered[view.stream] = number
        self._follows.add(view.stream)
        cursor = {"cursor": place.cursor} if place.cursor else {}
        self._lines[-1].say(type="subscribe", id=number, stream=view.stream, **cursor)

    @staticmethod
    def _place_of(message: Message) -> Place:
        cursor = message.get("cursor", "")
        seq = decode_cursor(cursor, "default", message["stream"]).seq if cursor else -1
        return Place(cursor, seq + 1)

    def _hear(self, message: Message) -> None:
        stream = message.get("stream", "")
        if message.get("id") == self._unanswered.get(stream, -1):
            del self._unanswered[stream]
        match message["type"]:
            case "event":
                self._of[stream].show(message["cursor"], message["event"])
            case "subscribed":
                view, place = self._asked[message["id"]]
                view.resume(place)
            case "ended":
                assert self._of[stream].ended
                if stream not in self._unanswered:  # it was asked for anew before this was heard
                    self._follows.discard(stream)
            case "reconnect" if stream:  # too slow for one of its streams; the others stay
                # The same event; its offset may be that to which the log was read since.
                assert self._of[stream].place.next_seq == self._place_of(message).next_seq
                if stream not in self._unanswered:
                    self._follows.discard(stream)
            case "error":
                assert message["code"] in _LEAVING, message
            case other:
                assert other in ("connected", "unsubscribed", "reconnect"), message


def _messages(wire: Protocol) -> list[Message]:
    return [
        json.loads(frame.data)
        for frame in wire.events_received()
        if isinstance(frame, WireFrame) and frame.opcode is Opcode.TEXT
    ]
