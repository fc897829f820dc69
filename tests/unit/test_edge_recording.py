"""Recordings: what is written is read again, what is broken is named by line, and an edge plays one alone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING

import httpx2
import orjson
import psutil
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from edge.options import EdgeOptions
from edge.recorded import Playing, create_replay_app
from edge.server import bind, run, serve, url_of
from schemas.published import time_from_text
from schemas.recording import BadRecording, RecordedEvent, RecordingHeader, read_recording
from tests.support.sse_client import read_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = RecordingHeader("default", "build-7", "log", "2026-11-23T00:00:00Z")


def recorded(seq: int, type_name: str = "log", at_ms: int | None = None, **payload: object) -> RecordedEvent:
    return RecordedEvent(
        at_ms=seq * 20 if at_ms is None else at_ms,
        event_id=f"e-{seq}",
        type=type_name,
        seq=seq,
        time="2026-11-23T00:00:00.000001Z",
        payload=payload or {"line": f"line {seq}"},
    )


EVENTS = [
    recorded(0, "open", title="a build"),
    *map(recorded, range(1, 40)),
    recorded(40, "end", reason="completed"),
]

SCALARS = (
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
JSON = st.recursive(
    st.one_of(*SCALARS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.dictionaries(st.text(), JSON, max_size=4)), max_size=5))
def test_what_is_written_is_read_again(parts):
    at_ms = 0
    events = []
    for seq, (wait_ms, payload) in enumerate(parts):
        at_ms += wait_ms
        events.append(
            RecordedEvent(
                at_ms, f"e{seq}", "log", seq, "2026-11-23T00:00:00Z", payload, {"source": "me"}, 1, 2
            )
        )
    lines = [HEADER.line(), *(event.line() for event in events)]
    assert all(line.count(b"\n") == 1 for line in lines)
    recording = read_recording(lines, "a file")
    assert recording.header == HEADER
    assert list(recording.events) == events


def line(**changed: object) -> bytes:
    fields = orjson.loads(recorded(1).line()) | changed
    return orjson.dumps({name: value for name, value in fields.items() if value != "MISSING"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "f:1: is not JSON"),
        ([b"{}"], "f:1: is no recording"),
        ([b'{"sluicegate_recording":2}'], "f:1: is of format 2"),
        ([HEADER.line().replace(b"build-7", b"build 7")], "f:1: stream_id"),
        ([HEADER.line().replace(b'"log"', b'"LOG"')], "f:1: kind"),
        ([HEADER.line(), b"{"], "f:2: is not JSON"),
        ([HEADER.line(), b"[]"], "f:2: is not a JSON object"),
        ([HEADER.line(), line(), b"", line(seq=1)], "f:4: seq does not grow: 1, then 1"),
        ([HEADER.line(), line(at_ms=5), line(at_ms=4, seq=2)], "f:3: at_ms goes back from 5 to 4"),
        ([HEADER.line(), line(at_ms=-1)], "f:2: at_ms: must be a whole number"),
        ([HEADER.line(), line(at_ms="MISSING")], "f:2: at_ms: must be a whole number"),
        ([HEADER.line(), line(time="noon")], "f:2: time: "),
        ([HEADER.line(), line(type="No Type")], "f:2: type"),
        ([HEADER.line(), line(payload="x")], "f:2: payload: must be an object"),
        ([HEADER.line(), line(event_id=7)], "f:2: event_id: must be a string"),
        ([HEADER.line(), b"x" * 5_000_000], "f:2: is longer than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_line_that_is_wrong_is_named(lines, said):
    with pytest.raises(BadRecording) as bad:
        list(read_recording(lines, "f").events)
    assert str(bad.value).startswith(said)
    assert bad.value.remedy


@pytest.fixture
def play() -> Iterator[object]:
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None], threading.Thread]] = []

    def start(
        playing: Playing, events: list[RecordedEvent] = EVENTS, options: EdgeOptions | None = None
    ) -> str:
        listening: socket.socket = bind("127.0.0.1", 0)
        ready = threading.Event()
        loop = asyncio.new_event_loop()
        loop.add_signal_handler = lambda *_: None  # type: ignore[method-assign]  # no main thread here
        app = create_replay_app(HEADER, events, playing, options)
        task = loop.create_task(serve(app, listening, on_listening=ready.set))
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        running.append((loop, task, thread))
        assert ready.wait(10)
        return url_of(listening)

    yield start
    for loop, _, thread in running:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def test_an_edge_plays_a_recording_with_nothing_else_running_in_its_cadence(play):
    url = play(Playing(speed=2))
    seen = read_stream(f"{url}/v1/streams/build-7/events")
    # 800 ms of recording, twice as fast; and nothing is given before its time.
    times_us = [time_from_text(event["time"]) for event in seen.events]
    assert [at - times_us[0] for at in times_us] == [seq * 10_000 for seq in range(41)]
    assert time.time_ns() // 1_000 >= times_us[-1]
    assert seen.seqs == list(range(41))
    assert [event["line"] for event in seen.events[1:-1]] == [f"line {n}" for n in range(1, 40)]
    assert seen.events[0]["title"] == "a build"
    assert seen.closed
    # Late, resumed and finished clients are treated as by an edge on Kafka.
    assert read_stream(f"{url}/v1/streams/build-7/events").ids == seen.ids
    assert read_stream(f"{url}/v1/streams/build-7/events", last_id=seen.ids[10]).ids == seen.ids[11:]
    assert read_stream(f"{url}/v1/streams/build-7/events", last_id=seen.last_id).status == 204
    (listed,) = httpx2.get(f"{url}/v1/streams", trust_env=False, verify=False).json()["streams"]
    assert (listed["title"], listed["reason"], listed["last_seq"]) == ("a build", "completed", 40)
    assert httpx2.get(f"{url}/readyz", trust_env=False, verify=False).status_code == 200
    assert "sluicegate" in httpx2.get(f"{url}/console", trust_env=False, verify=False).text
    assert httpx2.post(f"{url}/v1/streams/build-7/events", trust_env=False, verify=False).status_code == 405


def test_a_type_that_this_installation_does_not_know_is_played_too(play):
    events = [
        recorded(0, "open", title="x"),
        recorded(1, "gauge", celsius=21.5),
        recorded(2, "end", reason="completed"),
    ]
    url = play(Playing(speed=0), events)
    seen = read_stream(f"{url}/v1/streams/build-7/events")
    assert seen.events[1]["celsius"] == 21.5


def test_an_edge_is_served_on_uvloop(monkeypatch):
    loops: list[asyncio.AbstractEventLoop] = []

    async def look(*_: object, **__: object) -> None:
        loops.append(asyncio.get_running_loop())

    monkeypatch.setattr("edge.server.serve", look)
    with bind("127.0.0.1", 0) as listening:
        run(create_replay_app(HEADER, EVENTS), listening)
    assert isinstance(loops[0], uvloop.Loop)


def test_a_client_that_stops_reading_at_the_end_of_a_stream_is_given_up_and_its_socket_with_it(play):
    """All of the stream goes out in one write, so what waits for the client is the end of the answer."""
    options = EdgeOptions(write_stall_ms_max=300, write_bytes_max=1 << 30, ring_bytes_max=1 << 30)
    events = [recorded(seq, at_ms=0, line="x" * 100_000) for seq in range(160)]
    url = play(Playing(speed=0), [*events, recorded(160, "end", at_ms=0, reason="completed")], options)
    port = int(url.rpartition(":")[2])

    def held() -> bool:
        """Whether this process still has the server's end of a connection."""
        connections = psutil.Process().net_connections("tcp4")
        return any(one.laddr.port == port and one.raddr for one in connections)

    with socket.create_connection(("127.0.0.1", port)) as deaf:
        deaf.sendall(b"GET /v1/streams/build-7/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert deaf.recv(10).startswith(b"HTTP/1.1")
        assert held()
        deadline = time.monotonic() + 60
        while held():
            assert time.monotonic() < deadline, "the socket is never let go of"
            time.sleep(0.05)
    text = httpx2.get(f"{url}/metrics", trust_env=False, verify=False).text
    assert 'sluicegate_edge_connections_closed_total{reason="stalled",transport="sse"} 1.0' in text
    assert read_stream(f"{url}/v1/streams/build-7/events").seqs == list(range(161))


def test_a_client_that_reads_slowly_is_not_given_up(play):
    options = EdgeOptions(write_stall_ms_max=1_000, write_bytes_max=1 << 30, ring_bytes_max=1 << 30)
    events = [recorded(seq, at_ms=0, line="x" * 100_000) for seq in range(400)]
    url = play(Playing(speed=0), [*events, recorded(400, "end", at_ms=0, reason="completed")], options)
    received = b""
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as slow:
        slow.sendall(b"GET /v1/streams/build-7/events HTTP/1.0\r\nHost: localhost\r\n\r\n")
        while chunk := slow.recv(1 << 20):
            received += chunk
            time.sleep(0.1)
    assert b'"reason":"completed"' in received


def test_a_long_recording_is_given_whole_from_memory(play):
    events = [recorded(seq, at_ms=0) for seq in range(30_000)] + [
        recorded(30_000, "end", at_ms=0, reason="completed")
    ]
    url = play(Playing(speed=0), events)
    assert read_stream(f"{url}/v1/streams/build-7/events").seqs == list(range(30_001))
