"""Publishing over HTTP into real Kafka: all of a request or nothing, and every refusal says where."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import pytest

from connectors.kafka.peek import record_at
from schemas.catalog import payload_subject
from schemas.topics import INPUT, OUTPUT, partition_of
from tests.support.sse_client import read_stream
from tests.support.stage import make_edge, stage, twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.envelope import Event
    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import IngestTwin

__all__ = ["make_edge", "stage", "twin"]  # fixtures
pytestmark = pytest.mark.timeout(120)


def appended(twin: IngestTwin, *stream_ids: str) -> list[Event]:
    """What stands in the input of streams."""
    return [event for event in twin.records(INPUT) if event.stream_id in stream_ids]


def post(
    edge: EdgeProcess,
    body: object,
    *,
    stream: str = "s-1",
    query: str = "?kind=log",
    media: str = "application/json",
    **headers: str,
) -> httpx2.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return httpx2.post(
        f"{edge.url}/v1/streams/{stream}/events{query}",
        content=content,
        headers={"content-type": media, **headers},
        trust_env=False,
        verify=False,
        timeout=30,
    )


def until(holds: Callable[[], object], within_s: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.05)


def log(line: str, **fields: Any) -> dict[str, Any]:
    return {"type": "log", "payload": {"line": line}, **fields}


def test_events_in_each_form_are_appended_in_order_to_the_partition_of_their_stream(make_edge, twin):
    edge = make_edge()
    cloud = {
        "specversion": "1.0", "id": "c-1", "source": "ci", "type": "sluicegate.log.log.v1", "subject": "s-1",
        "data": {"line": "five"},
    }  # fmt: skip
    answers = [
        post(edge, log("one", event_id="e-1", request_id="r-1", source="me", time="2026-11-23T00:00:00Z")),
        post(edge, [log("two"), log("three", kind="job", stream_id="s-1", tenant="default")]),
        post(edge, b'{"type":"log","payload":{"line":"four"}}\n', media="application/x-ndjson"),
        post(edge, cloud, media="application/cloudevents+json"),
        post(edge, [cloud | {"id": "c-2"}], media="application/cloudevents-batch+json"),
    ]
    assert [answer.status_code for answer in answers] == [202] * 5
    events = appended(twin, "s-1")
    assert [event.event_id for event in events][:1] == ["e-1"]
    assert [event.event_id for event in events][-2:] == ["c-1", "c-2"]
    assert [twin.payload(event)["line"] for event in events] == [
        "one",
        "two",
        "three",
        "four",
        "five",
        "five",
    ]
    assert [event.kind for event in events] == ["log", "log", "job", "log", "log", "log"]
    assert (events[0].request_id, events[0].source, events[0].time) == ("r-1", "me", 1_795_392_000_000_000)
    assert {event.seq for event in events} == {-1}
    places = [place for answer in answers for place in answer.json()["offsets"]]
    assert {place["partition"] for place in places} == {partition_of(b"default/s-1", INPUT.partitions)}
    assert [place["event_id"] for place in places] == [event.event_id for event in events]
    assert sorted(place["offset"] for place in places) == [place["offset"] for place in places]


BAD = [
    (
        [log("ok"), {"type": "log", "payload": {"line": "x", "lines": "x"}}],
        422,
        {"index": 1, "field": "payload.lines"},
    ),
    ([log("ok"), {"payload": {"line": "x"}}], 422, {"index": 1, "field": "type"}),
    ([log("ok"), log("x", seq="three")], 422, {"index": 1, "field": "seq"}),
    ([log("ok"), log("x", event_id="e" * 65)], 422, {"index": 1, "field": "event_id"}),
    ([log("ok"), log("x", colour="red")], 422, {"index": 1, "field": "colour"}),
    ([log("ok"), log("x", stream_id="another")], 422, {"index": 1, "field": "stream_id"}),
    ([log("ok"), log("x", tenant="another")], 422, {"index": 1, "field": "tenant"}),
    ([log("ok"), log("x", kind="nokind")], 422, {"index": 1}),
    ([log("ok"), {"type": "nosuchtype", "payload": {}}], 422, {"index": 1}),
    (
        [log("ok"), {"type": "gap", "payload": {"from_seq": 1, "to_seq": 2}}],
        422,
        {"index": 1, "field": "type"},
    ),
    ([log("ok"), {"type": "tick", "payload": {}}], 422, {"index": 1, "field": "type"}),
    ([log("ok"), {"type": "end", "payload": {"reason": "bored"}}], 422, {"field": "payload.reason"}),
    ([log("ok"), "not an object"], 422, {"index": 1}),
    ([log("ok"), log("x" * 950_000)], 422, {"index": 1, "field": "payload"}),
    ([log("ok")] * 1_001, 413, {}),
    (b'[{"type":"log"', 400, {"line": 1}),
    (b"[" + b'{"type":"log","payload":{"line":"' + b"x" * 1_100_000 + b'"}}]', 413, {}),
]


def test_a_request_with_anything_wrong_is_refused_with_the_place_and_nothing_of_it_is_appended(
    make_edge, twin
):
    edge = make_edge()
    stood, published = len(twin.records(INPUT)), edge.metric("sluicegate_edge_published_events_total")
    for body, status, said in BAD:
        answer = post(edge, body)
        problem = answer.json()
        assert answer.status_code == status, problem
        assert answer.headers["content-type"] == "application/problem+json"
        assert said.items() <= problem.items(), problem
        assert problem["detail"]
        assert problem["title"]
    lines = b"\n".join([orjson.dumps(log("ok")), b"", orjson.dumps(log("x", seq=-5))])
    answer = post(edge, lines, media="application/x-ndjson")
    assert (answer.status_code, answer.json()["line"], answer.json()["field"]) == (422, 3, "seq")
    assert post(edge, log("x"), stream="no%20spaces").status_code == 400
    assert post(edge, log("x"), stream="s" * 129).json()["field"] == "stream_id"
    assert post(edge, log("x"), query="?kind=nokind").status_code == 422
    missing = post(edge, log("x"), query="").json()
    assert (missing["field"], "is missing" in missing["detail"]) == ("kind", True)
    assert "publish --kind`): one of chat, job, llm, log." in missing["remedy"]
    assert post(edge, log("x"), query="?kind=log&wait=forever").status_code == 400
    assert post(edge, log("x"), query="?kind=log&tenant=no/slash").status_code == 400
    assert post(edge, log("x"), media="text/plain").status_code == 415
    assert post(edge, log("x"), origin="http://evil.example").status_code == 403
    assert post(edge, log("x"), host="evil.example").status_code == 421
    assert len(twin.records(INPUT)) == stood
    assert edge.metric("sluicegate_edge_published_events_total") == published


def test_a_body_that_never_ends_is_cut_off_at_the_limit(make_edge):
    edge = make_edge()
    with socket.create_connection(("127.0.0.1", edge.port)) as endless:
        endless.sendall(
            b"POST /v1/streams/s/events?kind=log HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        sent = 0
        try:
            for _ in range(1_000):
                endless.sendall(chunk)
                sent += 0x10000
        except OSError:
            pass
        answer = endless.recv(4_096)
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 32 << 20  # what is still taken beyond the limit, and what fits into the sockets' buffers


def test_who_sends_all_of_a_body_that_is_too_large_before_it_reads_is_given_the_answer(make_edge):
    edge = make_edge()
    head = b"POST /v1/streams/s/events?kind=log HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection(("127.0.0.1", edge.port), timeout=20) as client:
        for _ in range(3):  # on one connection: nothing of a body is taken for another request
            client.sendall(head + b"Content-Type: application/json\r\nContent-Length: 9000000\r\n\r\n")
            client.sendall(b"x" * 9_000_000)
            assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def begun(edge: EdgeProcess, length: int) -> socket.socket:
    """A request whose body is still to come."""
    client = socket.create_connection(("127.0.0.1", edge.port))
    client.settimeout(30)
    client.sendall(
        b"POST /v1/streams/s/events?kind=log HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length
    )
    return client


def test_requests_under_way_are_bounded_and_one_too_many_is_asked_to_come_back(make_edge, twin):
    edge = make_edge(publishing_max=2)
    body = orjson.dumps(log("x"))
    with begun(edge, len(body)) as first, begun(edge, len(body)) as second:
        one_too_many: list[httpx2.Response] = []
        deadline = time.monotonic() + 30
        while not one_too_many and time.monotonic() < deadline:  # until both of the others were seen
            answer = post(edge, log("y"), stream="busy")
            one_too_many += [answer] if answer.status_code != 202 else []
        (answer,) = one_too_many
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "nothing was appended" in answer.json()["detail"]
        for client in (first, second):
            client.sendall(body)
            assert client.recv(4_096).startswith(b"HTTP/1.1 202")
    assert post(edge, log("z"), stream="busy").status_code == 202
    lines = [twin.payload(event)["line"] for event in appended(twin, "s", "busy")]
    assert sorted(line for line in lines if line != "y") == ["x", "x", "z"]


def test_a_body_that_does_not_come_gives_its_place_back(make_edge):
    edge = make_edge(publishing_max=1, request_read_ms_max=300)
    with begun(edge, 100) as slow:
        slow.sendall(b'{"type"')
        assert slow.recv(4_096).startswith(b"HTTP/1.1 408")
    assert post(edge, log("x")).status_code == 202


def test_unknown_pages_and_methods_are_answered_as_problems(make_edge):
    edge = make_edge()
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/streams/s/events", 405),
        ("GET", "/v1/streams/none-such", 404),
        ("GET", "/v1/streams/no%20such", 400),
        ("POST", "/v1/streams/none-such/cancel", 404),
        ("GET", "/v1/streams?limit=0", 400),
        ("GET", "/v1/streams/no%20such/events", 400),
        ("GET", "/console/../../etc/passwd", 404),
        ("GET", "/console/%2e%2e%2foptions.py", 404),
    ):
        answer = httpx2.request(method, edge.url + path, trust_env=False, verify=False)
        assert answer.status_code == status, (method, path, answer.text)
        if not path.startswith("/console/"):
            assert answer.json().get("remedy") or "limit" in path, (method, path, answer.text)
            assert "publish" not in answer.json().get("remedy", ""), "some of them publish nothing"


def test_a_producer_that_waits_is_given_a_verdict_an_event(make_edge, twin, stage):
    edge = make_edge(wait_timeout_ms=5_000)
    stream = twin.open("waits")
    ids = ["e-accepted", "e-late", "e-never"]

    def judge() -> None:
        until(lambda: edge.metric("sluicegate_edge_published_events_total") == 3)  # and so waited for
        twin.write(stream, [("log", {"line": "x"})], event_ids=[ids[0]])
        twin.reject("default", "waits", ids[1], "late")
        twin.reject("default", "another", ids[2], "late")

    judging = threading.Thread(target=judge)
    judging.start()
    started = time.monotonic()
    answer = post(
        edge, [log("x", event_id=one) for one in ids], stream="waits", query="?kind=log&wait=committed"
    )
    assert answer.status_code == 202
    accepted, late, pending = answer.json()["verdicts"]
    judging.join()
    assert 4.9 < time.monotonic() - started < 30
    assert (accepted["event_id"], accepted["verdict"], accepted["seq"]) == ("e-accepted", "accepted", 1)
    assert late == {"event_id": "e-late", "verdict": "late", "detail": "this is late"}
    assert (pending["event_id"], pending["verdict"]) == ("e-never", "pending")
    # An offset of `offsets` is the input topic's, that of a verdict the output topic's.
    for spec, place in ((INPUT, answer.json()["offsets"][0]), (OUTPUT, accepted)):
        topic = spec.named(stage.kafka.topic_prefix)
        record = record_at(stage.kafka, topic, place["partition"], place["offset"])
        assert record is not None
        assert b"e-accepted" in (record.value or b""), spec.name
    # The cursor of a verdict is the one that clients are given.
    seen = read_stream(f"{edge.url}/v1/streams/waits/events", until=lambda seen: len(seen.ids) == 2)
    assert accepted["cursor"] == seen.ids[1]
    rejects = httpx2.get(f"{edge.url}/v1/streams/waits/rejects", trust_env=False, verify=False).json()[
        "rejects"
    ]
    assert [(one["event_id"], one["verdict"]) for one in rejects] == [("e-late", "late")]


def test_a_waiting_producer_is_answered_as_soon_as_all_verdicts_are_there(make_edge, twin):
    edge = make_edge(wait_timeout_ms=600_000)
    stream = twin.open("soon")
    with ThreadPoolExecutor(1) as pool:
        query = "?kind=log&wait=committed"
        answer = pool.submit(post, edge, [log("x", event_id="e-soon")], stream="soon", query=query)
        until(lambda: edge.metric("sluicegate_edge_published_events_total") == 1)
        twin.write(stream, [("log", {"line": "x"})], event_ids=["e-soon"])
        assert answer.result().json()["verdicts"][0]["verdict"] == "accepted"


def test_no_more_producers_wait_than_there_is_room_for(make_edge, twin):
    edge = make_edge(wait_timeout_ms=6_000, waiting_events_max=10)

    def waiting(count: int) -> httpx2.Response:
        body = [log("x") for _ in range(count)]
        return post(edge, body, stream="room", query="?kind=log&wait=committed")

    with ThreadPoolExecutor(3) as pool:
        answers = [answer.status_code for answer in pool.map(waiting, [6] * 3)]
    assert sorted(answers) == [202, 503, 503]
    assert len(appended(twin, "room")) == 6
    answer = waiting(11)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "nothing was appended" in answer.json()["detail"]


def _told(edge: EdgeProcess, stream_id: str) -> dict[str, Any]:
    """What the edge tells of a stream."""
    answer = httpx2.get(f"{edge.url}/v1/streams/{stream_id}", trust_env=False, verify=False)
    return dict(answer.json())


def test_cancel_is_appended_as_an_event_and_an_ended_stream_cannot_be_cancelled(make_edge, twin):
    stream = twin.open("job-1", kind="job")
    twin.end(twin.open("job-2", kind="job"))
    edge = make_edge()
    until(lambda: _told(edge, "job-1").get("kind") and _told(edge, "job-2").get("ended"))

    def cancel(stream_id: str, body: bytes = b"") -> httpx2.Response:
        return httpx2.post(
            f"{edge.url}/v1/streams/{stream_id}/cancel", content=body, trust_env=False, verify=False
        )

    assert cancel("job-1").status_code == 202
    assert cancel("job-1", b'{"reason":"enough","by":"ada"}').status_code == 202
    assert cancel("job-1", b'{"why":"?"}').status_code == 400
    assert cancel("job-1", b"{").status_code == 400
    assert cancel("job-1", b"[" * 10_000).status_code == 413
    assert cancel("job-2").status_code == 409
    events = appended(twin, "job-1", "job-2")
    assert [(event.type, event.kind, event.seq, event.stream_id) for event in events] == [
        ("cancel", "job", -1, stream.stream_id)
    ] * 2
    assert twin.payload(events[1]) == {"reason": "enough", "by": "ada"}


def test_a_type_that_is_registered_while_the_edge_runs_passes_in_both_directions(make_edge, twin, registry):
    edge = make_edge()
    name = f"gauge{time.time_ns()}"
    refused = post(edge, {"type": name, "payload": {"celsius": 21.5}})
    assert (refused.status_code, name in refused.text) == (422, True)
    schema = {
        "type": "record", "name": name, "namespace": "sluicegate.payload",
        "fields": [{"name": "celsius", "type": "double", "doc": "How warm.", "default": 0}],
    }  # fmt: skip
    registry.register(payload_subject(name), orjson.dumps(schema).decode())
    # What was not there is asked for again after five seconds.
    until(lambda: post(edge, {"type": name, "payload": {"celsius": 21.5}}).status_code == 202)
    stream = twin.open("warm")
    twin.write(stream, [(name, {"celsius": 19.0})])
    seen = read_stream(f"{edge.url}/v1/streams/warm/events", until=lambda seen: len(seen.events) == 2)
    assert (seen.events[1]["type"], seen.events[1]["celsius"]) == (name, 19.0)


def test_streams_are_listed_newest_first_and_within_the_limit(make_edge, twin):
    edge = make_edge()
    for number in range(5):
        twin.open(f"l-{number}", title=f"Stream {number}", tenant="ada" if number == 2 else "default")
    done = twin.open("done", kind="job")
    twin.logs(done, 10)
    twin.end(done, "cancelled")

    def listed(query: str = "") -> list[dict[str, Any]]:
        found = httpx2.get(f"{edge.url}/v1/streams{query}", trust_env=False, verify=False).json()["streams"]
        assert isinstance(found, list)
        return [one for one in found if one["stream_id"].startswith(("l-", "done"))]

    until(lambda: len(listed()) == 6 and listed("?limit=1")[0]["ended"])
    assert [one["stream_id"] for one in listed()] == ["done", "l-4", "l-3", "l-2", "l-1", "l-0"]
    assert [one["stream_id"] for one in listed("?limit=2")] == ["done", "l-4"]
    assert [one["stream_id"] for one in listed("?tenant=ada")] == ["l-2"]
    first, second = listed("?limit=2")
    assert (first["reason"], first["last_seq"], first["kind"]) == ("cancelled", 11, "job")
    assert (second["ended"], second["reason"], second["title"]) == (None, None, "Stream 4")
    twin.tombstone(done)
    until(lambda: "done" not in [one["stream_id"] for one in listed()])
    one = httpx2.get(f"{edge.url}/v1/streams/l-2?tenant=ada", trust_env=False, verify=False).json()
    assert (one["open_offset"] >= 0, one["end_offset"], one["tenant"]) == (True, -1, "ada")


def test_a_stream_beyond_the_index_held_in_memory_is_found_in_the_topic(make_edge, twin):
    for number in range(12):
        stream = twin.open(f"b-{number}")
        twin.logs(stream, 3)
        twin.end(stream)
    edge = make_edge(index_entries_max=4, tail_recent_records=0)
    answer = httpx2.get(f"{edge.url}/v1/streams", trust_env=False, verify=False).json()
    assert (len(answer["streams"]), answer["complete"]) == (4, False)
    for number in range(12):
        seen = read_stream(f"{edge.url}/v1/streams/b-{number}/events")
        assert seen.seqs == [0, 1, 2, 3, 4]
        assert read_stream(f"{edge.url}/v1/streams/b-{number}/events", last_id=seen.last_id).status == 204
    assert httpx2.get(f"{edge.url}/v1/streams/none", trust_env=False, verify=False).status_code == 404
