"""What an edge decides as a whole: who is ahead of it, whom it serves, and how it lets its clients go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from connectors.kafka.options import KafkaOptions
from edge.access.identity import ANYBODY
from edge.admission import Admission
from edge.app import create_app
from edge.core import EdgeCore
from edge.errors import HistoryUnavailable, KindsRefused
from edge.history import SharedHistory
from edge.join import Joined
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.sse import SseConnection
from schemas.catalog import LocalSchemas
from schemas.cursor import Cursor
from schemas.kinds import BUILTIN_KINDS, JOB, KindTable
from schemas.payloads import PayloadCodec
from tests.support.fake_transport import FakeTransport


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


def test_clients_that_waited_for_an_edge_to_be_ready_do_not_all_go_in_beyond_its_bound():
    class Late(Tail):
        caught_up = False  # type: ignore[assignment]  # a property there

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
        tail.caught_up = True
        return sorted(await asyncio.gather(*waiting))

    assert asyncio.run(play()) == ["in", "in", "overload", "overload", "overload"]
