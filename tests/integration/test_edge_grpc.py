"""Streams over gRPC through a real edge and real Kafka: live, resumed, ended, sent away, gaps declared."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import orjson
import psutil
import pytest
from grpc import StatusCode

from schemas.cursor import decode_cursor
from schemas.proto.sluicegate.v1 import logs_pb2, stream_pb2
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub
from schemas.topics import INPUT, OUTPUT, partition_of
from tests.support.edge_process import ROOT
from tests.support.grpc_client import GrpcEdge, Watched, edge_with_grpc, read_call
from tests.support.sse_client import read_stream
from tests.support.stage import stage, twin

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["edge_with_grpc", "stage", "twin"]  # fixtures
pytestmark = pytest.mark.timeout(240)

NO_MEMORY = {"tail_recent_records": 0, "ring_events_max": 8}


def by_sse(edge: GrpcEdge, stream_id: str, last_id: str = "") -> Any:
    return read_stream(f"{edge.process.url}/v1/streams/{stream_id}/events", last_id=last_id)


def has(count: int) -> Callable[[Watched], bool]:
    return lambda watched: len(watched.events) >= count


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.parametrize("options", [{}, NO_MEMORY], ids=["from the ring", "from Kafka"])
def test_a_stream_is_the_same_over_grpc_and_sse_and_each_takes_the_others_cursors(
    edge_with_grpc, twin, options
):
    name = f"build-{len(options)}"
    stream = twin.open(name, title="a build")
    twin.logs(stream, 20)
    edge = edge_with_grpc(**options)
    later = threading.Timer(0.3, lambda: (twin.logs(stream, 20), twin.end(stream)))
    later.start()
    whole = edge.read(name)
    later.join()
    sse = by_sse(edge, name)
    assert whole.code is StatusCode.OK
    assert whole.seqs == list(range(42))
    assert (whole.cursors, whole.shown) == (sse.ids, sse.events)
    assert {(event.type, event.event_id) for event in whole.events} == {
        (event["type"], event["event_id"]) for event in sse.events
    }
    assert whole.events[7].time.ToJsonString() == sse.events[7]["time"]
    for seq in (0, 5, 20, 21, 39, 40):
        assert edge.read(name, sse.ids[seq]).cursors == sse.ids[seq + 1 :]
        assert by_sse(edge, name, whole.cursors[seq]).ids == whole.cursors[seq + 1 :]


def test_the_end_is_told_apart_from_a_close_and_nothing_follows_it(edge_with_grpc, twin):
    stream = twin.open("done")
    twin.logs(stream, 3)
    twin.end(stream, "upstream_error")
    edge = edge_with_grpc(**NO_MEMORY)
    whole = edge.read("done")
    end = whole.events[-1]
    assert (end.WhichOneof("control"), end.end.reason, end.end.events) == ("end", "upstream_error", 4)
    assert not end.end.HasField("exit_code")
    again = edge.read("done", end.cursor)
    assert (again.events, again.notices, again.code) == ([], [], StatusCode.OK)


def test_the_lines_of_a_job_what_befalls_them_and_that_it_is_done_are_all_that_watch_logs_gives(
    edge_with_grpc, twin
):
    """Whatever package a user's own .proto declares: the shape is older than this edge."""
    stream = twin.open("job-7")
    twin.logs(stream, 3)
    again = ("reset", {"from_seq": 3, "reason": "retry"})
    twin.write(stream, [("progress", {"done": 1, "total": 2}), again, ("log", {"line": ""})])
    edge = edge_with_grpc()
    later = threading.Timer(0.2, lambda: (twin.logs(stream, 1), twin.end(stream)))
    later.start()
    for service in ("sluicegate.v1.LogStream", "LogStream", "acme.jobs.LogStream"):
        watch_logs = edge.channel.unary_stream(
            f"/{service}/WatchLogs",
            request_serializer=logs_pb2.LogRequest.SerializeToString,
            response_deserializer=logs_pb2.LogEvent.FromString,
        )
        found = watch_logs(logs_pb2.LogRequest(job_id="job-7"), timeout=60)
        told = [(event.line, event.done) for event in found]
        assert told == [
            *((f"line {n}", False) for n in (1, 2, 3)),
            ("[sluicegate: what came from event 3 on is superseded by what follows (retry)]", False),
            ("", False),
            ("line 7", False),
            ("", True),
        ]
    later.join()
    found = edge.lines.WatchLogs(logs_pb2.LogRequest(job_id="job-7"), timeout=60)
    notes = [(event.seq, event.note, event.from_seq) for event in found]
    assert notes == [(1, 0, 0), (2, 0, 0), (3, 0, 0), (5, logs_pb2.LogEvent.NOTE_RESET, 3), *(
        (seq, 0, 0) for seq in (6, 7, 8)
    )]  # fmt: skip


def test_an_asyncio_client_whose_edge_is_killed_goes_on_where_it_was(edge_with_grpc, twin):
    stream = twin.open("killed")
    twin.logs(stream, 30)
    edge = edge_with_grpc(**NO_MEMORY)
    seen: list[int] = []
    codes: list[StatusCode] = []

    async def follow() -> None:
        cursor = ""
        async with grpc.aio.insecure_channel(edge.address) as channel:
            while True:
                asked = stream_pb2.WatchRequest(stream_id="killed", cursor=cursor)
                try:
                    async for response in StreamServiceStub(channel).Watch(asked, wait_for_ready=True):
                        for event in response.events:
                            seen.append(event.seq)
                            cursor = event.cursor
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code())
                    await asyncio.sleep(0.1)
                else:
                    return

    client = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(follow(), 120)))
    client.start()
    wait_until(lambda: len(seen) == 31, "the client has what was sent")
    edge.process.kill()
    twin.logs(stream, 20)
    edge.process.start()
    twin.end(stream)
    client.join()
    assert seen == list(range(52))
    assert codes == [StatusCode.UNAVAILABLE]


def test_a_drain_sends_watches_away_with_a_hint_and_none_misses_or_doubles_an_event(edge_with_grpc, twin):
    stream = twin.open("drained")
    twin.logs(stream, 5)
    edge = edge_with_grpc(drain_ms=2_000)
    call = edge.watch("drained")
    lines = edge.lines.WatchLogs(logs_pb2.LogRequest(job_id="drained"), timeout=60)
    first = next(call)
    assert next(lines).line == "line 1"
    wait_until(lambda: edge.open_watches == 2, "both watch")
    edge.process.process.send_signal(signal.SIGTERM)
    drained = read_call(call)
    assert drained.code is StatusCode.UNAVAILABLE
    (notice,) = drained.notices
    assert notice.reconnect.reason == "drain"
    assert drained.pushback_ms == notice.reconnect.retry_ms >= 1_000
    assert drained.problem.code == "drain"
    with pytest.raises(grpc.RpcError) as left:
        list(lines)
    assert left.value.code() is StatusCode.UNAVAILABLE
    assert edge.process.process.wait(30) == 0
    twin.logs(stream, 5)
    twin.end(stream)
    edge.process.start()
    seqs = [event.seq for event in first.events] + drained.seqs
    last = (list(first.events) + drained.events)[-1].cursor
    assert seqs + edge.read("drained", last).seqs == list(range(12))


def test_what_retention_took_is_a_gap_in_its_place(edge_with_grpc, twin):
    stream = twin.open("cut")
    twin.logs(stream, 20)
    twin.end(stream)
    edge = edge_with_grpc(**NO_MEMORY)
    whole = edge.read("cut")
    partition = partition_of(b"default/cut", OUTPUT.partitions)
    cut = decode_cursor(whole.cursors[12], "default", "cut").offset
    twin.delete_before(OUTPUT, partition, cut)
    edge.process.wait_for_low_offset(cut)
    edge.process.kill()
    edge.process.start()
    resumed = edge.read("cut", whole.cursors[3])
    gap = resumed.events[0]
    assert gap.WhichOneof("control") == "gap"
    assert (gap.gap.from_seq, gap.gap.to_seq, gap.gap.count, gap.gap.reason) == (4, 11, 8, "retention")
    assert resumed.seqs == [11, *range(12, 22)]
    assert edge.read("cut", gap.cursor).cursors == whole.cursors[12:]
    lines = [event.line for event in edge.lines.WatchLogs(logs_pb2.LogRequest(job_id="cut"), timeout=60)]
    assert lines == [
        "[sluicegate: 12 events are missing here (retention)]", *(f"line {n}" for n in range(12, 21)), "",
    ]  # fmt: skip


def test_a_client_that_leaves_is_let_go_at_once_and_its_stream_flows_on(edge_with_grpc, twin):
    stream = twin.open("left")
    edge = edge_with_grpc()
    stays = edge.watch("left")
    assert [event.seq for event in next(stays).events] == [0]
    cancelled, cut_off, timed_out = edge.watch("left"), edge.watch("left"), None
    next(cancelled), next(cut_off)
    timed_out = edge.streams.Watch(stream_pb2.WatchRequest(stream_id="left"), timeout=1.0)
    next(timed_out)
    cancelled.cancel()
    with pytest.raises(grpc.RpcError) as over:
        next(timed_out)
    assert over.value.code() is StatusCode.DEADLINE_EXCEEDED
    with grpc.insecure_channel(edge.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        next(StreamServiceStub(channel).Watch(stream_pb2.WatchRequest(stream_id="left")))
    wait_until(lambda: edge.open_watches == 2, "cancelled, timed out and cut off are let go")
    cut_off.cancel()
    twin.logs(stream, 2)
    twin.end(stream)
    assert [event.type for response in stays for event in response.events] == ["log", "log", "end"]
    assert [event for event in twin.records(INPUT) if event.stream_id == "left"] == [], "it cancels nothing"
    assert "call_failed" not in edge.process.log.read_text()


def test_a_watch_of_a_stream_that_is_not_there_yet_gets_signs_of_life(edge_with_grpc, twin):
    edge = edge_with_grpc(idle_heartbeat_ms=300)
    watched = edge.read("unborn", until=lambda seen: seen.beats == 3)
    assert (watched.beats, watched.events) == (3, [])
    assert edge.process.metric("sluicegate_edge_heartbeats_total") >= 3


def test_an_edge_that_has_enough_watches_says_when_to_come_back(edge_with_grpc, twin):
    twin.open("full")
    edge = edge_with_grpc(connections_max=2)
    held = [edge.watch("full") for _ in range(2)]
    for call in held:
        next(call)
    refused = edge.read("full")
    assert (refused.code, refused.problem.code) == (StatusCode.RESOURCE_EXHAUSTED, "overload")
    assert 2_000 <= refused.pushback_ms <= 4_000
    held[0].cancel()
    wait_until(lambda: edge.open_watches == 1, "a place is free again")
    assert edge.read("full", until=has(1)).seqs == [0]


def test_clients_that_do_not_read_pin_a_write_each_and_are_given_up_while_others_have_all(
    edge_with_grpc, twin
):
    """Eight of them and 20 MB: what is not read must not be in the edge's memory."""
    stream = twin.open("slow")
    little = {"ring_bytes_max": 2_000_000, "rings_bytes_max": 4_000_000, "history_cache_bytes_max": 2_000_000}
    edge = edge_with_grpc(write_stall_ms_max=3_000, **little)
    lines = [("log", {"line": "x" * 4_000})] * 500
    for _ in range(10):  # what the same load costs without them
        twin.write(stream, lines)
    assert edge.read("slow", until=has(5_001)).seqs == list(range(5_001))
    before = memory_mb(edge)
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(edge.address, options=own) for _ in range(8)]
    calls = [StreamServiceStub(each).Watch(stream_pb2.WatchRequest(stream_id="slow")) for each in channels]
    for call in calls:
        next(call)
    got: list[int] = []
    reader = threading.Thread(target=lambda: got.extend(edge.read("slow").seqs))
    reader.start()
    for _ in range(10):
        twin.write(stream, lines)
    twin.end(stream)
    reader.join()
    assert got == list(range(10_002))
    pinned = memory_mb(edge) - before
    stalled = 'sluicegate_edge_connections_closed_total{reason="stalled",transport="grpc"}'
    wait_until(lambda: edge.open_watches == 0, "those that read nothing are given up")
    assert edge.process.metric(stalled) == 8
    for call in calls:
        assert read_call(call).code is StatusCode.UNAVAILABLE
    assert pinned < 150, "eight that keep 40 MB each would be 320 MB"
    for channel in channels:
        channel.close()


def memory_mb(edge: GrpcEdge) -> float:
    return psutil.Process(edge.process.process.pid).memory_info().rss / 1e6


def test_the_client_of_the_documentation_shows_every_line_once_though_its_edge_is_killed(
    edge_with_grpc, twin, tmp_path
):
    stream = twin.open("build-42")
    twin.logs(stream, 5)
    edge = edge_with_grpc(**NO_MEMORY)
    shown = tmp_path / "shown"
    with shown.open("wb") as out:
        client = subprocess.Popen(
            [sys.executable, ROOT / "docs/examples/grpc_watch.py", edge.address, "build-42"],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    wait_until(lambda: "line 5" in shown.read_text(), "it shows what there is")
    edge.process.kill()
    twin.logs(stream, 5)
    edge.process.start()
    twin.end(stream)
    assert client.wait(60) == 0
    lines = [f"line {number}" for number in range(1, 11)]
    assert shown.read_text().splitlines() == [*lines, "--- ended: completed"]


def test_json_of_an_event_is_what_its_message_says(edge_with_grpc, twin):
    stream = twin.open("typed")
    twin.write(stream, [("media", {"data": b"\x00\xff", "mime": "image/png"})])
    twin.end(stream)
    edge = edge_with_grpc()
    media = edge.read("typed").events[1]
    assert orjson.loads(media.json)["data"] == "AP8="
    assert (media.seq, media.type) == (1, "media")
