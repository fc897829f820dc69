"""What strangers send to an edge's port: each is answered or closed, nothing leaks, and nothing grows."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.shown_edge import ShownEdge, check_let_go, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)

HOST = b"Host: localhost\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
STREAM = b"GET /v1/streams/one/events HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
CHUNKED = b"POST /v1/streams/one/cancel HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
HEAD_S = 0.25


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Iterator[ShownEdge]:
    log = tmp_path_factory.mktemp("hostile") / "edge.log"
    with ShownEdge(log, {"header_read_ms_max": int(HEAD_S * 1_000)}) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(edge) -> Iterator[None]:
    yield
    check_let_go(edge, "ASGI", "Invalid HTTP")
    assert edge.said(LAST).startswith(b"HTTP/1.1 200 ")


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"(?:\A|[^\n])HTTP/1\.1 (\d{3}) ", answer)]


def request(
    *headers: bytes, start: bytes = b"POST /v1/streams/one/cancel HTTP/1.1", body: bytes = b""
) -> bytes:
    return b"\r\n".join([start, b"Host: localhost", *headers, b"", body])


SMUGGLED = b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"
MALFORMED = {
    "both lengths": request(
        b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "two lengths": request(b"Content-Length: 0", b"Content-Length: 50", body=SMUGGLED),
    "a signed length": request(b"Content-Length: +5", body=b"abcde"),
    "a negative length": request(b"Content-Length: -5"),
    "a length in hex": request(b"Content-Length: 0x5", body=b"abcde"),
    "a length beyond 64 bits": request(b"Content-Length: 99999999999999999999999"),
    "chunked, then more": request(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED),
    "nearly chunked": request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "a space before the colon": request(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "a folded line": request(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "one bare line feed": b"GET /healthz HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
    "a bare carriage return": b"GET /healthz HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n",
    "a chunk's line feed": CHUNKED + b"1\nx\n0\n\n",
    "a chunk that is no number": CHUNKED + b"zz\r\n",
    "a chunk beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n",
    "a chunk that is longer than it says": CHUNKED + b"1\r\nxyz\r\n0\r\n\r\n",
    "a NUL in a value": request(b"X: a\x00b"),
    "a NUL in a name": request(b"X\x00: a"),
    "a NUL in the address": b"GET /health\x00z HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes beyond ASCII in the address": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "two hosts": request(b"Host: evil.example", start=b"GET /healthz HTTP/1.1"),
    "a tunnel": b"CONNECT localhost:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET /healthz HTTP/3.7\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("16030100c2010000be0303") + b"\x00" * 200,
    "no name of a header": request(b": value"),
    "no method": b" /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_or_means_two_things_is_answered_400_once_and_closed(edge, name):
    assert statuses(edge.said(MALFORMED[name])) == [400]


def test_what_is_well_formed_and_strange_has_its_answer(edge):
    close = b"Connection: close"
    assert statuses(edge.said(request(close, start=b"OPTIONS * HTTP/1.1"))) == [404]
    assert statuses(edge.said(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")) == [421]
    assert statuses(
        edge.said(b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    ) == [421]
    encoded = request(close, start=b"GET /v1/streams/%ff%00%0d%0aX-Injected:%20y/events HTTP/1.1")
    answer = edge.said(encoded)
    assert statuses(answer) == [400]
    assert b"\r\nX-Injected" not in answer
    # A proxy's form of an address: the host that counts is the header's.
    assert statuses(edge.said(request(close, start=b"GET http://evil.example/healthz HTTP/1.1"))) == [200]
    assert statuses(edge.said(request(close, b"Upgrade: h2c", start=b"GET /healthz HTTP/1.1"))) == [200]
    trailer = (
        CHUNKED.replace(b"chunked\r\n", b"chunked\r\nConnection: close\r\n") + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"
    )
    assert statuses(edge.said(trailer)) == [404]  # a recording takes no cancel


# -- several requests on one connection -----------------------------------------------------------------


def test_requests_in_a_row_are_answered_in_their_order(edge):
    assert statuses(edge.said(HEALTH * 50 + LAST)) == [200] * 51


def test_more_requests_in_a_row_than_may_wait_are_answered_as_far_as_they_may_and_the_last_closes(edge):
    answer = edge.said(HEALTH * 200)
    assert statuses(answer) == [200] * 65  # one, and those behind it
    last = answer[answer.rindex(b"HTTP/1.1 200 ") :]
    assert b"\r\nconnection: close\r\n" in last


def test_requests_without_an_end_in_a_row_cost_no_memory_and_keep_nobody_waiting(edge):
    before_bytes, flood = edge.rss_bytes, b"GET / HTTP/1.1\r\n\r\n" * 14_000
    clients = [edge.connect() for _ in range(40)]
    try:
        for client in clients:
            client.settimeout(0)
            with suppress(BlockingIOError, ConnectionError):
                client.send(flood)
        assert edge.said(LAST).startswith(b"HTTP/1.1 200 ")
        assert edge.rss_bytes - before_bytes < 32 << 20
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("behind", [b"", HEALTH, HEALTH * 3, STREAM, b"\x00\xff", CHUNKED + b"zz\r\n"])
@pytest.mark.parametrize("before", [b"", HEALTH, HEALTH * 3])
def test_a_stream_is_the_last_answer_of_its_connection_whatever_was_asked_for_behind_it(edge, before, behind):
    with edge.connect() as client:
        client.sendall(before + STREAM)
        answer = read_until(client, b'"seq":0')
        with suppress(ConnectionError):
            client.sendall(behind)  # once it streams nobody listens any more
            client.settimeout(0.3)
            with suppress(TimeoutError):
                answer += client.recv(65_536)
        assert statuses(answer) == [200] * (before.count(b"GET") + 1)
        assert answer.count(b'"seq":0') == 1


@pytest.mark.parametrize("behind", [HEALTH, HEALTH * 3, STREAM])
def test_a_stream_has_its_answer_alone_though_more_was_read_with_its_request(edge, behind):
    with edge.connect() as client:
        client.sendall(HEALTH + STREAM + behind)
        answer = read_until(client, b'"seq":0')
        client.settimeout(0.5)
        with suppress(TimeoutError):
            answer += client.recv(65_536)
        assert statuses(answer) == [200, 200]
        assert answer.count(b'"seq":0') == 1


def test_a_stream_behind_answers_that_its_client_does_not_take_is_held_back_as_any_other(tmp_path):
    asked = request(b"Connection: close", start=b"GET /v1/connections HTTP/1.1")
    page = request(start=b"GET /console/console.js HTTP/1.1")

    def shown() -> list[dict[str, int]]:
        for client in clients:
            with suppress(TimeoutError):
                client.recv(16_384)
        found: list[dict[str, int]] = json.loads(edge.said(asked).partition(b"\r\n\r\n")[2])["connections"]
        return found

    with ShownEdge(tmp_path / "edge.log", lines=3_000) as edge:
        clients = [socket.socket() for _ in range(12)]
        for number, client in enumerate(clients):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(("127.0.0.1", edge.port))
            client.settimeout(0.01)
            client.sendall(page * (30 + number) + STREAM)  # after some of them the kernel has room, or none
        until(lambda: len(shown()) == len(clients), "their streams")
        assert max(one["bytes_pending"] for one in shown()) < 2 << 20, "of 12 MB"
        for client in clients:
            client.close()


def test_a_client_that_breaks_off_amid_answers_in_a_row_is_no_failure_of_the_edge(edge):
    for number in range(20):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(("127.0.0.1", edge.port))
            client.sendall(request(start=b"GET /console/console.js HTTP/1.1") * (30 + number))
            assert client.recv(4_096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset


def test_what_is_malformed_behind_a_request_is_never_taken_for_that_requests_answer(edge):
    answer = edge.said(HEALTH + b"\x00 nonsense\r\n\r\n")
    assert statuses(answer) in ([], [200], [200, 400])  # closed at once, or answered first


def read_until(client: socket.socket, text: bytes) -> bytes:
    answer = b""
    while text not in answer:
        data = client.recv(65_536)
        assert data, f"closed after {answer!r}"
        answer += data
    return answer


# -- more than there is room for, and slower than there is time -----------------------------------------


def endless(edge: ShownEdge, start: bytes, more: bytes, bytes_max: int = 64 << 20) -> tuple[bytes, int]:
    """Send a start and then more of the same until the edge has enough; give its answer, and what went."""
    sent = 0
    with edge.connect() as client:
        client.sendall(start)
        with suppress(ConnectionError):
            while sent < bytes_max:
                client.sendall(more)
                sent += len(more)
        answer = b""
        with suppress(ConnectionError):
            while data := client.recv(65_536):
                answer += data
    return answer, sent


ENDLESS = {
    "an address": (b"GET /", b"a" * 8_192),
    "a header": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"a" * 8_192),
    "headers": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * 1_000),
    "an extension of a chunk": (CHUNKED + b"1;x=", b"a" * 8_192),
    "chunks with extensions": (CHUNKED, b"1;" + b"x" * 200 + b"\r\na\r\n"),
    "a trailer": (CHUNKED + b"0\r\nX: ", b"a" * 8_192),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 1_000),
    "empty lines": (b"", b"\r\n" * 4_096),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end_is_ended_and_costs_no_memory(edge, what):
    before_bytes = edge.rss_bytes
    start, more = ENDLESS[what]
    answer, sent = endless(edge, start, more)
    # What the kernel holds on its way is sent, too.
    assert sent < 32 << 20
    assert set(statuses(answer)) <= {404, 408, 431}
    assert edge.rss_bytes - before_bytes < 16 << 20


def test_a_head_that_drips_is_given_up_and_so_is_a_body_that_nobody_reads(edge):
    for start in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", CHUNKED):
        answer, ended = b"", time.monotonic() + 30
        with edge.connect() as client:
            client.sendall(start)
            client.settimeout(0.05)
            with suppress(ConnectionError):
                while time.monotonic() < ended:
                    client.sendall(b"1\r\na\r\n" if start == CHUNKED else b"a")
                    with suppress(TimeoutError):
                        if not (data := client.recv(65_536)):
                            break
                        answer += data
        assert time.monotonic() < ended
        assert statuses(answer) in ([404], [408])


def test_a_client_that_only_closes_its_own_half_is_let_go_of(edge):
    for said in (b"", b"GET /hea", CHUNKED, CHUNKED + b"5\r\nab", STREAM):
        edge.said(said, half_close=True)
    until(lambda: edge.sockets == 0, "every connection let go of")


def test_many_that_say_nothing_are_given_up(edge):
    silent = [edge.connect() for _ in range(300)]
    until(lambda: edge.sockets == 0, "all of them closed")
    for client in silent:
        client.close()


# -- chance ---------------------------------------------------------------------------------------------

WHOLE = [HEALTH, STREAM, LAST, CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", request(b"Content-Length: 2", body=b"{}")]
WHOLE += list(MALFORMED.values())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Good and bad requests in a row, with bytes flipped, cut out, doubled or put in."""
    text = bytearray(b"".join(draw(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(text)))
        width = draw(st.integers(0, 20))
        change = draw(st.sampled_from(["flip", "cut", "double", "put"]))
        if change == "flip" and at < len(text):
            text[at] ^= draw(st.integers(1, 255))
        elif change == "cut":
            del text[at : at + width]
        elif change == "double":
            text[at:at] = text[at : at + width]
        else:
            text[at:at] = draw(
                st.binary(max_size=20) | st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n", b"\x00", b":"])
            )
    return bytes(text)


@given(
    text=mutated() | st.binary(max_size=400),
    cuts=st.lists(st.integers(0, 400), max_size=4),
    ends=st.booleans(),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_sent_it_is_answered_or_closed(edge, text, cuts, ends):
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    parts = [text[start:stop] for start, stop in pairwise(places)]
    # A client that says no more is let go of at once, one that waits in its time. To wait in vain raises.
    answer = edge.said(*parts, half_close=True) if ends else edge.said(*parts, until=b"HTTP/1.1 ")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert 500 not in statuses(answer)
