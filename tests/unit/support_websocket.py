"""WebSocket connections over a log and transports in memory, and a peer that may send whatever it likes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.server import ServerProtocol

from edge.core import EdgeCore
from edge.frame import declared
from edge.history import Frames, SharedHistory, Span
from edge.index import IndexEntry
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.upgrade import WebSocketShare
from edge.websocket import WebSocketConnection
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from tests.support.fake_transport import LIMITS, FakeTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from edge.access.identity import Identity
    from edge.frame import Frame as Event
    from edge.history import SpanAsked
    from edge.publish import PublishRequest

Message = dict[str, Any]


class SlowPublisher:
    """Takes events, and acknowledges none before it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.gate = asyncio.Event()

    async def publish_values(self, request: PublishRequest, values: list[object]) -> Message:
        assert request.transport == "websocket"
        self.taken.append((request.stream_id, len(values)))
        await self.gate.wait()
        return {"appended": len(values)}


class Room:
    """A core over a log in memory, and WebSocket connections to it."""

    def __init__(self, *, read_s: float = 0.0, **options: Any) -> None:
        self.core = EdgeCore(EdgeOptions(**options), PayloadCodec(LocalSchemas()), topic_version=1)
        self.log = MemoryLog()
        self.read_s = read_s
        """How long the past takes to be read."""
        self.core.feed_from(self.log, SharedHistory(self._read, 1))
        self.core.start()
        self.publisher = SlowPublisher()
        self.share = WebSocketShare(self.core, self.publisher)  # type: ignore[arg-type]  # a twin

    def connect(self, **limits: int) -> Peer:
        return connect(self.share, **limits)

    async def _read(self, asked: SpanAsked) -> Span:
        await asyncio.sleep(self.read_s)
        span = await self.log.read(asked)
        return Span(Frames(span.frames[:1]), span.frames[0].offset + 1) if span.frames else span

    def open(self, stream: str) -> None:
        """Have the index know that a stream begins here."""
        entry = IndexEntry(
            tenant="default", stream_id=stream, kind="log", title="", labels={}, partition=0,
            topic_version=1, opened_us=0, open_offset=self.log.position(0), mark_seqs=[], mark_offsets=[],
            last_seq=-1, updated_us=0,
        )  # fmt: skip
        self.core.index.put(f"default/{stream}".encode(), entry)

    def emit(self, stream: str, seqs: range, size: int = 1) -> None:
        key = f"default/{stream}".encode()
        self.core.hub.publish([(key, self._made(key, seq, size)) for seq in seqs])

    def _made(self, key: bytes, seq: int, size: int) -> Event:
        def make(offset: int) -> Event:
            fields = {"seq": seq, "line": "x" * size}
            return declared("log", fields, cursor=f"c{seq}", seq=seq, offset=offset)

        return self.log.append(key, make)


def connect(share: WebSocketShare, identity: Identity | None = None, **limits: int) -> Peer:
    """A connection whose handshake is over; anybody's, unless it is said whose."""
    ws = ServerProtocol(state=OPEN, max_size=share.core.options.request_bytes_max)
    connection = WebSocketConnection(share, ws, "test", replace(LIMITS, **limits), head=b"")
    if identity is not None:
        connection.authorise(identity)
    return Peer(connection)


class Peer:
    """A client of one connection, without a socket."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.out = FakeTransport().serve(connection)

    def send(self, data: bytes) -> None:
        """Bytes as they come from the network; a socket that is not read holds them back."""
        assert self.out.reading
        self.connection.data_received(data)

    def say(self, *messages: Message) -> None:
        self.send(b"".join(masked(Opcode.TEXT, json.dumps(message).encode()) for message in messages))

    def heard(self) -> list[Frame]:
        """All frames that were written."""
        reader = Protocol(CLIENT, max_size=None)
        reader.receive_data(self.out.data)
        return [event for event in reader.events_received() if isinstance(event, Frame)]

    def messages(self) -> list[Message]:
        return [json.loads(frame.data) for frame in self.heard() if frame.opcode is Opcode.TEXT]

    def types(self) -> list[str]:
        return [message["type"] for message in self.messages()]

    def seqs(self, stream: str) -> list[int]:
        return [
            message["event"]["seq"]
            for message in self.messages()
            if message["type"] == "event" and message["stream"] == stream
        ]

    def close_code(self) -> int:
        (close,) = [frame for frame in self.heard() if frame.opcode is Opcode.CLOSE]
        return Close.parse(bytes(close.data)).code


def masked(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """A client's frame, also one that a client must not send."""
    size, key = len(data), b"\x5a\x01\xfe\x33"
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    hidden = bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    return bytes([opcode | (0x80 if fin else 0)]) + length + key + hidden


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


async def until(done: Callable[[], object]) -> None:
    while not done():  # noqa: ASYNC110  # nobody tells what a connection writes
        await asyncio.sleep(0.005)


async def gone(peer: Peer) -> None:
    await until(lambda: peer.connection not in peer.connection._core.clients)
