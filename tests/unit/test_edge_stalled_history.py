"""Clients that stall while they are written the past, or the end: what they pin, and what they are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from edge.grpc_messages import WatchEncoder
from edge.history import writes_of
from edge.sse import SseEncoder
from tests.unit.support_pressure import Scene, backpressure, play, said, seqs_of, until

if TYPE_CHECKING:
    from tests.support.fake_transport import FakeTransport

BYTES_MAX = 4_096


async def read_slowly(out: FakeTransport, events: int, *, most: int) -> None:
    """Take one write at a time, until all events have come; none is larger than it may be."""
    out.full = True
    while len(seqs_of(out.data)) < events:
        assert out.get_write_buffer_size() <= most
        out.drain(full=True)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("line_bytes", [10, 1_000, 3 * BYTES_MAX], ids=["small", "large", "one a write"])
def test_a_client_that_stalls_in_its_history_pins_a_bounded_write_and_misses_nothing(line_bytes: int) -> None:
    async def scene() -> bytes:
        edge = Scene(backpressure("drop_old"), write_bytes_max=BYTES_MAX, ring_events_max=4)
        for _ in range(30):
            edge.emit(10, size_bytes=line_bytes)
        slow = edge.connect()
        assert slow is not None
        await read_slowly(slow, 300, most=max(BYTES_MAX, line_bytes + 1_000))
        return slow.data

    data = play(scene())
    assert seqs_of(data) == list(range(300))
    assert not [one for one in said(data) if one["type"] == "gap"]


def test_a_stalled_client_that_was_written_the_end_is_told_of_no_stream_that_has_its_name_since() -> None:
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit()
        slow = await edge.reader()
        slow.full = True
        edge.reopen("s")
        await until(lambda: slow.get_write_buffer_size() > 0)
        edge.emit(12)
        await asyncio.sleep(0.02)
        slow.drain()
        await until(slow.is_closing)
        assert [one["type"] for one in said(slow.data)] == ["log", "end"]

    play(scene())


def test_writes_are_cut_between_events_and_their_bytes_are_those_of_one_write() -> None:
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit(40, size_bytes=500)
        frames = edge.core.hub.channel(b"default/s").ring.span(0, 1 << 20)
        for encoder in (SseEncoder(edge.core.json, chunked=False), WatchEncoder(edge.core.json)):
            writes = writes_of(frames, encoder, BYTES_MAX)
            assert len(writes) > 4
            assert max(len(data) for _, data in writes) <= BYTES_MAX
            assert b"".join(data for _, data in writes) == encoder.encode(frames)
            assert writes[-1].cursor == frames[-1].cursor

    play(scene())
