"""A cursor ahead of this edge: of another edge that has read further, or of a log that is no more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from edge.core import EdgeCore
from edge.errors import HistoryUnavailable
from edge.history import SharedHistory
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from schemas.catalog import LocalSchemas
from schemas.cursor import Cursor
from schemas.payloads import PayloadCodec


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


def core_over(tail: Tail, ahead_wait_ms: int = 100) -> EdgeCore:
    options = EdgeOptions(ahead_wait_ms=ahead_wait_ms)
    core = EdgeCore(options, PayloadCodec(LocalSchemas()), topic_version=1, partitions=4)
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
