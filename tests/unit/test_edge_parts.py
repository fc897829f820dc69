"""The small parts of the edge, each by itself."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bodies import JSON, NDJSON, read_body, split_body
from edge.encode import FrameJson
from edge.errors import NetworkRefused, PortInUse, RequestError
from edge.frame import frame_of
from edge.guard import Guard
from edge.options import EdgeOptions, is_loopback
from edge.rejects import RejectBook, Verdict
from edge.server import bind
from edge.sse import REFUSED_ID, SseEncoder, jittered, said
from edge.waiters import Waiters
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.errors import ContractError
from schemas.payloads import PayloadCodec
from schemas.published import event_from_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAYLOADS = PayloadCodec(LocalSchemas())


def event(line: str = "hello", seq: int = 7) -> Event:
    body, schema_id = PAYLOADS.encode("log", {"line": line})
    names = ("source", "request_id", "task_id", "upstream_id", "traceparent")
    return Event(
        event_id="e-1",
        tenant="default",
        stream_id="s",
        seq=seq,
        kind="log",
        type="log",
        time=1_700_000_000_000_000,
        **dict.fromkeys(names, ""),
        epoch=0,
        attempt=0,
        payload=body,
        payload_schema=schema_id,
    )


# ------------------------------------------------------------------ the wire


@given(st.text())
def test_whatever_a_line_holds_it_is_one_frame_with_one_data_line_and_the_same_text(line):
    frame = frame_of(event(line), topic_version=1, partition=2, offset=3, read_ms=0)
    text = SseEncoder(FrameJson(PAYLOADS)).encode([frame])
    lines = text.split(b"\n")
    assert [part.partition(b": ")[0] for part in lines] == [b"id", b"data", b"", b""]
    shown = orjson.loads(lines[1].removeprefix(b"data: "))
    assert shown["line"] == line
    assert list(shown)[:3] == ["type", "seq", "time"]
    assert b"\r" not in text


def test_an_event_is_encoded_once_for_all_who_are_given_it():
    calls = []

    class Counting(PayloadCodec):
        def decode(self, schema_id: int, body: bytes) -> dict[str, Any]:
            calls.append(schema_id)
            return super().decode(schema_id, body)

    encoder = SseEncoder(FrameJson(Counting(LocalSchemas())))
    frame = frame_of(event(), topic_version=1, partition=2, offset=3, read_ms=0)
    assert {encoder.encode([frame]) for _ in range(10)} == {frame.sse}
    assert len(calls) == 1


def test_a_payload_that_cannot_be_read_is_a_gap_of_one_in_its_place():
    broken = event()._replace(payload=b"\xff\xff\xff")
    frame = frame_of(broken, topic_version=1, partition=2, offset=3, read_ms=0)
    encoder = FrameJson(PAYLOADS)
    shown = orjson.loads(encoder.json(frame))
    assert (shown["type"], shown["from_seq"], shown["to_seq"], shown["reason"]) == ("gap", 7, 7, "unreadable")
    assert encoder.unreadable == 1


def test_what_is_said_of_a_connection_has_no_id_unless_the_client_is_to_keep_it():
    assert said({"type": "reconnect"}) == b'data: {"type":"reconnect"}\n\n'
    assert said({"type": "refused"}, last_id=REFUSED_ID) == b'id: refused\ndata: {"type":"refused"}\n\n'


def test_retry_hints_are_spread():
    hints = {jittered(1_000) for _ in range(200)}
    assert min(hints) >= 1_000
    assert max(hints) <= 2_000
    assert len(hints) > 100


# ------------------------------------------------------------------ bodies


async def in_chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def refusal(body: bytes, content_type: str) -> RequestError:
    with pytest.raises(RequestError) as refused:
        split_body(body, content_type, 3)
    return refused.value


def test_one_object_an_array_and_lines_are_taken_with_the_place_of_each():
    assert split_body(b'{"a":1}', "application/json", 3) == [({"index": 0}, {"a": 1})]
    assert split_body(b"[1,2]", "application/json; charset=UTF-8", 3) == [
        ({"index": 0}, 1),
        ({"index": 1}, 2),
    ]
    assert split_body(b'\n{"a":1}\r\n\n2\n', "application/x-ndjson", 3) == [
        ({"line": 2}, {"a": 1}),
        ({"line": 4}, 2),
    ]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "extra"),
    [
        pytest.param(b"{", "application/json", 400, {"line": 1, "column": 2}, id="broken JSON"),
        pytest.param(
            b'{"a":1}\n{"a":', "application/x-ndjson", 400, {"line": 2, "column": 6}, id="broken line"
        ),
        pytest.param(b"{}\n\xff", "application/x-ndjson", 400, {"line": 2, "column": 1}, id="not UTF-8"),
        pytest.param(b"", "application/json", 400, {}, id="nothing"),
        pytest.param(b"[]", "application/json", 400, {}, id="no events"),
        pytest.param(b" \n ", "application/x-ndjson", 400, {}, id="no lines"),
        pytest.param(b"{}", "application/cloudevents-batch+json", 400, {}, id="one event as a batch"),
        pytest.param(b"[]", "application/cloudevents+json", 400, {}, id="a batch as one event"),
        pytest.param(b"[1,2,3,4]", "application/json", 413, {}, id="too many"),
        pytest.param(b"{}", "", 415, {}, id="no content type"),
        pytest.param(b"{}", "text/plain", 415, {}, id="text"),
        pytest.param(b"{}", "application/json; charset=latin-1", 415, {}, id="latin-1"),
    ],
)
def test_a_body_that_is_no_list_of_events_is_refused_with_its_place(body, content_type, status, extra):
    error = refusal(body, content_type)
    assert error.status == status
    assert extra.items() <= error.extra.items()


def test_a_nest_of_brackets_is_refused_and_not_followed():
    assert refusal(b"[" * 100_000, "application/json").status == 400


@pytest.mark.parametrize(
    ("content_type", "more"), [(JSON[0], b"[%b0]" % (b"0," * 300_000)), (NDJSON[0], b"0\n" * 300_000)]
)
def test_of_many_more_events_than_a_request_may_hold_not_each_is_noted(content_type, more):
    tracemalloc.start()
    try:
        assert refusal(more, content_type).status == 413
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 32 * len(more)  # with their places it was 150 times as much


WHOLE = [
    b'{"type": "log", "payload": {"line": "x"}}',
    b'[{"type": "open"}, {"type": "end", "payload": {"reason": "completed"}}]',
    b'{"type": "log"}\n{"type": "token", "payload": {"text": "\\ud83d\\ude00"}}\n',
    b'{"specversion": "1.0", "id": "e", "source": "/s", "type": "sluicegate.log.log.v1", "data": {}}',
]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A good body with bytes cut out, doubled or put in."""
    text = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 5))):
        at, width = draw(st.integers(0, len(text))), draw(st.integers(0, 12))
        put = [b"", b"[", b"{", b'"', b"\n", b"null", b"1e999", b"\xff", bytes(text[at : at + width]) * 2]
        text[at : at + width] = draw(st.binary(max_size=6) | st.sampled_from(put))
    return bytes(text)


@given(
    body=spoilt() | st.binary(max_size=80),
    content_type=st.sampled_from([*JSON, *NDJSON, "application/json; charset=utf-8"]) | st.text(max_size=20),
)
def test_whatever_a_body_holds_it_is_events_or_refused_by_name(body, content_type):
    with suppress(RequestError, ContractError):  # each names what is wrong
        for _, value in split_body(body, content_type, 3):
            event_from_json(value, stream_id="s", kind="log", payloads=PAYLOADS, now_us=1)


def test_a_body_that_is_too_large_is_refused_before_the_rest_of_it_is_read():
    read = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            read.append(1)
            yield b"x" * 1_000

    with pytest.raises(RequestError) as refused:
        asyncio.run(read_body(endless(), {}, 10_000))
    assert (refused.value.status, len(read)) == (413, 11)
    with pytest.raises(RequestError):
        asyncio.run(read_body(endless(), {"content-length": "10001"}, 10_000))
    assert len(read) == 11
    assert asyncio.run(read_body(in_chunks(b"y" * 10_000, 999), {}, 10_000)) == b"y" * 10_000


def test_a_compressed_body_is_refused_as_such():
    with pytest.raises(RequestError) as refused:
        asyncio.run(read_body(in_chunks(b"x", 1), {"content-encoding": "gzip"}, 10))
    assert refused.value.status == 415


# ------------------------------------------------------------------ who may ask


def ask(method: str, host: str, origin: str | None = None, allowed: tuple[str, ...] = ()) -> int:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", host.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    scope = {"type": "http", "method": method, "headers": headers, "path": "/"}
    asyncio.run(Guard(app, allowed_hosts=allowed)(scope, None, send))  # type: ignore[arg-type]
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8600", "127.0.0.1:1", "[::1]:8600", "x.localhost:80"]
)
def test_loopback_names_are_ours(host):
    assert ask("GET", host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "", "localhost.evil.example", "10.0.0.1", "[", "127.0.0.1.nip.io"],
    ids=["name", "name and port", "none", "prefix", "address", "broken", "address in a name"],
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(host):
    assert ask("GET", host) == 421


def test_a_configured_name_is_ours():
    assert ask("GET", "Edge.internal:8600", allowed=("edge.internal",)) == 200


def test_a_page_of_another_site_may_not_change_anything():
    assert ask("POST", "localhost:8600", "http://evil.example") == 403
    assert ask("POST", "localhost:8600", "http://localhost:3000") == 403
    assert ask("POST", "localhost:8600", "null") == 403
    assert ask("POST", "localhost:8600", "http://[") == 403
    assert ask("POST", "localhost:8600", "http://localhost:8600") == 200
    assert ask("POST", "localhost:8600") == 200


# ------------------------------------------------------------------ where it listens


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "10.0.0.1"])
def test_an_address_that_strangers_reach_is_refused_unless_it_is_allowed(host):
    with pytest.raises(NetworkRefused, match="does not bind"):
        EdgeOptions(host=host).checked()
    assert EdgeOptions(host=host, allow_network=True).checked().host == host
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"])
def test_loopback_is_bound_without_asking(host):
    assert EdgeOptions(host=host).checked()


def test_a_port_in_use_is_named():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(PortInUse, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            bind("127.0.0.1", port)


# ------------------------------------------------------------------ verdicts


def verdict(event_id: str, name: str = "duplicate", read_s: float = 0.0) -> Verdict:
    return Verdict(event_id, -1, "log", name, "", 0, read_s)


def test_verdicts_are_held_within_their_bounds_newest_first():
    book = RejectBook(per_stream_max=3, total_max=5, ttl_ms=1_000)
    for number in range(5):
        book.add(b"a", verdict(f"a{number}", read_s=number))
    assert [one.event_id for one in book.of(b"a")] == ["a4", "a3", "a2"]
    for number in range(3):
        book.add(b"b", verdict(f"b{number}", read_s=10))
    assert (len(book), book.of(b"a")) == (3, [])
    book.sweep(10.5)
    assert len(book) == 3
    book.sweep(11.5)
    assert (len(book), book.of(b"b")) == (0, [])


def test_a_publisher_hears_of_each_event_once_and_leaves_nothing_behind():
    async def play() -> None:
        waiters = Waiters(3)
        wait = waiters.add(b"k", ["one", "two"])
        assert waiters.room_for(1)
        assert not waiters.room_for(2)
        waiters.rejected(b"other", verdict("one"))
        assert wait.answers == {}
        waiters.rejected(b"k", verdict("one", "late"))
        waiters.rejected(b"k", verdict("one", "duplicate"))
        assert not wait.done.done()
        waiters.accepted(
            b"k",
            0,
            frame_of(event()._replace(event_id="two"), topic_version=1, partition=0, offset=4, read_ms=0),
        )
        await wait.done
        assert wait.answers["one"]["verdict"] == "late"
        assert wait.answers["two"] | {"cursor": ""} == {
            "verdict": "accepted",
            "seq": 7,
            "partition": 0,
            "offset": 4,
            "cursor": "",
        }
        waiters.remove(b"k", wait, ["one", "two"])
        assert waiters.room_for(3)
        assert not waiters.any

    asyncio.run(play())
