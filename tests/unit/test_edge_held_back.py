"""Producers whose stream is slowed, where their transport has a credit to withhold; the real publisher."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode

from edge import conversation, held_back, slowing
from edge.grpc_service import StreamCalls
from schemas.proto.sluicegate.v1.stream_pb2 import NewEvent, PublishRequest, PublishResponse
from tests.support.fake_call import FakeCall
from tests.unit.support_pressure import Scene, backpressure, play, publishing, until
from tests.unit.support_websocket import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.unit.support_pressure import Kept
    from tests.unit.support_websocket import Message, Peer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (slowing, held_back, conversation):
        monkeypatch.setattr(module, "TICK_S", 0.01)
    monkeypatch.setattr(slowing, "SETTLE_S", 0.05)
    monkeypatch.setattr(slowing, "_RETRY_AFTER_S", 0)
    return


def slow_producer(**options: Any) -> Scene:
    return Scene(backpressure("slow_producer"), **options)


def publish(number: int, stream: str = "s", line: str = "") -> Message:
    events = [{"type": "log", "payload": {"line": line or str(number)}}]
    return {"type": "publish", "id": number, "stream": stream, "kind": "job", "events": events}


def answers(peer: Peer) -> dict[object, str]:
    """What was answered so far, by the id of the request."""
    return {one["id"]: one.get("code", one["type"]) for one in peer.messages() if "id" in one}


def appended(edge: Scene, kept: Kept) -> list[str]:
    """The events in order, by line or type."""
    shown = [(event.type, edge.payloads.decode(event.payload_schema, event.payload)) for event in kept.events]
    return [fields["line"] if type_name == "log" else type_name for type_name, fields in shown]


async def tried(edge: Scene) -> None:
    """Until a request was found to be too fast."""
    await until(lambda: edge.counted("slowed_publishes_total", kind="job") == 1)


def test_a_publish_waits_for_its_acknowledgement_and_a_cancel_and_other_streams_do_not():
    async def scene() -> None:
        edge = slow_producer()
        with publishing(edge) as (_, kept):
            await edge.slow()
            peer = connect(edge.share)
            peer.say(publish(1), publish(2), {"type": "cancel", "id": 3, "stream": "s"}, publish(4))
            peer.say(publish(5, "elsewhere"), {"type": "ping", "id": 6})
            await until(lambda: len(answers(peer)) == 3)
            assert answers(peer) == {3: "cancel_ack", 5: "publish_ack", 6: "pong"}
            await tried(edge)
            assert sorted(appended(edge, kept)) == ["5", "cancel"]
            await edge.relieve()
            await until(lambda: len(answers(peer)) == 6)
            assert [answers(peer)[number] for number in (1, 2, 4)] == ["publish_ack"] * 3
            assert appended(edge, kept)[2:] == ["1", "2", "4"]
            assert edge.counted("publish_requests_total", status="202") == 5
            assert edge.counted("publish_requests_total", status="429") == 0

    play(scene())


def test_one_that_has_spent_its_credit_is_not_read_until_there_is_more():
    async def scene() -> None:
        edge = slow_producer(websocket_requests_max=2)
        with publishing(edge) as (_, kept):
            await edge.slow()
            peer = connect(edge.share)
            peer.say(publish(1), publish(2), publish(3))
            await tried(edge)
            assert not peer.out.reading
            await edge.relieve()
            await until(lambda: answers(peer) == dict.fromkeys((1, 2, 3), "publish_ack"))
            assert peer.out.reading
            assert appended(edge, kept) == ["1", "2", "3"]

    play(scene())


def test_what_was_held_back_for_long_enough_is_refused_and_nothing_of_it_appended(monkeypatch):
    monkeypatch.setattr(conversation, "HELD_BACK_S_MAX", 0.1)

    async def scene() -> None:
        edge = slow_producer()
        with publishing(edge) as (_, kept):
            await edge.slow()
            peer = connect(edge.share)
            peer.say(publish(1))
            await until(lambda: answers(peer) == {1: "slowed"})
            (refused,) = [one for one in peer.messages() if one["type"] == "error"]
            assert refused["status"] == 429
            assert "retry_ms" in refused
            assert kept.events == []
            peer.say({"type": "ping", "id": 2})
            assert answers(peer)[2] == "pong"

    play(scene())


def test_an_edge_that_stops_answers_what_it_held_back_before_it_closes():
    async def scene() -> None:
        edge = slow_producer()
        with publishing(edge) as (_, kept):
            await edge.slow()
            peer = connect(edge.share)
            peer.say(publish(1), publish(2))
            await tried(edge)
            peer.connection.send_away("drain")
            await until(lambda: peer.out.half_closed or "reconnect" in peer.types())
            assert answers(peer) == {1: "slowed", 2: "slowed"}
            assert peer.types()[-1] == "reconnect"
            assert kept.events == []

    play(scene())


def test_what_waits_when_its_client_leaves_is_not_done_nor_what_would_overtake_it():
    async def scene() -> None:
        edge = slow_producer()
        with publishing(edge) as (_, kept):
            await edge.slow()
            peer = connect(edge.share)
            peer.say(publish(1), publish(2), {"type": "cancel", "id": 3, "stream": "s"}, publish(4))
            await until(lambda: 3 in answers(peer))
            peer.out.close()
            await until(lambda: not peer.connection._conversation.under_way)
            assert edge.share.held_bytes == 0
            await edge.relieve()
            after = connect(edge.share)
            after.say(publish(5))
            await until(lambda: 5 in answers(after))
            assert appended(edge, kept) == ["cancel", "5"]

    play(scene())


def test_an_edge_that_holds_much_already_refuses_at_once():
    async def scene() -> None:
        edge = slow_producer(websocket_held_bytes_max=2_000)
        with publishing(edge) as (_, kept):
            await edge.slow()
            peer = connect(edge.share)
            peer.say(publish(1), publish(2, "elsewhere"))
            await until(lambda: 2 in answers(peer))
            assert 1 not in answers(peer)
            peer.say(publish(3, line="x" * 1_500))
            await until(lambda: answers(peer).get(1) == answers(peer).get(3) == "slowed")
            assert appended(edge, kept) == ["2"]

    play(scene())


def request(number: int) -> bytes:
    event = NewEvent(type="log", event_id=f"e{number}", json=f'{{"line": "{number}"}}')
    return PublishRequest(stream_id="s", kind="job", events=[event]).SerializeToString()


def test_a_grpc_publish_is_refused_and_of_a_publish_many_no_more_is_read_until_the_stream_may_go_on():
    async def scene() -> None:
        edge = slow_producer()
        with publishing(edge) as (publisher, kept):
            calls, read = StreamCalls(edge.core, publisher), []
            await edge.slow()
            one = FakeCall()
            with pytest.raises(grpc.aio.AbortError):
                await calls.answered(calls.publish)(request(9), one)
            assert one.code is StatusCode.RESOURCE_EXHAUSTED

            async def requests() -> AsyncIterator[bytes]:
                for number in range(3):
                    read.append(number)
                    yield request(number)

            call = FakeCall()
            task = asyncio.create_task(calls.answered(calls.publish_many)(requests(), call))
            await until(lambda: edge.counted("slowed_publishes_total", kind="job") == 2)
            assert (read, call.messages, kept.events) == ([0], [], [])
            await edge.relieve()
            await task
            found = [PublishResponse.FromString(message).events[0].event_id for message in call.messages]
            assert found == ["e0", "e1", "e2"]
            assert appended(edge, kept) == ["0", "1", "2"]
            assert edge.counted("publish_requests_total", status="202") == 3

    play(scene())


def test_a_publish_many_of_an_edge_that_stops_ends_and_one_whose_client_leaves_appends_nothing():
    async def scene() -> None:
        edge = slow_producer()
        with publishing(edge) as (publisher, kept):
            calls = StreamCalls(edge.core, publisher)
            await edge.slow()

            async def requests() -> AsyncIterator[bytes]:
                yield request(0)

            left = asyncio.create_task(calls.answered(calls.publish_many)(requests(), FakeCall()))
            call = FakeCall()
            stays = asyncio.create_task(calls.answered(calls.publish_many)(requests(), call))
            await until(lambda: edge.counted("slowed_publishes_total", kind="job") == 2)
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            edge.core.draining = True
            await asyncio.gather(stays, return_exceptions=True)
            assert call.code is StatusCode.RESOURCE_EXHAUSTED
            await edge.relieve()
            assert kept.events == []
            assert calls.under_way == 0

    play(scene())
