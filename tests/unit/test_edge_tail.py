"""What the tail brings, and how far it says that it has come."""

from __future__ import annotations

import asyncio

import pytest

from connectors.kafka.tailer import TailState
from edge.core import EdgeCore
from edge.history import SharedHistory
from edge.join import Joined
from edge.options import EdgeOptions
from edge.tail import Decoder, Tail, TailBatch
from schemas.catalog import LocalSchemas
from schemas.cursor import decode_cursor
from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec
from tests.unit.support_replay import KEY, PARTITION, Edge
from tests.unit.test_edge_lives import LIFE

SOURCE = LocalSchemas()
DECODER = Decoder(WireCodec(SOURCE), PayloadCodec(SOURCE), "")
OUTPUT, INDEX = (DECODER.output, PARTITION), (DECODER.index, PARTITION)


def core_of(edge: Edge) -> tuple[EdgeCore, Tail]:
    core = EdgeCore(EdgeOptions(), PayloadCodec(SOURCE), topic_version=1, partitions=4)
    tail = Tail(
        core.hub, core.index, core.rejects, core.waiters, DECODER,
        revoked=core, slowing=core.slowing, models=core.models,
    )  # fmt: skip
    core.feed_from(tail, SharedHistory(edge.log.read, 1 << 20))
    return core, tail


def test_the_index_is_read_where_the_tail_has_come_to_where_it_ended():
    _, tail = core_of(Edge())
    assert not tail.index_is_read(PARTITION), "nothing is known yet"
    tail.tail_batch(TailBatch(), {OUTPUT: 10, INDEX: 4})
    tail.tail_state(TailState(end_offsets={OUTPUT: 10, INDEX: 5}))
    assert not tail.index_is_read(PARTITION)
    tail.tail_batch(TailBatch(), {INDEX: 5})
    assert tail.index_is_read(PARTITION)


@pytest.mark.parametrize("readable", [True, False])
def test_an_end_that_comes_with_the_word_that_its_history_is_over_is_given_and_one_that_is_unreadable_told_of(
    readable,
):
    async def play() -> list[str]:
        edge = Edge()
        for name in LIFE:
            edge.append(type_name=name)
        core, tail = core_of(edge)
        *before, end = [(key, PARTITION, frame) for key, frame in edge.log.frames]
        tail.tail_batch(TailBatch(frames=before, entries=[(KEY, edge.index.get(KEY))]), {OUTPUT: 10})
        cursor = decode_cursor(before[-1][2].cursor, "default", "s")
        joined = core.joiner.join("default", "s", cursor, "t")
        assert isinstance(joined, Joined)
        over = TailBatch(entries=[(KEY, None)])
        if readable:
            over.frames.append(end)
        else:
            edge.log.frames.pop()
            tail.tail_batch(TailBatch(undecodable=1), {OUTPUT: 11})
        tail.tail_batch(over, {OUTPUT: 11})
        subscriber = joined.subscriber
        got = list(subscriber.take(1 << 20))
        if subscriber.former:
            got += await core.replay.next_frames(subscriber, PARTITION)
            got += await core.replay.next_frames(subscriber, PARTITION)
        return [frame.type for frame in got]

    assert asyncio.run(play()) == (["end"] if readable else ["gap"])
