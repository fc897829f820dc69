"""What strangers send once they speak WebSocket or HTTP/2: whatever it is, an edge's memory does not grow."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc import StatusCode

from schemas.proto.sluicegate.v1.stream_pb2 import NewEvent, PublishRequest, WatchRequest
from tests.support.http2_client import CONTINUATION, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, http2
from tests.support.ports import free_port
from tests.support.shown_edge import ShownEdge, check_let_go

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20
FLOOD_BYTES, FLOOD_S, FLOODS = 64 * MIB, 1.0, 3
GROWN_BYTES_MAX = 16 * MIB
GRPC_READ_BYTES_MAX = 80 * MIB
"""What gRPC's own core has read and not parsed yet, at worst, and what its allocator keeps of that."""
HELD_BYTES_MAX = 4 * MIB
GRPC_PORT = "grpc_port"
BOUNDS = {
    "websocket_held_bytes_max": HELD_BYTES_MAX,
    "request_read_ms_max": 1_500,
    "idle_heartbeat_ms": 1_000,  # so often is looked whether a message has taken too long
}


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Iterator[ShownEdge]:
    log = tmp_path_factory.mktemp("frames") / "edge.log"
    with ShownEdge(log, {GRPC_PORT: free_port(), **BOUNDS}) as running:
        with open_socket(running) as client:  # what is made at a first use counts for none of them
            client.sendall(masked(0x1, b'{"type": "ping"}'))
        list_wrong_calls(running)
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(edge) -> Iterator[None]:
    yield
    check_let_go(edge, "call_failed")


def flood(client: socket.socket, more: bytes) -> None:
    """Send the same again and again until the edge closes, or reads no more for a while, or it is enough."""
    client.settimeout(0.5)
    sent, ends_s = 0, time.monotonic() + FLOOD_S
    with suppress(OSError):  # closed, or full
        while sent < FLOOD_BYTES and time.monotonic() < ends_s:
            sent += client.send(more)


# -- WebSocket ------------------------------------------------------------------------------------------


def masked(opcode: int, data: bytes, *, fin: bool = True) -> bytes:
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([opcode | (0x80 if fin else 0)]) + length + bytes(4) + data


def open_socket(edge: ShownEdge) -> socket.socket:
    """A WebSocket on which nothing was said yet."""
    client = edge.connect()
    client.sendall(
        b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    received = b""
    while b'"connected"' not in received:
        data = client.recv(65_536)
        assert data, received
        received += data
    return client


FRAMES = {
    "a frame of a tebibyte": (b"\x81\xff" + (1 << 40).to_bytes(8) + bytes(4), bytes(8_192)),
    "a message of pieces": (masked(0x1, b'"', fin=False), masked(0x0, b"a" * 8_192, fin=False)),
    "pieces of nothing": (masked(0x1, b"", fin=False), masked(0x0, b"", fin=False) * 1_000),
    "pings": (b"", masked(0x9, bytes(125)) * 100),
    "messages that mean nothing": (b"", masked(0x1, b'{"type": "nonsense", "id": 1}') * 100),
    "subscriptions": (b"", masked(0x1, b'{"type": "subscribe", "stream": "one", "cursor": "no"}') * 100),
    "what is not masked": (b"", b"\x81\x02hi" * 1_000),
}


@pytest.mark.parametrize("what", FRAMES)
def test_frames_without_an_end_cost_no_memory(edge, what):
    start, more = FRAMES[what]
    before_bytes = edge.rss_bytes
    with open_socket(edge) as client:
        client.sendall(start)
        flood(client, more)
        assert edge.rss_bytes - before_bytes < GROWN_BYTES_MAX


def test_messages_that_many_clients_leave_unfinished_are_held_up_to_a_bound_for_all_of_them(edge):
    before_bytes = edge.rss_bytes
    clients = [open_socket(edge) for _ in range(60)]
    unfinished = masked(0x1, bytes(60_000), fin=False) + masked(0x0, bytes(60_000), fin=False) * 9
    for client in clients:  # 36 MB together
        with suppress(OSError):  # it is one too many, and closed
            client.sendall(unfinished)
    assert edge.rss_bytes - before_bytes < HELD_BYTES_MAX + GROWN_BYTES_MAX
    for client in clients:
        client.close()


# -- HTTP/2 ---------------------------------------------------------------------------------------------

BEGUN = PREFACE + http2(SETTINGS, b"")
# A header that is not to be remembered, name and value in plain text (RFC 7541, section 6.2.2).
PLAIN_HEADER = b"\x00\x01x\x7f\x81\x3f" + b"y" * 8_192
HTTP2 = {
    "no preface": (b"", b"GET / HTTP/1.1\r\n"),
    "continued headers": (
        BEGUN + http2(HEADERS, PLAIN_HEADER, stream=1),
        http2(CONTINUATION, PLAIN_HEADER, stream=1),
    ),
    "settings": (BEGUN, http2(SETTINGS, bytes.fromhex("000300000064")) * 100),
    "pings": (BEGUN, http2(PING, bytes(8)) * 100),
    "calls that are taken back at once": (
        BEGUN,
        b"".join(
            http2(HEADERS, b"\x83\x86\x04\x02/x\x41\x01a", stream=number, flags=0x4)
            + http2(RST_STREAM, (8).to_bytes(4), stream=number)
            for number in range(1, 20_001, 2)
        ),
    ),
    "frames of an unknown kind": (BEGUN, http2(0xFA, bytes(8_192), stream=1)),
}


@pytest.mark.parametrize("what", HTTP2)
def test_http2_without_an_end_costs_no_more_memory_the_third_time_than_the_first(edge, what):
    start, more = HTTP2[what]
    before_bytes = edge.rss_bytes
    for _ in range(FLOODS):
        with socket.create_connection(("127.0.0.1", edge.options[GRPC_PORT]), 30) as client:
            with suppress(OSError):  # it may be closed at the first byte
                client.sendall(start)
            flood(client, more)
            assert edge.rss_bytes - before_bytes < GRPC_READ_BYTES_MAX


def list_wrong_calls(edge: ShownEdge) -> list[StatusCode]:
    """Calls of which each is wrong in a way of its own; give how they ended."""
    large = PublishRequest(stream_id="one", events=[NewEvent(type="log", json="x" * 2 * MIB)])
    deep = PublishRequest(stream_id="one", events=[NewEvent(type="log", json="[" * 100_000)])
    wrong = [
        ("Watch", b"\xff" * 1_000),
        ("Watch", b"\x0a\xff\xff\xff\xff\x0f"),
        ("Watch", WatchRequest(stream_id="one", cursor="x" * 100_000).SerializeToString()),
        ("Watch", WatchRequest(stream_id="x" * 100_000).SerializeToString()),
        ("Publish", large.SerializeToString()),
        ("Publish", deep.SerializeToString()),
        ("Nothing", bytes(100_000)),
    ]
    found = []
    with grpc.insecure_channel(f"127.0.0.1:{edge.options[GRPC_PORT]}") as channel:
        for method, data in wrong:
            call = channel.unary_stream(f"/sluicegate.v1.StreamService/{method}")
            try:
                list(call(data, timeout=60))
            except grpc.RpcError as error:
                found.append(error.code())
    return found


def test_wrong_calls_by_the_hundred_leave_less_behind_than_was_sent(edge):
    before_bytes = edge.rss_bytes  # 50 times 2.4 MB are sent
    for _ in range(50):
        assert list_wrong_calls(edge) == [
            *[StatusCode.INVALID_ARGUMENT] * 4,
            StatusCode.RESOURCE_EXHAUSTED,
            StatusCode.NOT_FOUND,  # a recording takes no events
            StatusCode.UNIMPLEMENTED,
        ]
    assert edge.rss_bytes - before_bytes < GRPC_READ_BYTES_MAX
