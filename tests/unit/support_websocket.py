"""A client of one WebSocket, over a transport in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.server import ServerProtocol

from edge.websocket import WebSocketConnection
from tests.support.fake_transport import FakeTransport

if TYPE_CHECKING:
    from edge.access.identity import Identity
    from edge.upgrade import WebSocketShare

Message = dict[str, Any]
LIMITS = {"heartbeat_ms": 10_000, "retry_ms": 1_000, "life_ms_max": 60_000, "drain_ms": 1_000}


def connect(share: WebSocketShare, identity: Identity | None = None, **limits: int) -> Peer:
    """A connection whose handshake is over; anybody's, unless it is said whose."""
    ws = ServerProtocol(state=OPEN, max_size=share.core.options.request_bytes_max)
    connection = WebSocketConnection(share, ws, "test", head=b"", **(LIMITS | limits))
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
