"""WebSocket against real edge processes on real Kafka, with the ``websockets`` client."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus

from schemas.cursor import Cursor
from schemas.topics import INPUT
from tests.support.stage import stage, twin
from tests.support.tokens import ISSUER, Issuer, keys_file
from tests.support.ws_client import Talk

if TYPE_CHECKING:
    from schemas.envelope import Event
    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import IngestTwin, TwinStream
    from tests.support.stage import Stage

__all__ = ["stage", "twin"]  # fixtures
pytestmark = pytest.mark.timeout(240)
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "follow_streams.py"
LARGE = '"' * 700_000
"""A line that is 1.4 MB as JSON, more than a library may take by itself."""
_NUMBERS = count()


@pytest.fixture
def edge(stage: Stage) -> EdgeProcess:
    return stage.edge(websocket_subscriptions_max=3, drain_ms=3_000)


def opened(twin: IngestTwin, kind: str = "log") -> TwinStream:
    return twin.open(f"w{next(_NUMBERS)}", kind=kind)


def appended(twin: IngestTwin, stream_id: str) -> list[Event]:
    """What stands in the input of a stream."""
    return [event for event in twin.records(INPUT) if event.stream_id == stream_id]


def log(line: str, **fields: Any) -> dict[str, Any]:
    return {"type": "log", "payload": {"line": line}, **fields}


def known(edge: EdgeProcess, talk: Talk, stream: TwinStream) -> None:
    """Wait until the edge has read of a stream."""
    talk.ask("subscribe", id="known", stream=stream.stream_id)
    talk.until_type("event")
    talk.ask("unsubscribe", id="known", stream=stream.stream_id)


def _until(done) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_many_streams_come_over_one_connection_and_each_has_its_own_end(edge, twin):
    one, two = opened(twin), opened(twin)
    twin.logs(one, 5)
    with Talk(edge.url) as talk:
        assert talk.connected["limits"]["subscriptions_max"] == 3
        assert talk.ask("subscribe", id=1, stream=one.stream_id)["type"] == "subscribed"
        assert talk.ask("subscribe", id="b", stream=two.stream_id, tenant="default") == {
            "type": "subscribed", "id": "b", "tenant": "default", "stream": two.stream_id
        }  # fmt: skip
        twin.logs(two, 3)
        twin.end(one)
        assert talk.until_type("ended")["stream"] == one.stream_id
        assert talk.seqs(one.stream_id) == list(range(7))
        assert talk.ask("ping", id="p") == {"type": "pong", "id": "p"}
        twin.end(two)
        assert talk.until_type("ended")["stream"] == two.stream_id
        assert talk.seqs(two.stream_id) == list(range(5))
        assert edge.metric('sluicegate_edge_connections{transport="websocket"}') == 1
    events = [message for message in talk.heard if message["type"] == "event"]
    assert events[0]["event"]["type"] == "open"
    assert len({message["cursor"] for message in events}) == 12


def test_a_stream_that_was_left_is_silent_and_goes_on_from_its_cursor_when_it_is_asked_for_again(edge, twin):
    stream = opened(twin)
    with Talk(edge.url) as talk:
        talk.ask("subscribe", id=1, stream=stream.stream_id)
        cursor = talk.until_type("event")["cursor"]
        assert talk.ask("unsubscribe", id=2, stream=stream.stream_id)["type"] == "unsubscribed"
        twin.logs(stream, 3)
        with Talk(edge.url) as other:  # the edge has read them when somebody was given them
            other.ask("subscribe", id=1, stream=stream.stream_id)
            other.until(lambda message: message.get("event", {}).get("seq") == 3)
        talk.ask("ping", id=3)
        assert talk.seqs(stream.stream_id) == [0]
        talk.ask("subscribe", id=4, stream=stream.stream_id, cursor=cursor)
        talk.until(lambda message: message.get("event", {}).get("seq") == 3)
        assert talk.seqs(stream.stream_id) == [0, 1, 2, 3]


def test_what_is_asked_wrongly_is_answered_by_name_and_the_connection_goes_on(edge, twin):
    stream = opened(twin)
    name = stream.stream_id
    foreign = Cursor(1, 0, 5, 5).encode("default", "another")
    with Talk(edge.url) as talk:
        wrong: list[tuple[str, dict[str, Any], str, str]] = [
            ("subscribe", {}, "missing_member", "stream"),
            ("subscribe", {"stream": 7}, "bad_member", "stream"),
            ("subscribe", {"stream": "no spaces"}, "request_is_malformed", "stream_id"),
            ("subscribe", {"stream": name, "Cursor": "x"}, "unknown_member", "Cursor"),
            ("subscribe", {"stream": name, "cursor": "nonsense"}, "malformed_cursor", ""),
            ("subscribe", {"stream": name, "cursor": foreign}, "foreign_cursor", ""),
            ("unsubscribe", {"stream": name}, "not_subscribed", ""),
            ("dance", {"stream": name}, "unknown_type", ""),
            ("publish", {"stream": name, "events": []}, "nothing_to_publish", ""),
            ("publish", {"stream": name, "events": "x"}, "bad_member", "events"),
            ("publish", {"stream": name, "events": log("x"), "wait": "long"}, "bad_member", "wait"),
            ("publish", {"stream": name, "events": log("x"), "kind": "none"}, "kind_unknown", ""),
            ("cancel", {"stream": "never-opened"}, "no_such_stream", ""),
        ]
        for number, (type_name, members, code, field) in enumerate(wrong):
            answer = talk.ask(type_name, id=number, **members)
            assert (answer["code"], answer.get("field", "")) == (code, field), answer
            assert answer["type"] == ("refused" if "cursor" in code else "error")
            assert answer["detail"]
            assert answer["remedy"] or code == "nothing_to_publish"
        for text, code in (("{", "not_json"), ("[]", "not_an_object"), ('{"id": {}}', "bad_id")):
            talk.socket.send(text)
            assert talk.hear("error")["code"] == code
        talk.ask("subscribe", id="s", stream=name)
        assert talk.ask("subscribe", id="again", stream=name)["code"] == "already_subscribed"
        for number in range(2):
            talk.ask("subscribe", id="more", stream=f"more-{number}")
        assert talk.ask("subscribe", id="most", stream="one-more")["code"] == "too_many_subscriptions"
        assert talk.ask("ping", id="p")["type"] == "pong"


def test_what_is_published_is_acknowledged_in_order_and_refused_whole(edge, twin):
    stream = opened(twin)
    with Talk(edge.url) as talk:
        known(edge, talk, stream)
        for number in range(40):  # none waits for the one before it
            talk.say("publish", id=number, stream=stream.stream_id, events=[log(f"line {number}")])
        acks = [talk.hear("publish_ack") for _ in range(40)]
        assert [ack["id"] for ack in acks] == list(range(40))
        assert all(ack["appended"] == 1 for ack in acks)
        refused = talk.ask(
            "publish", id="bad", stream=stream.stream_id, events=[log("good"), {"type": "log", "payload": {}}]
        )
        assert (refused["code"], refused["status"], refused["index"]) == ("event_refused", 422, 1)
        assert refused["field"] == "payload.line"
        too_many = talk.ask("publish", id="many", stream=stream.stream_id, events=[log("x")] * 1_001)
        assert (too_many["code"], too_many["status"]) == ("too_many_events", 413)
    lines = [twin.payload(event)["line"] for event in appended(twin, stream.stream_id)]
    assert lines == [f"line {number}" for number in range(40)]
    assert edge.metric('sluicegate_edge_websocket_messages_total{type="publish"}') >= 42


def test_a_producer_that_waits_is_given_a_verdict_an_event(edge, twin):
    stream = opened(twin)
    ids = ["first-event", "second-event"]
    with Talk(edge.url) as talk:
        known(edge, talk, stream)
        events = [log("one", event_id=ids[0]), log("two", event_id=ids[1])]
        talk.say("publish", id=1, stream=stream.stream_id, events=events, wait="committed")
        _until(lambda: len(appended(twin, stream.stream_id)) == 2)
        twin.write(stream, [("log", {"line": "one"})], event_ids=ids[:1])
        twin.reject("default", stream.stream_id, ids[1], "late")
        ack = talk.hear("publish_ack")
    verdicts = [(each["event_id"], each["verdict"]) for each in ack["verdicts"]]
    assert verdicts == [(ids[0], "accepted"), (ids[1], "late")]


def test_a_chat_message_is_acknowledged_by_its_own_id_and_is_the_same_when_it_is_repeated(edge, twin):
    room, build = opened(twin, "chat"), opened(twin)
    said = str(uuid.uuid4())
    with Talk(edge.url) as talk:
        known(edge, talk, room)
        known(edge, talk, build)
        for _ in range(2):
            assert talk.ask("chat", id=said, stream=room.stream_id, text="hello", **{"from": "ann"}) == {
                "type": "chat_ack", "id": said, "tenant": "default", "stream": room.stream_id,
                "event_id": said,
            }  # fmt: skip
        assert talk.ask("chat", id="1", stream=room.stream_id, text="hello")["code"] == "bad_id"
        assert talk.ask("chat", id=said, stream=build.stream_id, text="hello")["code"] == "wrong_kind"
        assert talk.ask("chat", id=said, stream="no-room", text="hello")["code"] == "no_such_stream"
    messages = appended(twin, room.stream_id)
    assert [(event.type, event.event_id) for event in messages] == [("message", said)] * 2
    assert twin.payload(messages[0]) == {"from": "ann", "text": "hello"}


def test_a_cancel_is_appended_and_a_stream_that_has_ended_cannot_be_cancelled(edge, twin):
    stream = opened(twin, "job")
    with Talk(edge.url) as talk:
        known(edge, talk, stream)
        asked = {"stream": stream.stream_id, "reason": "enough", "by": "ann"}
        answer = talk.ask("cancel", id=1, **asked)
        assert answer["type"] == "cancel_ack", str(answer)
        talk.ask("subscribe", id=2, stream=stream.stream_id)
        twin.end(stream, "cancelled")
        talk.until_type("ended")
        cursor = next(message["cursor"] for message in reversed(talk.heard) if message["type"] == "event")
        while (answer := talk.ask("cancel", id=3, **asked))["type"] == "cancel_ack":
            pass  # the index is written after the event
        assert answer["code"] == "stream_has_ended"
        assert talk.ask("subscribe", id=4, stream=stream.stream_id, cursor=cursor) == {
            "type": "ended", "id": 4, "tenant": "default", "stream": stream.stream_id
        }  # fmt: skip
    event = appended(twin, stream.stream_id)[0]
    assert (event.type, twin.payload(event)) == ("cancel", {"reason": "enough", "by": "ann"})


def test_an_edge_that_stops_answers_what_is_under_way_and_says_that_it_goes(edge, twin):
    stream = opened(twin)
    with Talk(edge.url) as talk:
        known(edge, talk, stream)
        events = [log("one", event_id="under-way")]
        talk.say("publish", id=1, stream=stream.stream_id, events=events, wait="committed")
        _until(lambda: appended(twin, stream.stream_id))
        stopping = threading.Thread(target=edge.terminate)
        stopping.start()
        edge.wait_for("/readyz", 503)
        twin.write(stream, [("log", {"line": "one"})], event_ids=["under-way"])
        assert talk.hear("publish_ack")["verdicts"][0]["verdict"] == "accepted"
        goodbye = talk.hear("reconnect")
        assert (goodbye["reason"], goodbye["retry_ms"] >= 1_000) == ("drain", True)
        assert talk.closed() == (1012, "drain")
        stopping.join()


def test_a_handshake_that_is_none_or_of_a_page_of_another_site_is_refused_before_anything_is_opened(edge):
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }

    def ask(method: str = "GET", **headers: str) -> httpx2.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        kept = {name: value for name, value in (upgrade | given).items() if value}
        return httpx2.request(method, f"{edge.url}/v1/ws", headers=kept, trust_env=False, verify=False)

    plain = ask(connection="", upgrade="")
    assert (plain.status_code, plain.headers["upgrade"]) == (426, "websocket")
    assert plain.headers["content-type"] == "application/problem+json"
    assert ask(sec_websocket_version="8").status_code == 400
    assert ask(sec_websocket_key="short").status_code == 400
    assert ask(sec_websocket_key="").status_code == 400
    assert ask("POST").status_code == 405
    assert ask(origin="https://evil.example").status_code == 403
    assert ask(origin="null").status_code == 403
    assert ask(host="evil.example").status_code == 421
    with Talk(edge.url, origin=edge.url) as talk:  # a page of its own
        assert talk.ask("ping", id=1)["type"] == "pong"
    assert edge.metric('sluicegate_edge_connections{transport="websocket"}') == 0


def test_strangers_who_send_no_frames_of_a_client_are_told_by_the_code_and_leave_nothing_behind(edge):
    for sent, code in (
        (b"\x81\x02hi", 1002),
        (b"\x82\x82\x00\x00\x00\x00{}", 1003),
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),
        (b"\x81\xff" + (1 << 40).to_bytes(8, "big") + b"mask", 1009),
        (os.urandom(1 << 20), None),
    ):
        with socket.create_connection(("127.0.0.1", edge.port), timeout=30) as stranger:
            stranger.sendall(
                b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            received = b""
            while b'"connected"' not in received:
                received += stranger.recv(1 << 16)
            with contextlib.suppress(ConnectionError):  # random bytes may be cut off while they are sent
                stranger.sendall(sent)
                while chunk := stranger.recv(1 << 16):
                    received += chunk
            if code is not None:
                assert received.partition(b"\x88")[2][1:3] == code.to_bytes(2, "big")
    with Talk(edge.url) as talk:
        assert talk.ask("ping", id=1)["type"] == "pong"
    deadline = time.monotonic() + 30
    while edge.metric('sluicegate_edge_connections{transport="websocket"}'):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Traceback" not in edge.log.read_text()


def test_who_cannot_be_taken_is_told_by_status_before_the_handshake(stage):
    edge = stage.edge(connections_max=1)
    with Talk(edge.url), pytest.raises(InvalidStatus) as refused:
        Talk(edge.url)
    response = refused.value.response
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    assert json.loads(response.body)["detail"].endswith("overload")


def test_a_client_is_whom_its_token_says_and_goes_on_with_a_new_one(stage, tmp_path):
    issuer = Issuer()
    edge = stage.edge(access={"keys_file": str(keys_file(tmp_path, issuer)), "issuer": ISSUER})
    mine, other = opened(stage.twin), opened(stage.twin, "job")

    def bearer(**claims: Any) -> dict[str, Any]:
        usual = {"tenants": ["default"], "streams": [mine.stream_id], "kinds": ["*"], "scope": "subscribe"}
        return {"additional_headers": {"authorization": f"Bearer {issuer.token(**(usual | claims))}"}}

    with pytest.raises(InvalidStatus) as refused:
        Talk(edge.url)
    assert refused.value.response.status_code == 401
    with Talk(edge.url, **bearer()) as talk:
        assert talk.ask("subscribe", id=1, stream=mine.stream_id)["type"] == "subscribed"
        assert talk.until_type("event")["event"]["seq"] == 0
        assert talk.ask("subscribe", id=2, stream=other.stream_id)["code"] == "forbidden"
        denied = talk.ask("publish", id=3, stream=mine.stream_id, events=log("x"))
        assert (denied["code"], denied["status"]) == ("forbidden", 403)
        assert talk.ask("cancel", id=4, stream=mine.stream_id)["code"] == "forbidden"
        assert talk.ask("auth", id=5, token="worth.nothing")["code"] == "token_refused"
        token = issuer.token(tenants=["default"], streams=["*"], kinds=["job"], scope="subscribe publish")
        talk.say("auth", id=6, token=token)
        assert talk.hear("refused")["stream"] == mine.stream_id
        assert talk.hear("auth_ack")["expires_in_ms"] > 500_000
        assert talk.ask("subscribe", id=7, stream=other.stream_id)["type"] == "subscribed"
        assert token not in edge.log.read_text()


def test_the_client_of_the_page_shows_each_line_of_two_streams_once_though_the_edge_is_full_then_killed(
    stage, twin, tmp_path
):
    edge = stage.edge(tenant_connections_max=1)
    one, two = opened(twin), opened(twin)
    shown = tmp_path / "shown"

    def until_shown(text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in shown.read_text():
            assert time.monotonic() < deadline, shown.read_text()
            time.sleep(0.05)

    def turned_away() -> bool:
        metrics = httpx2.get(f"{edge.url}/metrics", trust_env=False, verify=False).text
        return 'sluicegate_edge_limited_total{limit="tenant_connections"' in metrics

    url = edge.url.replace("http", "ws") + "/v1/ws"
    other = Talk(edge.url)
    other.ask("subscribe", id=1, stream="of-another")
    with shown.open("wb") as out:
        client = subprocess.Popen(
            [sys.executable, EXAMPLE, url, one.stream_id, two.stream_id],
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
    try:
        _until(turned_away)
        other.socket.close()
        twin.logs(one, 20)
        twin.logs(two, 10)
        until_shown(f"{one.stream_id}: line 20\n")
        until_shown(f"{two.stream_id}: line 10\n")
        edge.kill()
        twin.end(two)
        twin.logs(one, 20)
        edge.start()
        until_shown(f"{one.stream_id}: line 40\n")
        twin.write(one, [("log", {"line": LARGE})])
        twin.end(one)
        assert client.wait(60) == 0
    finally:
        client.kill()
        client.wait()
    lines = shown.read_text().splitlines()
    for stream, count_, large in ((one, 40, [LARGE]), (two, 10, [])):
        mine = [line.partition(": ")[2] for line in lines if line.startswith(f"{stream.stream_id}: ")]
        assert mine == [*(f"line {n}" for n in range(1, count_ + 1)), *large, "--- completed ---"]
