"""Who comes before a stream's first event keeps to what its kind says of connections, once that is known."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from edge.admission import Admission
from edge.core import EdgeCore
from edge.frame import frame_of
from edge.group import MEMBERS_MAX
from edge.grpc_call import CallTransport, WatchConnection
from edge.grpc_messages import WatchEncoder
from edge.history import SharedHistory
from edge.index import IndexEntry
from edge.join import Joined
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.sse import SseConnection
from edge.upgrade import WebSocketShare
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.kinds import JOB, LOG, KindTable
from schemas.payloads import PayloadCodec
from tests.support.fake_call import FakeCall
from tests.support.fake_transport import FakeTransport
from tests.unit.support_grpc import play, until
from tests.unit.support_websocket import connect
from tests.unit.test_edge_authorised import told

if TYPE_CHECKING:
    from edge.connection import Connection
    from edge.frame import Frame

QUICK = replace(JOB.connection, heartbeat_ms=7_000, retry_ms=70, connection_life_ms_max=2_000, drain_ms=700)
KINDS = KindTable([replace(JOB, connection=QUICK), LOG])
OVER = ("sse", "grpc", "websocket")


class Desk:
    """An edge on which nothing is known of stream ``s`` when its clients come."""

    def __init__(self, **options: Any) -> None:
        self.core = EdgeCore(
            EdgeOptions(**options), PayloadCodec(LocalSchemas()), topic_version=1, kinds=KINDS
        )
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        self.core.start()
        self.share = WebSocketShare(self.core, None)
        self.carried: list[asyncio.Task[None]] = []
        self.out = FakeTransport()

    async def connect(self, over: str) -> Connection:
        limits = Admission(self.core).limits(self.core.joiner.kind_of(b"default/s"))
        if over == "websocket":
            peer = connect(self.share, life_ms_max=limits.life_ms_max, drain_ms=limits.drain_ms)
            peer.say({"type": "subscribe", "stream": "s"})
            await until(lambda: len(peer.connection.deliveries) == 1)
            return peer.connection
        joined = self.core.joiner.join("default", "s", None, "test")
        assert isinstance(joined, Joined)
        connection: Connection
        if over == "grpc":
            connection = watch = WatchConnection(self.core, joined, WatchEncoder(self.core.json), limits)
            self.carried.append(asyncio.create_task(CallTransport(FakeCall(), watch).carry()))
            await until(lambda: watch in self.core.clients)
        else:
            connection = SseConnection(self.core, joined, limits, head=(), chunked=False)
            self.out = FakeTransport().serve(connection)
        return connection

    def emit(self, seq: int, kind: str = "job") -> None:
        event = Event("e", "default", "s", seq, kind, "log" if seq else "open", 1, *[""] * 5, 0, 0, b"", 0)

        def make(offset: int) -> Frame:
            frame = frame_of(event, topic_version=1, partition=0, offset=offset, read_ms=0)
            frame.json = orjson.dumps({"type": event.type, "seq": seq})
            return frame

        self.core.hub.publish([(event.key, self.log.append(event.key, make))])

    def sent_away(self, over: str) -> float:
        """How many were, for their life."""
        closed = self.core.metrics.closed.labels(over, "life")
        return closed._value.get()  # type: ignore[no-any-return]


def entry() -> IndexEntry:
    return IndexEntry(
        tenant="default", stream_id="s", kind="job", title="", labels={}, partition=0, topic_version=1,
        opened_us=0, open_offset=0, mark_seqs=[], mark_offsets=[], last_seq=-1, updated_us=0,
    )  # fmt: skip


def life_s(connection: Connection) -> float:
    """How old it may grow since it began to follow its stream."""
    (delivery,) = connection.deliveries
    return connection._ends_s - delivery.started_s


@pytest.mark.parametrize("over", OVER)
def test_what_its_kind_says_holds_from_the_first_event_on(over):
    async def scene() -> None:
        desk = Desk(retry_ms=1_000)
        connection = await desk.connect(over)
        assert life_s(connection) > 2_000
        desk.emit(0)
        assert (connection.retry_ms, connection.drain_ms, connection._heartbeat_s) == (70, 700, 7.0)
        assert 1.5 < life_s(connection) <= 2.5
        async with asyncio.timeout(20):  # a WebSocket's client has five seconds to answer the end
            await until(lambda: connection not in desk.core.clients)
        assert desk.sent_away(over) == 1

    play(scene())


def test_over_sse_the_hint_is_given_again_and_the_goodbye_has_it():
    async def scene() -> None:
        desk = Desk(retry_ms=1_000)
        connection = await desk.connect("sse")
        desk.emit(0)
        hint = desk.out.data.rpartition(b"retry: ")[2].partition(b"\n")[0]
        assert 70 <= int(hint) <= 140
        await until(lambda: connection not in desk.core.clients)
        assert told(desk.out) == [0, ("reconnect", "life")]

    play(scene())


@pytest.mark.parametrize("over", OVER[:2])
def test_who_waited_longer_than_the_life_is_sent_away_within_a_fifth_of_it_and_not_with_all_others(over):
    async def scene() -> None:
        desk = Desk()
        waited = [await desk.connect(over) for _ in range(50)]
        for one in waited:
            for delivery in one.deliveries:
                delivery.started_s -= 3_000
        before_s = desk.core.now_s()
        desk.emit(0)
        ends_s = [one._ends_s for one in waited]
        assert before_s <= min(ends_s)
        assert min(ends_s) + 0.1 < max(ends_s) <= desk.core.now_s() + 0.4

    play(scene())


def test_a_name_that_is_opened_again_as_another_kind_has_that_ones_limits():
    async def scene() -> None:
        desk = Desk()
        connection = await desk.connect("sse")
        desk.emit(0, "log")
        assert life_s(connection) > 60
        desk.emit(0, "job")
        assert life_s(connection) <= 2.5

    play(scene())


def test_an_index_entry_that_another_client_brings_tells_who_came_before_it():
    async def scene() -> None:
        desk = Desk()
        connection = await desk.connect("sse")
        desk.core.index.put(b"default/s", entry())
        await desk.connect("grpc")
        assert connection.drain_ms == 700

    play(scene())


def test_of_very_many_each_is_told_and_the_loop_has_its_turn_in_between():
    async def scene() -> None:
        desk, told_kind = Desk(), []

        class Following:
            def kind_known(self) -> None:
                told_kind.append(self)

        channel = desk.core.hub.channel(b"default/s")
        for _ in range(2 * MEMBERS_MAX + 1):
            joined = desk.core.joiner.join("default", "s", None, "test")
            assert isinstance(joined, Joined)
            joined.subscriber.delivery = Following()  # type: ignore[assignment]  # a twin
        desk.emit(0)
        assert len(told_kind) == MEMBERS_MAX
        await asyncio.sleep(0)
        assert len(told_kind) == 2 * MEMBERS_MAX
        await asyncio.sleep(0)
        assert len(set(told_kind)) == len(channel.subscribers) == len(told_kind)

    play(scene())
