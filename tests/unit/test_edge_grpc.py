"""A call as a connection: what it pins, what it says before it ends, and how errors become statuses."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from edge.access.identity import ANYBODY
from edge.core import EdgeCore
from edge.errors import HistoryUnavailable, PortInUse, RequestError
from edge.frame import declared
from edge.grpc_errors import PROBLEM_KEY, PUSHBACK_KEY, failed, sent_away, status_of
from edge.grpc_messages import MESSAGE_BYTES_MAX, LogEncoder, WatchEncoder, event_of
from edge.grpc_publish import values_of
from edge.grpc_service import StreamCalls
from edge.options import EdgeOptions
from edge.server import bind, hold_for_grpc
from schemas.catalog import LocalSchemas
from schemas.envelope import check_stream_name
from schemas.errors import ForeignCursor, InvalidEvent, MalformedCursor
from schemas.payloads import PayloadCodec
from schemas.proto.sluicegate.v1.logs_pb2 import LogEvent
from schemas.proto.sluicegate.v1.stream_pb2 import (
    NewEvent,
    Problem,
    PublishRequest,
    PublishResponse,
    WatchRequest,
    WatchResponse,
)
from tests.support.fake_call import FakeCall
from tests.unit.support_grpc import Desk, play, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def test_a_client_that_does_not_read_pins_one_write_while_others_flow_and_goes_on_where_it_was():
    async def scene() -> None:
        desk = Desk()
        desk.emit(0, type_name="open")
        slow, its_connection, its_call = desk.watch()
        fast, _, fast_call = desk.watch()
        await until(lambda: slow.seqs == fast.seqs == [0])
        slow.reads.clear()
        for seq in range(1, 200):
            desk.emit(seq)
            await until(lambda seq=seq: fast.seqs[-1] == seq)
        assert its_connection.paused
        pinned = its_connection.transport.get_write_buffer_size()
        assert 0 < pinned < 200
        slow.reads.set()
        desk.emit(200, type_name="end")
        await asyncio.gather(its_call, fast_call)
        assert slow.seqs == fast.seqs == list(range(201))
        assert len(slow.messages) < 10, "what came meanwhile goes in few messages"

    play(scene())


def test_what_came_at_once_is_one_message_and_the_same_bytes_for_all():
    async def scene() -> None:
        desk = Desk()
        watches = [desk.watch() for _ in range(3)]
        desk.emit(0, type_name="open")
        await until(lambda: all(call.seqs == [0] for call, _, _ in watches))
        await asyncio.sleep(0.1)  # all are abreast again
        desk.emit(*range(1, 20))
        await until(lambda: all(call.seqs == list(range(20)) for call, _, _ in watches))
        last = [call.messages[-1] for call, _, _ in watches]
        assert all(message is last[0] for message in last)
        for _, _, task in watches:
            task.cancel()

    play(scene())


def test_a_watch_ends_well_at_the_end_and_is_counted_no_more():
    async def scene() -> None:
        desk = Desk()
        desk.emit(0, type_name="open")
        call, connection, task = desk.watch()
        await until(lambda: desk.core.connections == 1)
        desk.emit(1, type_name="end")
        await task
        assert call.said[-1].events[-1].end.reason == "completed"
        assert connection.status is None
        assert (desk.core.connections, desk.core.hub.followers) == (0, 0)

    play(scene())


def test_one_that_is_sent_away_while_it_does_not_read_is_told_once_it_does():
    async def scene() -> None:
        desk = Desk()
        call, connection, task = desk.watch()
        call.reads.clear()
        desk.emit(0, type_name="open")
        await until(lambda: connection.paused)
        connection.send_away("drain")
        assert not task.done()
        call.reads.set()
        await task
        assert call.seqs == [0]
        assert call.said[-1].reconnect.reason == "drain"
        status = connection.status
        assert status is not None
        assert status.code is StatusCode.UNAVAILABLE
        assert call.said[-1].reconnect.retry_ms == status.problem.retry_ms >= 1_000

    play(scene())


@pytest.mark.parametrize("reason", ["stalled", "revoked"])
def test_one_that_is_aborted_is_let_go_at_once_and_its_call_ends_with_a_status(reason):
    async def scene() -> None:
        desk = Desk(write_stall_ms_max=100 if reason == "stalled" else 60_000)
        call, connection, task = desk.watch()
        call.reads.clear()
        desk.emit(0, type_name="open")
        await until(lambda: connection.paused)
        if reason == "revoked":
            connection.send_away("revoked")
            connection.abort("stalled")  # the first reason is the one
        await task  # its client never reads
        assert (desk.core.connections, desk.core.hub.followers, len(desk.core.wheel)) == (0, 0, 0)
        assert connection.status is not None
        assert connection.status.code is StatusCode.UNAVAILABLE
        assert connection.status.problem.code == reason
        assert call.messages == []

    play(scene())


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads nothing"])
@pytest.mark.parametrize(
    ("reason", "code", "name"),
    [
        ("drain", StatusCode.UNAVAILABLE, "drain"),
        ("expired", StatusCode.UNAUTHENTICATED, "token_expired"),
        ("revoked", StatusCode.UNAUTHENTICATED, "token_revoked"),
    ],
)
def test_lines_have_no_word_for_what_befalls_their_call_so_its_status_alone_says_it(
    reason, code, name, reads
):
    async def scene() -> None:
        desk = Desk()
        call, connection, task = desk.lines()
        desk.emit(0, type_name="log")
        await until(lambda: len(call.messages) == 1)
        if not reads:
            call.reads.clear()
            desk.emit(1)
            await until(lambda: connection.paused)
        if reason == "expired":
            connection.authorise(replace(ANYBODY, expires_s=time.time() + 0.3))
        else:
            connection.send_away(reason)
        if not reads and reason != "revoked":  # who has no right to it any more is not waited for
            await asyncio.sleep(0.4)
            assert not task.done()
            call.reads.set()
        await task
        lines = [LogEvent.FromString(message).line for message in call.messages]
        assert lines == (["0"] if reads or reason == "revoked" else ["0", "1"])
        assert connection.status is not None
        assert (connection.status.code, connection.status.problem.code) == (code, name)
        assert (PUSHBACK_KEY in dict(connection.status.metadata)) is (reason == "drain")
        assert (desk.core.connections, desk.core.hub.followers) == (0, 0)

    play(scene())


def test_a_client_that_leaves_takes_its_place_with_it_whether_it_read_or_not():
    async def scene() -> None:
        desk = Desk()
        for reads in (True, False):
            call, connection, task = desk.watch()
            if not reads:
                call.reads.clear()
            desk.emit(0, type_name="open")
            await until(lambda connection=connection: desk.core.connections == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (desk.core.connections, desk.core.hub.followers) == (0, 0)
            assert connection.status is None

    play(scene())


def test_an_idle_watch_gets_empty_messages_and_lives_no_longer_than_it_may():
    async def scene() -> None:
        desk = Desk()
        call, connection, task = desk.watch(heartbeat_ms=150, life_ms_max=1_500)
        await task
        beats = [message for message in call.messages if message == b""]
        assert len(beats) >= 2
        assert call.said[-1].reconnect.reason == "life"
        assert connection.status is not None

    play(scene())


@given(st.lists(st.sampled_from(["log", "progress", "gap", "reset", "end"]), max_size=20))
def test_the_messages_of_lines_are_those_of_each_event(types):
    encoder = LogEncoder(EdgeCore(EdgeOptions(), PayloadCodec(LocalSchemas()), topic_version=1).json)
    frames = [
        declared(
            name,
            {"seq": seq, "line": f"{seq}", "count": 2, "from_seq": 1, "reason": "lost\n it"},
            cursor="",
            seq=seq,
            offset=seq,
        )
        for seq, name in enumerate(types)
    ]
    messages = [LogEvent.FromString(message) for message in encoder.messages(encoder.encode(frames))]
    told = {
        "gap": "[sluicegate: 2 events are missing here (lost\n it)]",
        "reset": "[sluicegate: what came from event 1 on is superseded by what follows (lost it)]",
        "end": "",
    }
    assert [(event.line, event.done) for event in messages] == [
        (told.get(name, str(seq)), name == "end") for seq, name in enumerate(types) if name != "progress"
    ]
    notes = {"gap": (LogEvent.NOTE_GAP, 1), "reset": (LogEvent.NOTE_RESET, 1)}
    assert [(event.seq, event.note, event.from_seq) for event in messages] == [
        (seq, *notes.get(name, (LogEvent.NOTE_UNSPECIFIED, 0)))
        for seq, name in enumerate(types)
        if name != "progress"
    ]


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=12))
def test_much_is_divided_between_events_and_is_the_same_together(sizes):
    encoder = WatchEncoder(EdgeCore(EdgeOptions(), PayloadCodec(LocalSchemas()), topic_version=1).json)
    frames = [
        declared("log", {"seq": seq, "line": "x" * size}, cursor="c", seq=seq, offset=seq)
        for seq, size in enumerate(sizes)
    ]
    data = encoder.encode(frames)
    messages = list(encoder.messages(data))
    assert b"".join(messages) == data
    read = [WatchResponse.FromString(message) for message in messages]
    assert [event.seq for each in read for event in each.events] == list(range(len(sizes)))
    assert all(len(message) <= MESSAGE_BYTES_MAX or len(each.events) == 1
               for message, each in zip(messages, read, strict=True))  # fmt: skip
    assert len(messages) <= 1 + 2 * len(data) // MESSAGE_BYTES_MAX


def test_an_event_that_cannot_be_decoded_is_the_gap_that_its_json_says():
    shown = (
        b'{"type":"gap","seq":4,"time":"2026-01-01T00:00:00.000001Z","from_seq":4,"to_seq":4,"count":1,'
        b'"reason":"unreadable","event_id":"e","of_type":"mine"}'
    )
    event = event_of("c", shown)
    assert (event.type, event.gap.count, event.gap.of_type, event.event_id) == ("gap", 1, "mine", "e")
    assert event.time.ToJsonString() == "2026-01-01T00:00:00.000001Z"


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (
            RequestError(422, "t", "d", extra={"field": "payload.x", "index": 3}),
            StatusCode.INVALID_ARGUMENT,
            False,
        ),
        (RequestError(503, "t", "d", headers={"retry-after": "1"}), StatusCode.UNAVAILABLE, True),
        (
            RequestError(503, "t", "d", extra={"code": "overloaded"}, headers={"retry-after": "1"}),
            StatusCode.RESOURCE_EXHAUSTED,
            True,
        ),
        (RequestError(429, "t", "d", headers={"retry-after": "2"}), StatusCode.RESOURCE_EXHAUSTED, True),
        (RequestError(599, "t", "d"), StatusCode.INTERNAL, False),
        (InvalidEvent("stream_id", "is empty"), StatusCode.INVALID_ARGUMENT, False),
        (MalformedCursor("no"), StatusCode.INVALID_ARGUMENT, False),
        (ForeignCursor(), StatusCode.PERMISSION_DENIED, False),
        (HistoryUnavailable("away"), StatusCode.UNAVAILABLE, True),
    ],
)
def test_an_error_has_one_status_and_says_when_to_repeat_only_where_that_is_of_use(error, code, retry):
    status = status_of(error)
    assert status.code is code
    metadata = dict(status.metadata)
    assert (PUSHBACK_KEY in metadata) is retry
    problem = Problem.FromString(metadata[PROBLEM_KEY])
    assert (problem.detail, problem.remedy) == (str(error), error.remedy)
    if isinstance(error, RequestError) and error.status == 422:
        assert (problem.field, problem.index) == ("payload.x", 3)


def test_what_is_quoted_of_a_request_never_makes_more_metadata_than_clients_take():
    status = status_of(InvalidEvent("type", "is " + "x" * 100_000))
    assert sum(len(name) + len(value) for name, value in status.metadata) < 4_096


def test_what_ought_not_to_happen_tells_a_stranger_nothing():
    assert failed().problem.detail == "the edge failed; its log says why"
    assert sent_away("overload", 5).code is StatusCode.RESOURCE_EXHAUSTED


def test_a_published_message_says_only_what_it_was_given():
    event = NewEvent(type="log", json='{"line": "x"}')
    assert values_of([event]) == [{"type": "log", "epoch": 0, "attempt": 0, "payload": {"line": "x"}}]
    event = NewEvent(type="usage", seq=0, event_id="e")
    event.fields.update({"tokens": 3, "ratio": 0.5, "deep": {"list": [1, True, None]}})
    event.time.FromMicroseconds(1_700_000_000_000_001)
    assert values_of([event]) == [
        {
            "type": "usage", "seq": 0, "event_id": "e", "epoch": 0, "attempt": 0,
            "time": 1_700_000_000_000_001,
            "payload": {"tokens": 3, "ratio": 0.5, "deep": {"list": [1, True, None]}},
        }
    ]  # fmt: skip


def test_a_port_for_grpc_is_the_next_one_or_another_and_one_that_was_asked_for_must_be_free():
    with bind("127.0.0.1", 0) as http:
        beside = http.getsockname()[1]
        with hold_for_grpc("127.0.0.1", None, beside=beside) as held:
            assert held.getsockname()[1] != beside
        taken = bind("127.0.0.1", 0)
        with taken, hold_for_grpc("127.0.0.1", None, beside=taken.getsockname()[1] - 1) as held:
            assert held.getsockname()[1] != taken.getsockname()[1]
            with pytest.raises(PortInUse, match="cannot listen") as refused:
                hold_for_grpc("127.0.0.1", taken.getsockname()[1], beside=beside)
            assert "--grpc-port" in refused.value.remedy


class BusyPublisher:
    """Refuses for pace as often as it is told to, and takes what comes then."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.taken: list[Any] = []

    async def publish_values(self, asked: Any, values: list[Any]) -> dict[str, Any]:
        if self.refusals:
            self.refusals -= 1
            raise RequestError(429, "Stream is slowed", "slowed", headers={"retry-after": "0"})
        check_stream_name(asked.tenant, asked.stream_id)
        assert asked.transport == "grpc"
        self.taken += values
        offsets = [{"event_id": "e", "partition": 0, "offset": 0} for _ in values]
        return {"tenant": asked.tenant, "stream_id": asked.stream_id, "offsets": offsets}

    async def publish_one(self, asked: Any, type_name: str, fields: Any) -> dict[str, Any]:
        raise AssertionError("there is no stream to cancel")


def test_a_stream_of_requests_is_not_read_while_its_producer_is_held_back_and_loses_none():
    async def scene() -> None:
        desk = Desk()
        publisher = BusyPublisher()
        calls = StreamCalls(desk.core, publisher)  # type: ignore[arg-type]  # a twin
        read: list[int] = []

        async def requests() -> AsyncIterator[bytes]:
            for number in range(3):
                read.append(number)
                publisher.refusals = 20
                event = NewEvent(type="log", json=f'{{"line": "{number}"}}')
                yield PublishRequest(stream_id="s", kind="job", events=[event]).SerializeToString()
                assert len(publisher.taken) == number + 1, "the next was asked for before this one was taken"

        call = FakeCall()
        await calls.answered(calls.publish_many)(requests(), call)
        assert [value["payload"]["line"] for value in publisher.taken] == ["0", "1", "2"]
        assert (len(call.messages), read) == (3, [0, 1, 2])
        desk.core.draining = True
        publisher.refusals = 1
        with pytest.raises(grpc.aio.AbortError):
            await calls.answered(calls.publish_many)(requests(), call)
        assert call.code is StatusCode.RESOURCE_EXHAUSTED

    play(scene())


def test_metadata_of_any_text_is_no_failure_of_the_edge():
    async def scene() -> None:
        desk = Desk()
        calls = StreamCalls(desk.core, BusyPublisher())  # type: ignore[arg-type]  # a twin
        call = FakeCall()
        call.metadata = (("x-text", "\u20ac\udcff"), ("x-bytes-bin", b"\xff"), ("authorization", "\u00e9"))
        request = PublishRequest(stream_id="s", kind="job", events=[NewEvent(type="log", json="{}")])
        answer = await calls.answered(calls.publish)(request.SerializeToString(), call)
        assert PublishResponse.FromString(answer).stream_id == "s"

    play(scene())


_TEXT = st.text(max_size=20)
_REQUESTS = st.one_of(
    st.binary(max_size=60),
    st.builds(WatchRequest, tenant=_TEXT, stream_id=_TEXT, cursor=_TEXT).map(WatchRequest.SerializeToString),
    st.builds(
        PublishRequest,
        tenant=_TEXT,
        stream_id=_TEXT,
        kind=_TEXT,
        events=st.lists(st.builds(NewEvent, type=_TEXT, json=_TEXT, event_id=_TEXT), max_size=3),
    ).map(PublishRequest.SerializeToString),
)


@given(_REQUESTS, st.sampled_from(["watch", "watch_logs", "publish", "cancel"]))
def test_whatever_bytes_come_are_answered_by_a_status_that_names_the_clients_mistake(data, method):
    async def scene() -> None:
        desk = Desk()
        calls = StreamCalls(desk.core, BusyPublisher())  # type: ignore[arg-type]  # a twin
        call = FakeCall()
        behaviour = calls.answered(getattr(calls, method))
        task = asyncio.ensure_future(behaviour(data, call))
        await asyncio.wait({task}, timeout=0.02)
        if not task.done():  # a stream of that name may be watched
            assert method.startswith("watch")
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert call.code in (
            None, StatusCode.INVALID_ARGUMENT, StatusCode.PERMISSION_DENIED, StatusCode.NOT_FOUND,
        )  # fmt: skip
        assert (desk.core.connections, desk.core.hub.followers, calls.under_way) == (0, 0, 0)

    play(scene())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_the_events_fault_and_not_the_edges(number):
    event = NewEvent(type="progress")
    event.fields.update({"done": [number]})
    with pytest.raises(RequestError) as refused:
        values_of([NewEvent(type="log", json="{}"), event])
    assert (refused.value.status, refused.value.extra) == (422, {"index": 1, "field": "payload"})
