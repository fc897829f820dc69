"""What clients of a swarm do over each transport: as little as shows events as they are written."""

from __future__ import annotations

import asyncio
import random
import re
from typing import TYPE_CHECKING, Any, Final

import grpc
import orjson

from schemas.proto.sluicegate.v1.stream_pb2 import WatchRequest
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.swarm import Client, Swarm

_FRAME = re.compile(rb'^id: (\S+)\ndata: \{"type":"([a-z_]+)","seq":(\d+)', re.MULTILINE)
_FROM_SEQ = re.compile(rb'"from_seq":(\d+)')
_RETRY = re.compile(rb"^retry: (\d+)$", re.MULTILINE)
_EVENT = re.compile(
    rb'\{"type":"event","tenant":"[^"]*","stream":"([^"]*)","cursor":"([^"]*)",'
    rb'"event":\{"type":"([a-z_]+)","seq":(\d+)'
)
_UPGRADE: Final = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
# CANCELLED: gRPC answers so what came as an edge stopped.
_COME_BACK = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)


class SseFollower(asyncio.Protocol):
    """One request for one stream."""

    def __init__(self, swarm: Swarm, client: Client) -> None:
        self._swarm = swarm
        self._client = client
        self._left = b""

    def connection_made(self, transport: Any) -> None:
        self._client.socket = transport
        (view,) = self._client.views
        last = b"Last-Event-ID: %b\r\n" % view.cursor if view.cursor else b""
        path = f"/v1/streams/{view.stream}/events".encode()
        transport.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path, last))

    def data_received(self, data: bytes) -> None:
        """A frame is never cut by the framing of chunks, for a chunk is a whole write."""
        client = self._client
        (view,) = client.views
        whole, cut, self._left = (self._left + data).rpartition(b"\n\n")
        whole += cut
        for retry in _RETRY.findall(whole):
            client.retry_s = int(retry) / 1_000
            if not client.connected and b'"reconnect"' not in whole:
                client.came()
        for found in _FRAME.finditer(whole):
            view.saw(found[1], found[2], _first_seq(found[2], found[3], whole, found.end()), int(found[3]))

    def connection_lost(self, exc: Exception | None) -> None:
        self._swarm.left(self._client)


class SocketFollower(asyncio.Protocol):
    """One WebSocket, and all streams of its client over it."""

    def __init__(self, swarm: Swarm, client: Client) -> None:
        self._swarm = swarm
        self._client = client
        self._of = {view.stream.encode(): view for view in client.views}
        self._upgraded = False
        self._left = b""

    def connection_made(self, transport: Any) -> None:
        self._client.socket = self._transport = transport
        transport.write(_UPGRADE)

    def data_received(self, data: bytes) -> None:
        self._left += data
        if not self._upgraded:
            head, cut, rest = self._left.partition(b"\r\n\r\n")
            if not cut:
                return
            if not head.startswith(b"HTTP/1.1 101 "):  # not taken now
                self._client.retry_s = 1.0 + random.random()
                self._transport.close()
                return
            self._upgraded, self._left = True, rest
        for opcode, payload in self._frames():
            if opcode == _TEXT and (found := _EVENT.match(payload)):
                first = _first_seq(found[3], found[4], payload, found.end())
                self._of[found[1]].saw(found[2], found[3], first, int(found[4]))
            elif opcode == _TEXT:
                self._hear(orjson.loads(payload))
            elif opcode == _PING:
                self._send(_PONG, payload)
            elif opcode == _CLOSE:
                self._send(_CLOSE, payload)
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._swarm.left(self._client)

    def _hear(self, message: dict[str, Any]) -> None:
        client = self._client
        if "retry_ms" in message:
            client.retry_s = message["retry_ms"] / 1_000
        if message["type"] == "connected":
            client.came()
            for view in client.views:
                if not view.ended:
                    cursor = {"cursor": view.cursor.decode()} if view.cursor else {}
                    subscribe = {"type": "subscribe", "stream": view.stream, **cursor}
                    self._send(_TEXT, orjson.dumps(subscribe))
        elif message["type"] in ("error", "refused"):
            client.trouble.append(str(message))
        if client.ended:
            self._transport.close()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Take the whole frames out of what came (RFC 6455, section 5.2); a server's have no mask."""
        data, at = self._left, 0
        while len(data) >= at + 2:
            size, start = data[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start])
            if len(data) < start + size:
                break
            yield data[at] & 0x0F, data[start : start + size]
            at = start + size
        self._left = data[at:]

    def _send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
        self._transport.write(bytes([0x80 | opcode]) + length + bytes(4) + payload)  # a mask of zeros


async def watch(client: Client, port: int) -> None:
    """One call for one stream, over a channel of its own: of calls that share one, all go to one process."""
    (view,) = client.views
    own = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own) as channel:
        asked = WatchRequest(stream_id=view.stream, cursor=view.cursor.decode())
        try:
            async for response in StreamServiceStub(channel).Watch(asked):
                if response.HasField("reconnect"):
                    continue
                if not client.connected:
                    client.came()
                for event in response.events:
                    first = event.gap.from_seq if event.type == "gap" else event.seq
                    view.saw(event.cursor.encode(), event.type.encode(), first, event.seq)
        except grpc.aio.AioRpcError as error:
            said = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
            client.retry_s = int(said) / 1_000 if said else 1.0 + random.random()
            if error.code() not in _COME_BACK:
                client.trouble.append(f"{error.code()}: {error.details()}")


def _first_seq(type_name: bytes, seq: bytes, text: bytes, at: int) -> int:
    """The first seq that an event stands for, which a gap says further on in its text."""
    found = _FROM_SEQ.search(text, at) if type_name == b"gap" else None
    return int(found[1] if found else seq)
