"""Clients of each transport that read when they are told to, and of which the network holds little ahead."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import grpc
import httpx2
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from schemas.proto.sluicegate.v1.stream_pb2 import WatchRequest
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.edge_process import EdgeProcess

Said = dict[str, Any]
DEADLINE_S = 90.0
_AHEAD_BYTES = 65_536


class Over(Exception):
    """The connection, or the call, has ended."""


def until(done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := done()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def connections_of(edge: EdgeProcess, query: str = "") -> list[dict[str, Any]]:
    """All that an edge says of its connections."""
    answer = httpx2.get(f"{edge.url}/v1/connections{query}", trust_env=False, verify=False).json()
    assert len(answer["connections"]) == answer["total"]
    return list(answer["connections"])


class SlowClient:
    """One client of one stream."""

    transport: ClassVar[str]
    let_go: ClassVar[str]
    """How it ends for one that is too slow."""
    life_over: ClassVar[str]
    """How it ends when its life is over."""

    def __init__(self, edge: EdgeProcess, stream_id: str, cursor: str = "") -> None:
        self.edge = edge
        self.stream_id = stream_id
        self.cursor = cursor
        """Of the last event that was read."""

    def next(self) -> Said:
        """Give the next event, or what is said about the connection. Raises Over."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave."""
        raise NotImplementedError

    def how_it_ends(self) -> str:
        """Read to the end, and say how it came; ``goes on`` for a connection that stays."""
        try:
            while True:
                self.next()
        except Over as over:
            return str(over)

    def back(self) -> SlowClient:
        """Come back with the last cursor."""
        return type(self)(self.edge, self.stream_id, self.cursor)


class SlowSse(SlowClient):
    """A plain socket, and HTTP/1.0: the answer is not in chunks."""

    transport = "sse"
    let_go = life_over = "closed"

    def __init__(self, edge: EdgeProcess, stream_id: str, cursor: str = "") -> None:
        super().__init__(edge, stream_id, cursor)
        self.socket = _connected(edge)
        at = f"GET /v1/streams/{stream_id}/events HTTP/1.0\r\nhost: {urlsplit(edge.url).netloc}\r\n"
        last_id = f"last-event-id: {cursor}\r\n" if cursor else ""
        self.socket.sendall(f"{at}{last_id}\r\n".encode())
        self.peer = "{}:{}".format(*self.socket.getsockname())
        self.data = bytearray()

    def next(self) -> Said:
        """See SlowClient."""
        while True:
            while (end := self.data.find(b"\n\n")) < 0:
                data = self.socket.recv(4_096)
                if not data:
                    raise Over("closed")
                self.data += data
            block = bytes(self.data[:end])
            del self.data[: end + 2]
            lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
            if b"data" in lines:
                self.cursor = lines.get(b"id", self.cursor.encode()).decode()
                return dict(json.loads(lines[b"data"]))

    def close(self) -> None:
        """See SlowClient."""
        self.socket.close()


class SlowWebSocket(SlowClient):
    """One subscription."""

    transport = "websocket"
    let_go, life_over = "goes on", "1012 life"

    def __init__(self, edge: EdgeProcess, stream_id: str, cursor: str = "") -> None:
        super().__init__(edge, stream_id, cursor)
        self._socket = connect(
            edge.url.replace("http://", "ws://") + "/v1/ws",
            sock=_connected(edge), proxy=None, compression=None, max_queue=1, max_size=None,
            open_timeout=DEADLINE_S, ping_interval=None,  # who reads nothing hears no pong
        ).__enter__()  # fmt: skip
        self.say(type="subscribe", stream=stream_id, cursor=cursor)

    def say(self, **message: Any) -> None:
        """Send a message."""
        self._socket.send(json.dumps(message))

    def hear(self) -> Said:
        """Give the next message, as it came."""
        try:
            return dict(json.loads(self._socket.recv(DEADLINE_S)))
        except ConnectionClosed as error:
            close = error.rcvd
        assert close is not None, "cut without a close frame"
        raise Over(f"{close.code} {close.reason}")

    def next(self) -> Said:
        """See SlowClient."""
        while (message := self.hear())["type"] != "event":
            if message["type"] == "reconnect":
                assert message.get("cursor", self.cursor) == self.cursor
                return message
            if message["type"] == "pong":
                raise Over("goes on")
            assert message["type"] in ("connected", "subscribed"), message
        self.cursor = message["cursor"]
        return dict(message["event"])

    def how_it_ends(self) -> str:
        """See SlowClient."""
        with suppress(ConnectionClosed):  # what came before the end is still to be read
            self.say(type="ping")
        return super().how_it_ends()

    def back(self) -> SlowClient:
        """See SlowClient; over the same connection, if it stays."""
        try:
            self.say(type="subscribe", stream=self.stream_id, cursor=self.cursor)
        except ConnectionClosed:
            return super().back()
        return self

    def close(self) -> None:
        """See SlowClient."""
        self._socket.close()


class SlowCall(SlowClient):
    """One call, whose messages come as they are asked for, though gRPC reads some ahead."""

    transport = "grpc"
    let_go, life_over = "RESOURCE_EXHAUSTED", "UNAVAILABLE"

    def __init__(self, edge: EdgeProcess, stream_id: str, cursor: str = "") -> None:
        super().__init__(edge, stream_id, cursor)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.http2.bdp_probe", 0),  # it would widen the window of who reads quickly at first
            ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
        ]
        self._channel = grpc.insecure_channel(edge.grpc_address, options=options)
        asked = WatchRequest(tenant="default", stream_id=stream_id, cursor=cursor)
        self._call = StreamServiceStub(self._channel).Watch(asked, timeout=3 * DEADLINE_S)
        self._came: deque[Any] = deque()

    def next(self) -> Said:
        """See SlowClient."""
        while not self._came:
            try:
                response = next(self._call)
            except grpc.RpcError as error:
                raise Over(error.code().name) from None
            if response.HasField("reconnect"):
                return {"type": "reconnect", "reason": response.reconnect.reason}
            self._came.extend(response.events)
        event = self._came.popleft()
        self.cursor = event.cursor
        return dict(json.loads(event.json))

    def close(self) -> None:
        """See SlowClient."""
        self._call.cancel()
        self._channel.close()


TRANSPORTS: tuple[type[SlowClient], ...] = (SlowSse, SlowWebSocket, SlowCall)


def _connected(edge: EdgeProcess) -> socket.socket:
    at = urlsplit(edge.url)
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _AHEAD_BYTES)
    made.settimeout(DEADLINE_S)
    made.connect((at.hostname, at.port))
    return made
