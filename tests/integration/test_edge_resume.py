"""Streams out of real Kafka through a real edge process: live, resumed, late, ended, with gaps declared."""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from typing import TYPE_CHECKING

import httpx2
import pytest

from schemas.cursor import Cursor, decode_cursor
from schemas.topics import OUTPUT, partition_of
from tests.support.sse_client import Seen, read_stream
from tests.support.stage import make_edge, stage, twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.edge_process import EdgeProcess

__all__ = ["make_edge", "stage", "twin"]  # fixtures
pytestmark = pytest.mark.timeout(240)

# Nothing of the past is in memory: whatever a client gets of it comes out of Kafka.
NO_MEMORY = {"tail_recent_records": 0, "ring_events_max": 8}
_AHEAD = 50_000_000
"""An offset that no log of these tests comes to."""
_NUMBERS = count()


def events_of(edge: EdgeProcess, stream_id: str, query: str = "") -> str:
    return f"{edge.url}/v1/streams/{stream_id}/events{query}"


def until_known(edge: EdgeProcess, stream_id: str) -> None:
    """Wait until an edge that ran before has read of a stream."""
    deadline = time.monotonic() + 30
    url = f"{edge.url}/v1/streams/{stream_id}"
    while httpx2.get(url, trust_env=False, verify=False).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has(count: int) -> Callable[[Seen], bool]:
    return lambda seen: len(seen.events) >= count


def lines(seen: Seen) -> list[str]:
    return [event["line"] for event in seen.events if event["type"] == "log"]


def test_a_client_that_joins_without_a_cursor_gets_everything_from_open_to_end(make_edge, twin):
    stream = twin.open("joined", title="a build")
    twin.logs(stream, 50)
    edge = make_edge()
    later = threading.Timer(0.3, lambda: (twin.logs(stream, 50), twin.end(stream)))
    later.start()
    seen = read_stream(events_of(edge, "joined"))
    later.join()
    assert seen.status == 200
    assert seen.headers["x-accel-buffering"] == "no"
    assert seen.headers["cache-control"] == "no-store, no-transform"
    assert seen.seqs == list(range(102))
    assert lines(seen) == [f"line {n}" for n in range(1, 101)]
    assert seen.events[0]["type"] == "open"
    assert seen.events[-1] | {"time": "", "event_id": ""} == {
        "type": "end", "seq": 101, "time": "", "event_id": "", "reason": "completed", "message": "",
        "exit_code": None, "events": 101, "bytes": 0,
    }  # fmt: skip
    assert len(set(seen.ids)) == 102
    assert seen.closed
    assert 1_000 <= seen.retries[0] <= 2_000


@pytest.mark.parametrize("options", [{}, NO_MEMORY], ids=["from the ring", "from Kafka"])
def test_a_client_resumes_after_any_cursor_with_exactly_the_rest(make_edge, twin, options):
    number = next(_NUMBERS)
    other, stream = twin.open(f"other-{number}"), twin.open(name := f"build-{number}")
    for _ in range(6):
        twin.logs(stream, 7)
        twin.logs(other, 5)
    twin.end(stream)
    edge = make_edge(**options)
    whole = read_stream(events_of(edge, name))
    assert whole.seqs == list(range(44))
    for seq, cursor in enumerate(whole.ids[:-1]):
        rest = read_stream(events_of(edge, name), last_id=cursor)
        assert (rest.seqs, rest.ids) == (whole.seqs[seq + 1 :], whole.ids[seq + 1 :])
        by_query = read_stream(events_of(edge, name, f"?last_event_id={cursor}"))
        assert by_query.ids == rest.ids
    assert read_stream(events_of(edge, name, f"?lastEventId={whole.ids[40]}")).ids == whole.ids[41:]
    # The newer one counts: a native client repeats its address, and adds what it has seen since.
    newer = read_stream(events_of(edge, name, f"?last_event_id={whole.ids[3]}"), last_id=whole.ids[30])
    assert newer.ids == whole.ids[31:]


def test_a_finished_stream_answers_from_history_and_204_once_the_client_has_its_end(make_edge, twin):
    stream = twin.open("done")
    twin.logs(stream, 5)
    twin.end(stream, "upstream_error")
    edge = make_edge(**NO_MEMORY)
    seen = read_stream(events_of(edge, "done"))
    assert seen.events[-1]["reason"] == "upstream_error"
    assert seen.closed
    again = read_stream(events_of(edge, "done"), last_id=seen.last_id)
    assert (again.status, again.body) == (204, b"")
    edge.kill()
    edge.start()
    assert read_stream(events_of(edge, "done"), last_id=seen.last_id).status == 204
    assert read_stream(events_of(edge, "done"), last_id=seen.ids[-2]).ids == [seen.last_id]


def test_clients_that_join_anywhere_while_it_flows_see_each_event_once(make_edge, twin):
    """The hand-over from history to live, under fire: a ring of eight events, a writer that never waits."""
    edge = make_edge(**NO_MEMORY, history_span_events=100, history_scan_ms_max=50)
    stream, other = twin.open("flow"), twin.open("beside")
    twin.logs(stream, 2_000)
    cursors = read_stream(events_of(edge, "flow"), until=has(2_001)).ids
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            twin.logs(stream, random.randint(1, 40))
            twin.logs(other, random.randint(1, 40))
        twin.end(stream)

    writer = threading.Thread(target=write)
    writer.start()
    rng = random.Random(7)

    def join(place: int) -> tuple[int, Seen]:
        time.sleep(rng.random())
        last_id = cursors[place] if place >= 0 else ""
        return place, read_stream(events_of(edge, "flow"), last_id=last_id, timeout_s=90)

    with ThreadPoolExecutor(30) as pool:
        joins = pool.map(join, [-1, *rng.sample(range(2_000), 29)])
        time.sleep(4)
        stop.set()
        results = list(joins)
    writer.join()
    last = stream.next_seq - 1
    for place, seen in results:
        assert [event["type"] for event in seen.events if event["type"] not in ("open", "log", "end")] == []
        assert seen.seqs == list(range(place + 1, last + 1))
    assert edge.metric("sluicegate_edge_gaps_total") == 0


def test_many_clients_that_resume_at_once_cost_a_read_a_span_and_not_a_read_each(make_edge, twin):
    stream = twin.open("storm")
    twin.logs(stream, 10_000)
    edge = make_edge(**NO_MEMORY)
    cursors = read_stream(events_of(edge, "storm"), until=has(10_001)).ids
    edge.kill()
    edge.start()
    rng = random.Random(3)
    places = [rng.randrange(10_000) for _ in range(150)]
    with ThreadPoolExecutor(50) as pool:
        seen = pool.map(
            lambda place: read_stream(
                events_of(edge, "storm"), last_id=cursors[place], until=has(10_000 - place), timeout_s=90
            ),
            places,
        )
        for place, one in zip(places, seen, strict=True):
            assert one.seqs == list(range(place + 1, 10_001))
    reads = edge.metric("sluicegate_edge_history_reads_total")
    # Eleven marks; more where a loaded machine cut a read short. One a client and span would be some 800.
    assert reads < 200, f"{reads} reads for 150 clients"


def test_a_slow_client_that_the_ring_has_passed_is_given_all_of_it_from_kafka(make_edge, twin):
    edge = make_edge(ring_events_max=50, tail_recent_records=0, write_bytes_max=20_000)
    stream = twin.open("fast")
    with socket.create_connection(("127.0.0.1", edge.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.sendall(b"GET /v1/streams/fast/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.5)
        for _ in range(40):
            twin.write(stream, [("log", {"line": f"{n} {'x' * 2_000}"}) for n in range(100)])
        twin.end(stream)
        received = b""
        while chunk := slow.recv(1 << 20):
            received += chunk
            if received.endswith(b"0\r\n\r\n"):
                break
    seqs = [
        int(line.partition(b'"seq":')[2].partition(b",")[0])
        for line in received.split(b"\n")
        if line.startswith(b"data:")
    ]
    assert seqs == list(range(4_002))
    assert edge.metric("sluicegate_edge_history_reads_total") > 0
    assert edge.metric("sluicegate_edge_ring_evicted_events_total") > 3_000


def test_what_retention_took_is_declared_as_a_gap_and_the_rest_follows(make_edge, twin):
    stream = twin.open("worn")
    twin.logs(stream, 2_500)
    edge = make_edge(**NO_MEMORY)
    cursors = read_stream(events_of(edge, "worn"), until=has(2_501)).ids
    cut = decode_cursor(cursors[1_800], "default", "worn")
    twin.delete_before(OUTPUT, cut.partition, cut.offset)
    twin.end(stream)
    edge.kill()
    edge.start()  # what was read of it before is in memory, and would still be given
    seen = read_stream(events_of(edge, "worn"), last_id=cursors[100])
    gap, rest = seen.events[0], seen.events[1:]
    assert gap | {"time": ""} == {
        "type": "gap", "seq": 1_799, "time": "", "from_seq": 101, "to_seq": 1_799, "count": 1_699,
        "reason": "retention",
    }  # fmt: skip
    assert [event["seq"] for event in rest] == list(range(1_800, 2_502))
    # A client that goes away right after the gap comes back to what follows it, and to no second gap.
    assert read_stream(events_of(edge, "worn"), last_id=seen.ids[0]).ids == seen.ids[1:]
    edge.wait_for_low_offset(cut.offset)
    refused = read_stream(events_of(edge, "worn", f"?last_event_id={cursors[100]}"))
    assert (refused.status, b"retention" in refused.body) == (410, True)
    assert read_stream(events_of(edge, "worn", f"?last_event_id={cursors[1_900]}")).ids == seen.ids[102:]


def test_an_end_that_retention_took_is_told_from_the_index(make_edge, twin):
    stream = twin.open("gone")
    twin.logs(stream, 20)
    twin.end(stream, "timed_out")
    edge = make_edge(**NO_MEMORY)
    whole = read_stream(events_of(edge, "gone"))
    place = decode_cursor(whole.last_id, "default", "gone")
    twin.delete_before(OUTPUT, place.partition, place.offset + 1)
    edge.kill()
    edge.start()
    seen = read_stream(events_of(edge, "gone"))
    assert [(event["type"], event["seq"]) for event in seen.events] == [("gap", 20), ("end", 21)]
    assert (seen.events[0]["from_seq"], seen.events[0]["reason"]) == (0, "retention")
    assert (seen.events[1]["reason"], seen.events[1]["from_index"]) == ("timed_out", True)
    assert seen.closed
    assert read_stream(events_of(edge, "gone"), last_id=seen.last_id).status == 204


@pytest.mark.parametrize(
    ("cursor", "code"),
    [("no cursor of ours", "malformed_cursor"), ("x" * 500, "malformed_cursor"), ("other", "foreign_cursor")],
)
def test_a_cursor_that_cannot_be_used_is_refused_where_a_native_client_can_read_it(
    make_edge, twin, cursor, code
):
    twin.open(mine := f"mine-{next(_NUMBERS)}")
    edge = make_edge()
    until_known(edge, mine)
    if cursor == "other":
        cursor = Cursor(1, 0, 5, 5).encode("default", "another")
    seen = read_stream(events_of(edge, mine), last_id=cursor)
    assert seen.status == 200
    assert [(event["type"], event["code"]) for event in seen.events] == [("refused", code)]
    assert seen.closed
    retry = read_stream(events_of(edge, mine), last_id=seen.last_id)
    assert retry.status == 204
    by_query = read_stream(events_of(edge, mine, f"?last_event_id={cursor}"))
    assert by_query.status == 400
    assert by_query.headers["content-type"] == "application/problem+json"
    assert code.encode() in by_query.body


def test_a_cursor_of_an_older_topic_version_gives_a_gap_and_then_what_there_is(make_edge, twin):
    stream = twin.open("moved")
    twin.logs(stream, 3)
    edge = make_edge()
    until_known(edge, "moved")
    old = Cursor(0, 0, 99, 7).encode("default", "moved")
    seen = read_stream(events_of(edge, "moved"), last_id=old, until=has(5))
    gap = seen.events[0]
    assert (gap["type"], gap["reason"], gap["from_seq"], gap["count"]) == ("gap", "topic_version", 8, -1)
    assert seen.seqs[1:] == [0, 1, 2, 3]
    assert read_stream(events_of(edge, "moved"), last_id=seen.ids[0], until=has(4)).ids == seen.ids[1:]
    assert read_stream(events_of(edge, "moved", f"?last_event_id={old}")).status == 410


def test_a_client_may_come_before_its_stream_and_is_kept_alive_until_it_opens(make_edge, twin):
    edge = make_edge(idle_heartbeat_ms=200)
    enough = threading.Event()

    def open_it() -> None:
        assert enough.wait(60)
        twin.end(twin.open("later"))

    def three_came(seen: Seen) -> bool:
        if seen.comments == 3:
            enough.set()
        return False

    opening = threading.Thread(target=open_it)
    opening.start()
    started = time.monotonic()
    seen = read_stream(events_of(edge, "later"), until=three_came, timeout_s=60)
    opening.join()
    assert [event["type"] for event in seen.events] == ["open", "end"]
    assert 3 <= seen.comments <= (time.monotonic() - started) / 0.18


def test_a_busy_connection_carries_no_heartbeats(make_edge, twin):
    heartbeat_s = 0.5
    edge = make_edge(idle_heartbeat_ms=int(heartbeat_s * 1_000))  # it comes before its stream, so this counts
    came: list[tuple[float, int]] = []

    def write() -> None:
        stream = twin.open("busy")
        stop_at = time.monotonic() + 3
        while time.monotonic() < stop_at:
            twin.logs(stream, 1)
            time.sleep(0.01)
        twin.end(stream)

    def note(seen: Seen) -> bool:
        if seen.events:
            came.append((time.monotonic(), seen.comments))
        return False

    writer = threading.Timer(0.2, write)
    writer.start()
    seen = read_stream(events_of(edge, "busy"), until=note, timeout_s=60)
    writer.join()
    assert len(seen.events) > 10
    # On a machine that stands still for a heartbeat the connection was idle for one, and only there.
    idle = sum(int((after[0] - before[0]) / (0.9 * heartbeat_s)) for before, after in pairwise(came))
    assert came[-1][1] - came[0][1] <= idle


def test_a_record_that_nobody_can_read_is_a_gap_of_one_and_its_neighbours_flow(make_edge, twin):
    stream = twin.open("poison")
    twin.logs(stream, 2)
    for value in (b"\x01not avro", b"\x00\x7f\xff\xff\xffunknown id", b"\x00", None):
        twin.raw(OUTPUT.name, b"default/poison", value)
        stream.next_seq += 1
        twin.logs(stream, 2)
    twin.end(stream)
    for options in ({}, NO_MEMORY):
        edge = make_edge(**options)
        seen = read_stream(events_of(edge, "poison"))
        gaps = [(event["from_seq"], event["to_seq"]) for event in seen.events if event["type"] == "gap"]
        assert gaps == [(3, 3), (6, 6), (9, 9), (12, 12)]
        assert seen.seqs == list(range(16))


def test_what_is_older_than_the_history_of_its_kind_is_a_gap_and_its_end_is_told_all_the_same(
    make_edge, twin
):
    long_ago = time.time_ns() // 1_000 - 5 * 86_400_000_000
    old = twin.open("aged", at_us=long_ago)
    twin.logs(old, 5, at_us=long_ago)
    twin.logs(old, 3)
    older = twin.open("older", at_us=long_ago)
    twin.logs(older, 5, at_us=long_ago)
    twin.end(older, at_us=long_ago)
    edge = make_edge(**NO_MEMORY, ring_age_ms_max=1)
    seen = read_stream(events_of(edge, "aged"), until=has(4))
    assert [(event["type"], event["seq"]) for event in seen.events] == [
        ("gap", 5), ("log", 6), ("log", 7), ("log", 8),
    ]  # fmt: skip
    assert (seen.events[0]["from_seq"], seen.events[0]["reason"]) == (0, "history")
    seen = read_stream(events_of(edge, "older"))
    assert [(event["type"], event["seq"]) for event in seen.events] == [("gap", 5), ("end", 6)]


def test_a_stream_opened_again_under_its_name_is_a_new_one(make_edge, twin):
    edge = make_edge()
    first = twin.open("again")
    twin.logs(first, 30)
    twin.end(first)
    old = read_stream(events_of(edge, "again"))
    twin.tombstone(first)
    second = twin.open("again")
    twin.logs(second, 4)
    twin.end(second)
    assert read_stream(events_of(edge, "again")).seqs == list(range(6))
    resumed = read_stream(events_of(edge, "again"), last_id=old.ids[10])
    assert (resumed.events[0]["type"], resumed.events[0]["reason"]) == ("gap", "reopened")
    assert resumed.seqs[1:] == list(range(6))


def test_an_index_so_far_behind_that_it_lacks_an_end_says_nothing_of_the_next_stream_of_the_name(
    make_edge, twin, monkeypatch
):
    """It was read from the first stream's beginning on, and that one's end was taken for this one's."""
    edge = make_edge(**NO_MEMORY, ring_age_ms_max=500)
    first = twin.open("behind")
    twin.logs(first, 30)
    until_known(edge, "behind")
    with monkeypatch.context() as patch:
        patch.setattr(twin, "index", lambda _stream: None)  # what was committed since has not come here
        twin.end(first)
        second = twin.open("behind")
        twin.logs(second, 20)
        assert read_stream(events_of(edge, "behind"), until=has(21)).seqs == list(range(21))
        twin.end(second)
        seen = read_stream(events_of(edge, "behind"))
        assert (seen.seqs, seen.events[-1]["type"]) == (list(range(22)), "end")
        assert read_stream(events_of(edge, "behind"), last_id=seen.last_id).status == 204
    # Now the index has the end of the first one's history, and nothing of the second, which is over.
    twin.tombstone(first)
    url, deadline = f"{edge.url}/v1/streams/behind", time.monotonic() + 30
    while (
        edge.metric("sluicegate_edge_streams")
        or httpx2.get(url, trust_env=False, verify=False).status_code != 404
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(read_stream, events_of(edge, "behind")) for _ in range(2)]
        while edge.metric("sluicegate_edge_connections") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        twin.index(second)
        assert [one.result().seqs for one in waiting] == [list(range(22))] * 2


def test_a_cursor_ahead_of_the_log_is_of_a_log_that_is_no_more(make_edge, twin):
    """The stack was wiped and made anew with a page still open: the page must not wait, or be sent away."""
    edge = make_edge()
    stream = twin.open("tab")
    twin.logs(stream, 3)
    partition = partition_of(b"default/tab", OUTPUT.partitions)
    former = Cursor(1, partition, _AHEAD, 400).encode("default", "tab")
    seen = read_stream(events_of(edge, "tab"), last_id=former, until=has(5))
    gap = seen.events[0]
    assert (gap["type"], gap["reason"], gap["from_seq"], gap["count"]) == ("gap", "reopened", 401, -1)
    assert seen.seqs[1:] == [0, 1, 2, 3]
    twin.end(stream)
    assert read_stream(events_of(edge, "tab"), last_id=seen.last_id).seqs == [4]
    # Past this end, but not by having seen it; and a stream of which nothing is known (yet).
    assert read_stream(events_of(edge, "tab"), last_id=former).seqs[1:] == [0, 1, 2, 3, 4]
    unborn = Cursor(1, partition, _AHEAD, 400).encode("default", "unborn")
    seen = read_stream(events_of(edge, "unborn"), last_id=unborn, until=has(1))
    assert (seen.events[0]["type"], seen.events[0]["reason"]) == ("gap", "reopened")


READS = "sluicegate_edge_history_reads_total"
PASSED = "sluicegate_edge_history_passed_records_total"


def test_among_a_million_events_any_place_is_found_by_the_index_and_not_by_a_scan(make_edge, twin):
    """A short finished stream in the middle of a long one, both on one partition: two reads each, at most.

    How long that takes is the benchmark's to say (``make bench-edge``): here it is what makes it quick.
    """
    partition = partition_of(b"default/long", OUTPUT.partitions)
    name = next(n for n in map(str, range(100)) if partition_of(b"default/%b" % n.encode(), 4) == partition)
    long = twin.open("long")
    twin.many(long, 500_000)
    short = twin.open(name)
    twin.logs(short, 20)
    twin.end(short)
    twin.many(long, 500_000)
    # A read that a loaded machine cuts short would be one more.
    edge = make_edge(**NO_MEMORY, history_scan_ms_max=30_000)
    seen = read_stream(events_of(edge, name))
    assert seen.seqs == list(range(22))
    assert edge.metric(READS) <= 2
    assert edge.metric(PASSED) < 100

    def resume(place: int, count: int) -> list[int]:
        first = {"seq": 0, "offset": long.open_offset}
        mark = next((mark for mark in reversed(long.marks) if mark["seq"] <= place), first)
        cursor = Cursor(1, partition, mark["offset"] + place - mark["seq"], place).encode("default", "long")
        return read_stream(events_of(edge, "long"), last_id=cursor, until=has(count)).seqs

    for place, spans in ((999_990, 2), (999_001, 2), (998_500, 3)):
        before = edge.metric(READS)
        assert resume(place, 1_000_000 - place) == list(range(place + 1, 1_000_001))
        assert edge.metric(READS) - before <= 2 * spans
    for place in (0, 1, 499_990, 500_001):
        assert resume(place, 20)[:20] == list(range(place + 1, place + 21))
    assert edge.metric(PASSED) < 200
