"""What is read of clients over gRPC, and when; and health, which answers whoever else does not read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from edge.access.options import AccessOptions
from edge.errors import RequestError
from edge.grpc_errors import ended_by_status
from edge.grpc_health import Health, Reflection
from edge.grpc_requests import Requests
from edge.grpc_service import StreamCalls
from schemas.proto.sluicegate.v1.stream_pb2 import WatchRequest
from tests.support.fake_call import FakeCall
from tests.support.tokens import ALL, ISSUER, Issuer, keys_file
from tests.unit.support_grpc import Desk, play, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def call_from(address: str) -> FakeCall:
    call = FakeCall()
    call.address = address
    return call


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Until all have come as far as they can by themselves."""
    await asyncio.wait(tasks, timeout=0.02)


def test_so_many_requests_are_read_at_a_time_and_no_connection_has_the_places_of_all():
    async def scene() -> None:
        requests = Requests(places=8, read_ms_max=60_000)
        calls = [call_from(peer) for peer in ("a", "a", "a", "b", "b", "b", "c", "c", "d", "d", "e")]
        reading = [asyncio.create_task(requests.next(call)) for call in calls]
        await settled(*reading)
        assert [call.asked for call in calls] == [1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0]
        calls[0].requests.put_nowait(b"whole")
        assert await reading[0] == b"whole"
        await settled(*reading)
        assert [call.asked for call in calls] == [1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1]
        calls[1].requests.put_nowait(b"")
        assert await reading[1] == b""
        await settled(*reading)
        assert sum(call.asked for call in calls) == 10
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        again = [asyncio.create_task(requests.next(call_from(peer))) for peer in "abcdefgh"]
        await settled(*again)
        assert not any(task.done() for task in again), "who has left holds no place"
        for task in again:
            task.cancel()

    play(scene())


def test_a_request_that_does_not_come_or_finds_no_place_in_its_time_is_refused_by_name():
    async def scene() -> None:
        requests = Requests(places=1, read_ms_max=30)
        slow, waits = FakeCall(), FakeCall()

        async def refused(call: FakeCall) -> tuple[int, str]:
            with pytest.raises(RequestError) as error:
                await requests.one(call)
            return error.value.status, error.value.title

        answers = await asyncio.gather(refused(slow), refused(waits))
        assert answers[0] == (408, "Request too slow")
        assert answers[1] in ((408, "Request too slow"), (503, "Overloaded"))  # its place may come free
        empty = FakeCall()
        empty.requests.put_nowait(grpc.aio.EOF)
        assert await refused(empty) == (400, "No request")
        whole = FakeCall()
        whole.requests.put_nowait(b"whole")
        assert await requests.one(whole) == b"whole"

    play(scene())


def test_nothing_is_read_of_whoever_is_not_let_in(tmp_path: Path):
    async def scene() -> None:
        issuer = Issuer()
        keys = keys_file(tmp_path, issuer)
        desk = Desk(access=AccessOptions(keys_file=keys, issuer=ISSUER))
        desk.core.all_revoked()
        calls = StreamCalls(desk.core, None)
        reader = (("authorization", f"Bearer {issuer.token(**{**ALL, 'scope': 'subscribe'})}"),)
        for method, metadata, code in (
            (calls.asked_once(calls.publish), (), StatusCode.UNAUTHENTICATED),
            (calls.publish_many, (), StatusCode.UNAUTHENTICATED),
            (calls.publish_many, reader, StatusCode.PERMISSION_DENIED),
        ):
            call = FakeCall()
            call.metadata = metadata
            with pytest.raises(grpc.aio.AbortError):
                await calls.answered(method)(None, call)
            assert (call.code, call.asked) == (code, 0)

    play(scene())


def test_streams_of_requests_are_so_many_and_one_too_many_is_asked_to_come_back():
    async def scene() -> None:
        desk = Desk(grpc_publishers_max=2)
        calls = StreamCalls(desk.core, None)

        async def nothing_yet() -> Any:
            await asyncio.Event().wait()
            yield b""

        open_ones = [
            asyncio.create_task(calls.answered(calls.publish_many)(nothing_yet(), FakeCall())) for _ in "12"
        ]
        await settled(*open_ones)
        third = FakeCall()
        with pytest.raises(grpc.aio.AbortError):
            await calls.answered(calls.publish_many)(nothing_yet(), third)
        assert third.code is StatusCode.RESOURCE_EXHAUSTED
        open_ones[0].cancel()
        await settled(open_ones[0])
        another = asyncio.create_task(calls.answered(calls.publish_many)(nothing_yet(), FakeCall()))
        await settled(another)
        assert not another.done()
        for task in (open_ones[1], another):
            task.cancel()

    play(scene())


def test_one_subject_has_a_quarter_of_the_streams_of_requests_and_an_ended_token_or_an_idle_call_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def scene() -> None:
        issuer = Issuer("one")
        access = AccessOptions(keys_file=keys_file(tmp_path, issuer), issuer=ISSUER)
        desk = Desk(access=access, grpc_publishers_max=8, grpc_publisher_idle_ms=1_500)
        desk.core.all_revoked()
        calls = StreamCalls(desk.core, None)
        monkeypatch.setattr("edge.grpc_service._STILL_S", 0.01)

        async def nothing_yet() -> Any:
            await asyncio.Event().wait()
            yield b""

        def opened(subject: str) -> tuple[FakeCall, asyncio.Task[Any]]:
            call = FakeCall()
            call.metadata = (("authorization", f"Bearer {issuer.token(**{**ALL, 'sub': subject})}"),)
            return call, asyncio.create_task(calls.answered(calls.publish_many)(nothing_yet(), call))

        ones = [opened(subject) for subject in ("ann", "ann", "ann", "bob")]
        await until(ones[2][1].done)
        assert [call.code for call, _ in ones] == [None, None, StatusCode.RESOURCE_EXHAUSTED, None]
        await until(lambda: all(task.done() for _, task in ones))
        assert [call.code for call, _ in ones[:2]] == [StatusCode.DEADLINE_EXCEEDED] * 2
        late = opened("ann")
        await settled(late[1])
        monkeypatch.setattr("edge.access.gate.time.time", lambda: 1e11)
        await until(late[1].done)
        assert late[0].code is StatusCode.UNAUTHENTICATED
        for _, task in (*ones, late):
            assert isinstance(task.exception(), grpc.aio.AbortError)

    play(scene())


def test_a_client_that_leaves_amid_a_write_is_no_failure_of_the_edge():
    class Left(FakeCall):
        async def write(self, message: bytes) -> None:
            raise grpc.aio.InternalError('Failed "execute_batch"')  # what gRPC raises then

    async def scene() -> None:
        desk = Desk()
        desk.emit(0, type_name="open")
        call, asked = Left(), WatchRequest(stream_id="s").SerializeToString()
        calls = StreamCalls(desk.core, None)
        watch = asyncio.create_task(calls.answered(calls.watch)(asked, call))
        await asyncio.wait((watch,))
        assert watch.cancelled()
        assert call.code is None, "no status of its own"
        assert desk.core.hub.followers == 0

    play(scene())


def test_a_watch_that_was_given_up_counts_to_its_tenant_until_its_client_has_left():
    class Unread(FakeCall):
        async def abort(self, *said: Any) -> Any:
            await self.reads.wait()
            await super().abort(*said)

    async def scene() -> None:
        desk = Desk(tenant_connections_max=1)
        desk.emit(0, type_name="open")
        calls = StreamCalls(desk.core, None)
        call = Unread()
        call.reads.clear()
        asked = WatchRequest(stream_id="s").SerializeToString()
        watch = asyncio.create_task(calls.answered(calls.watch)(asked, call))
        await until(lambda: desk.core.clients)
        (client,) = desk.core.clients
        client.abort("stalled")
        await until(lambda: not desk.core.clients)
        await settled(watch)
        assert desk.core.quotas.is_full("default")
        call.reads.set()
        await asyncio.gather(watch, return_exceptions=True)
        assert not desk.core.quotas.is_full("default")
        assert call.code is StatusCode.UNAVAILABLE

    play(scene())


# -- health -----------------------------------------------------------------------------------------------


def asks(service: str = "") -> FakeCall:
    call = FakeCall()
    call.requests.put_nowait(HealthCheckRequest(service=service).SerializeToString())
    return call


def told(messages: Sequence[bytes]) -> list[int]:
    return [HealthCheckResponse.FromString(message).status for message in messages]


def test_who_watches_the_health_and_does_not_read_keeps_nobody_else_from_it():
    async def scene() -> None:
        desk = Desk()
        health = Health(desk.core, ("known",))
        health.start()
        reads_nothing, reads, stranger = asks(), asks("known"), asks("unknown")
        reads_nothing.reads.clear()
        watches = [asyncio.create_task(health.watch(None, call)) for call in (reads_nothing, reads, stranger)]
        await until(lambda: told(reads.messages) == [SERVING])
        desk.core.draining = True
        assert told([await health.check(None, asks())]) == [NOT_SERVING]
        await until(lambda: told(reads.messages) == [SERVING, NOT_SERVING])
        desk.core.draining = False
        await until(lambda: told(reads.messages)[2:] == [SERVING])
        health.no_traffic()
        await until(lambda: told(reads.messages)[3:] == [NOT_SERVING])
        assert told(stranger.messages) == [HealthCheckResponse.SERVICE_UNKNOWN]
        reads_nothing.reads.set()
        await until(lambda: told(reads_nothing.messages)[-1:] == [NOT_SERVING])
        health.stop()
        for task in watches:
            task.cancel()

    play(scene())


@pytest.mark.parametrize("what", ["watch the health", "look around"])
def test_one_connection_has_so_many_calls_that_anybody_may_make_and_keeps_no_other_from_them(what):
    async def scene() -> None:
        method = Health(Desk().core, ()).watch if what == "watch the health" else Reflection(()).info
        calls = []
        for number in range(20):
            call = asks() if what == "watch the health" else FakeCall()
            call.address = "a" if number < 18 else "b"
            calls.append((call, asyncio.create_task(ended_by_status(method)(None, call))))
        await settled(*(task for _, task in calls))
        refused = [call for call, task in calls if task.done() and isinstance(task.exception(), Exception)]
        assert [call.code for call in refused] == [StatusCode.RESOURCE_EXHAUSTED] * 2
        assert {call.address for call in refused} == {"a"}
        for _, task in calls:
            task.cancel()

    play(scene())


def test_a_check_of_what_is_none_is_answered_by_a_status():
    async def scene() -> None:
        health = Health(Desk().core, ())
        for data, code in (
            (b"\xff", StatusCode.INVALID_ARGUMENT),
            (HealthCheckRequest(service="x").SerializeToString(), StatusCode.NOT_FOUND),
            (grpc.aio.EOF, StatusCode.INVALID_ARGUMENT),
        ):
            call = FakeCall()
            call.requests.put_nowait(data)
            with pytest.raises(grpc.aio.AbortError):
                await ended_by_status(health.check)(None, call)
            assert call.code is code

    play(scene())
