"""What an edge decides as a whole: who is ahead of it, whom it serves, and how it lets its clients go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

from connectors.kafka.options import KafkaOptions
from edge.access.identity import ANYBODY
from edge.admission import Admission
from edge.app import create_app
from edge.core import EdgeCore
from edge.errors import HistoryUnavailable, KindsRefused
from edge.events import TAKE_OVER, EventsEndpoint
from edge.grpc_service import StreamCalls
from edge.history import SharedHistory
from edge.join import Joined
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.sse import SseConnection
from edge.upgrade import UpgradeEndpoint
from schemas.catalog import LocalSchemas
from schemas.cursor import Cursor
from schemas.kinds import BUILTIN_KINDS, JOB, KindTable
from schemas.payloads import PayloadCodec
from schemas.proto.sluicegate.v1.stream_pb2 import WatchRequest
from tests.support.fake_call import FakeCall
from tests.support.fake_transport import FakeTransport

HANDSHAKE = (
    (b"host", b"localhost"), (b"connection", b"Upgrade"), (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"), (b"sec-websocket-key", b"A" * 22 + b"=="),
)  # fmt: skip


@dataclass
class Tail(MemoryLog):
    """A tail that stands where it is told to, and says of the log's end what it is told to."""

    stands: int = 10
    end: int = 10
    problem: str = ""  # type: ignore[assignment]  # a property there

    def position(self, _partition: int) -> int:
        return self.stands

    def end_offset(self, _partition: int) -> int:
        return self.end


def core_over(
    tail: Tail, ahead_wait_ms: int = 100, drain_ms: int = 5_000, kinds: KindTable = BUILTIN_KINDS
) -> EdgeCore:
    options = EdgeOptions(ahead_wait_ms=ahead_wait_ms, drain_ms=drain_ms)
    core = EdgeCore(options, PayloadCodec(LocalSchemas()), topic_version=1, kinds=kinds, partitions=4)
    core.feed_from(tail, SharedHistory(tail.read, 1 << 20))
    return core


@pytest.mark.parametrize(
    ("cursor", "end", "beyond"),
    [
        (Cursor(1, 0, 9, 3), 10, False),
        (Cursor(1, 0, 10, 3), 10, True),
        (Cursor(1, 0, 400, 3), 10, True),
        (Cursor(1, 0, 400, 3), 401, False),  # another edge has read further
        (Cursor(1, 4, 0, 3), 10, True),  # there is no such partition
        (Cursor(0, 0, 400, 3), 10, False),  # of an older topic version: that is told by its own name
        (Cursor(1, 0, 400, -1), 10, False),  # asks for all there is
    ],
)
def test_a_cursor_is_beyond_the_log_if_kafka_says_that_it_ends_before(cursor, end, beyond):
    assert asyncio.run(core_over(Tail(end=end)).is_beyond_the_log(cursor)) == beyond


def test_an_edge_that_lags_is_waited_for():
    async def play() -> bool:
        tail = Tail(end=10)
        asking = asyncio.create_task(core_over(tail, 60_000).is_beyond_the_log(Cursor(1, 0, 10, 3)))
        await asyncio.sleep(0.1)
        assert not asking.done()
        tail.stands = 11
        return await asking

    assert asyncio.run(play()) is False


@pytest.mark.parametrize("tail", [Tail(problem="Kafka does not answer"), Tail(end=-1)])
def test_while_kafka_is_away_nobody_is_told_that_the_log_is_another(tail):
    with pytest.raises(HistoryUnavailable):
        asyncio.run(core_over(tail).is_beyond_the_log(Cursor(1, 0, 400, 3)))


def test_an_edge_does_not_start_with_a_kind_that_cannot_be_kept():
    silly = replace(JOB, name="silly", connection=replace(JOB.connection, heartbeat_ms=60_000))
    with pytest.raises(KindsRefused, match=r"silly: connection\.heartbeat_ms must be under 30000"):
        create_app(EdgeOptions(), KafkaOptions("none:1"), LocalSchemas(), KindTable([JOB, silly]))


@pytest.mark.parametrize(("edges_ms", "kinds_ms"), [(600_000, 100), (3_000, 600_000)])
def test_clients_are_sent_away_over_the_drain_of_their_kind_or_of_the_edge_whichever_is_shorter(
    edges_ms, kinds_ms
):
    quick = replace(JOB, connection=replace(JOB.connection, drain_ms=kinds_ms))

    async def play() -> None:
        core = core_over(Tail(), drain_ms=edges_ms, kinds=KindTable([quick]))
        for _ in range(50):
            joined = core.joiner.join("default", "s", None, "t")
            assert isinstance(joined, Joined)
            joined.subscriber.channel.kind = "job"
            limits = Admission(core).limits(core.joiner.kind_of(b"default/s"))
            FakeTransport().serve(SseConnection(core, joined, limits, head=(), chunked=True))
        assert core.connections == 50
        # Over ten minutes, fifty clients would not all be gone in one.
        await asyncio.wait_for(core.drain(), 60)
        assert core.connections == 0

    asyncio.run(play())


class Late(Tail):
    """One that has not been read to its present yet."""

    caught_up = False  # type: ignore[assignment]  # a property there


class Client:
    """Asks for stream ``s`` over a transport, as the server hands a request on."""

    def __init__(self, core: EdgeCore, over: str, cursor: str) -> None:
        self._out, self._call, self._answers = FakeTransport(), FakeCall(), b""
        if over == "grpc":
            asked = WatchRequest(stream_id="s", cursor=cursor).SerializeToString()
            calls = StreamCalls(core, None)
            self.asking = asyncio.ensure_future(calls.answered(calls.watch)(asked, self._call))
        else:
            endpoint = EventsEndpoint(core) if over == "sse" else UpgradeEndpoint(core, None)
            self.asking = asyncio.ensure_future(endpoint(self._scope(cursor), self._receive, self._send))

    @property
    def said(self) -> str:
        """What it was told, once it was answered; of a call that is its status."""
        error = self.asking.exception()
        return str(error) if error is not None else (self._answers + self._out.data).decode()

    @property
    def over(self) -> bool:
        """Whether it was answered to the end."""
        return self._out.is_closing() or bool(self._answers) or self._call.code is not None

    def _scope(self, cursor: str) -> dict[str, Any]:
        return {
            "type": "http", "method": "GET", "path": "/", "path_params": {"stream_id": "s"},
            "headers": [(b"last-event-id", cursor.encode()), *HANDSHAKE], "query_string": b"",
            "http_version": "1.1", "client": ("127.0.0.1", 1), "extensions": {TAKE_OVER: self._take_over},
            "sluicegate.identity": ANYBODY,
        }  # fmt: skip

    def _take_over(self, connection: asyncio.Protocol) -> bool:
        self._out.serve(connection)
        return True

    async def _receive(self) -> dict[str, Any]:
        raise AssertionError("there is no body")

    async def _send(self, message: Any) -> None:
        self._answers += message.get("body", b"")


@pytest.mark.parametrize(
    ("over", "waits_for"),
    [
        ("sse", "its cursor"),
        ("grpc", "its cursor"),
        ("sse", "the edge"),
        ("grpc", "the edge"),
        ("websocket", "the edge"),
    ],
)
def test_a_client_whose_place_is_looked_for_when_the_drain_begins_is_told_to_come_back(over, waits_for):
    async def play() -> str:
        tail = Tail(stands=10) if waits_for == "its cursor" else Late(stands=11)
        core = core_over(tail, ahead_wait_ms=60_000)
        client = Client(core, over, Cursor(1, 0, 10, 3).encode("default", "s"))
        await asyncio.sleep(0.1)
        assert not client.asking.done()
        await core.drain()
        tail.stands = 11
        await asyncio.wait([client.asking], timeout=30)
        while not client.over:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)
        assert core.connections == core.hub.followers == core.held == 0
        return client.said

    assert "drain" in asyncio.run(asyncio.wait_for(play(), 60))


def test_clients_that_waited_for_an_edge_to_be_ready_do_not_all_go_in_beyond_its_bound():
    async def play() -> list[str]:
        tail = Late()
        core = core_over(tail)
        core.options = replace(core.options, connections_max=2)
        admission = Admission(core)

        async def come() -> str:
            if busy := await admission.busy():
                return busy
            joined = await admission.join("sse", "default", "s", None, "t", identity=ANYBODY)
            assert isinstance(joined, Joined)
            limits = admission.limits(None)
            FakeTransport().serve(SseConnection(core, joined, limits, head=(), chunked=True))
            return "in"

        waiting = [asyncio.create_task(come()) for _ in range(5)]
        await asyncio.sleep(0.1)
        # Each that waits has its socket already: no more of them may than will be let in.
        assert [task.done() for task in waiting] == [False, False, True, True, True]
        tail.caught_up = True
        return sorted(await asyncio.gather(*waiting))

    assert asyncio.run(play()) == ["in", "in", "overload", "overload", "overload"]
