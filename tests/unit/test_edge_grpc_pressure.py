"""The policies of backpressure over gRPC: a call that is not read is dealt with as a socket is."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from grpc import StatusCode

from edge.grpc_call import CallTransport, WatchConnection
from edge.grpc_messages import WatchEncoder
from edge.join import Joined
from tests.support.fake_call import FakeCall
from tests.support.fake_transport import LIMITS
from tests.unit.support_pressure import BOUND, Scene, backpressure, play, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POLICIES = ["drop_old", "drop_new", "terminate", "slow_producer"]


class Watch:
    """One client of stream ``s``."""

    def __init__(self, edge: Scene, cursor: str = "") -> None:
        at = edge.core.joiner.cursor(cursor, "default", "s") if cursor else None
        joined = edge.core.joiner.join("default", "s", at, "a client")
        assert isinstance(joined, Joined)
        self.call = FakeCall()
        self.connection = WatchConnection(edge.core, joined, WatchEncoder(edge.core.json), LIMITS)
        self.task = asyncio.create_task(CallTransport(self.call, self.connection).carry())

    @property
    def shown(self) -> list[tuple[int, int]]:
        """Each event as the span of seqs that it stands for."""
        return [
            (event.gap.from_seq, event.gap.to_seq) if event.type == "gap" else (event.seq, event.seq)
            for event in self.call.events
        ]

    @property
    def gaps(self) -> list[tuple[int, int, str]]:
        """From, to, reason."""
        found = [event.gap for event in self.call.events if event.type == "gap"]
        return [(gap.from_seq, gap.to_seq, gap.reason) for gap in found]


@asynccontextmanager
async def stalled(edge: Scene) -> AsyncIterator[Watch]:
    """A client that had all there was, and reads nothing more."""
    edge.emit()
    slow = Watch(edge)
    await until(lambda: slow.call.seqs == [0] and not slow.connection.paused)
    await until(lambda: slow.connection.deliveries[0].subscriber.live)
    slow.call.reads.clear()
    edge.emit()
    await until(lambda: slow.connection.paused)
    yield slow
    slow.task.cancel()
    await asyncio.gather(slow.task, return_exceptions=True)
    assert edge.core.connections == edge.core.hub.followers == 0


def contiguous(shown: list[tuple[int, int]], upto: int) -> bool:
    """Whether spans follow on each other from 0 on, to ``upto`` inclusive."""
    starts, ends = [first for first, _ in shown], [last for _, last in shown]
    return starts == [0, *(last + 1 for last in ends[:-1])] and ends[-1] == upto


@pytest.mark.parametrize("policy", ["drop_old", "drop_new"])
def test_one_that_falls_behind_is_told_what_it_missed_and_goes_on(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=4)
        async with stalled(edge) as slow:
            edge.emit(50)
            present = edge.next_seq
            slow.call.reads.set()
            await until(lambda: slow.gaps)
            edge.emit()
            await until(lambda: present in slow.call.seqs)
            missed = (2, present - BOUND - 1) if policy == "drop_old" else (2 + BOUND, present - 1)
            assert slow.gaps == [(*missed, "slow")]
            assert contiguous(slow.shown, present)
            assert edge.counted("slow_dropped_events_total") == present - BOUND - 2

    play(scene())


def test_terminate_sends_it_away_as_slow_and_it_resumes_without_a_hole():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"), ring_events_max=4)
        async with stalled(edge) as slow:
            edge.emit(BOUND + 1)
            assert edge.counted("slow_closed_total") == 1
            slow.call.reads.set()
            await slow.task
            assert slow.call.said[-1].reconnect.reason == "slow"
            assert slow.connection.status is not None
            assert slow.connection.status.code is StatusCode.RESOURCE_EXHAUSTED
            back = Watch(edge, slow.call.events[-1].cursor)
            await until(lambda: edge.next_seq - 1 in back.call.seqs)
            assert slow.call.seqs + back.call.seqs == list(range(edge.next_seq))
            back.task.cancel()

    play(scene())


@pytest.mark.parametrize("policy", POLICIES)
def test_one_within_its_bound_misses_nothing(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=4)
        async with stalled(edge) as slow:
            edge.emit(BOUND)
            slow.call.reads.set()
            await until(lambda: slow.call.seqs == list(range(edge.next_seq)))

    play(scene())
