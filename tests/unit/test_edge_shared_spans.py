"""Spans of the past that many are given: read once, and made one write's bytes once."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from edge.frame import Frame, declared
from edge.history import Frames, SharedHistory, Span, SpanAsked
from schemas.cursor import Cursor
from tests.unit.support_replay import PARTITION, Edge

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_clients_who_fell_behind_at_different_places_soon_read_and_are_written_the_same(monkeypatch):
    monkeypatch.setattr("edge.replay.SPAN_EVENTS", 5)

    class Encoder:
        name = "counted"
        made = 0

        def encode(self, frames: Sequence[Frame]) -> bytes:
            self.made += 1
            return b" ".join(b"%d" % frame.seq for frame in frames)

    async def play() -> tuple[list[bytes], int, int]:
        edge, encoder = Edge(2), Encoder()
        edge.log.span_frames = 99
        for _ in range(40):
            edge.append(type_name="open" if edge.next_seq == 0 else "log")
        edge.tail()
        written = []
        for seq in (1, 6, 7, 12):
            subscriber = edge.join(Cursor(1, PARTITION, seq, seq)).subscriber
            subscriber.replaying = True  # as one who was live: it goes on from its own place, from no mark
            spans = []
            while subscriber.behind:
                frames = await edge.replay.next_frames(subscriber, PARTITION)
                own = not isinstance(frames, Frames)
                spans.append(b"own" if own else frames.writes(encoder, 1 << 20)[0].data)
            written.append(spans)
        last = [{id(data) for data in spans[-4:]} for spans in written]
        assert last[0] == last[1] == last[2] == last[3], "the same objects, not their likes"
        return written[0], encoder.made, edge.history.reads

    first, made, reads = asyncio.run(play())
    assert first[-1] == b"35 36 37 38 39"
    assert made <= 8 + 4, "eight spans, and each one's way to the first of them"
    assert reads <= 8 + 4


def test_the_writes_that_are_kept_with_spans_are_counted_and_bounded_with_them():
    class Encoder:
        def __init__(self, name: str) -> None:
            self.name = name

        def encode(self, frames: Sequence[Frame]) -> bytes:
            return bytes(len(frames) * 1_000)

    async def read(asked: SpanAsked) -> Span:
        at = asked.from_offset
        frames = [declared("log", {}, cursor="", seq=seq, offset=seq) for seq in range(at, at + 10)]
        return Span(Frames(frames), at + 10)

    async def play() -> tuple[list[int], int]:
        history, held = SharedHistory(read, 100_000), []
        for n in range(6):
            span = await history.read(SpanAsked(b"t/s", 0, 0, 1_000))
            span.frames.writes(Encoder(f"transport {n}"), 1 << 20)
            held.append(history.bytes)
        for n in range(1, 40):
            await history.read(SpanAsked(b"t/s", 0, 10 * n, 1_000))
        return held, history.bytes

    held, at_last = asyncio.run(play())
    assert [b - a for a, b in pairwise(held[1:])] == [10_000] * 4
    assert 50_000 < at_last <= 100_000


@pytest.mark.parametrize("seqs", [(0, 1, 3), (0, 0, 1), ()])
def test_a_span_with_a_hole_a_double_or_nothing_is_looked_at_event_by_event(seqs):
    frames = Frames(declared("log", {}, cursor="", seq=seq, offset=seq) for seq in seqs)
    assert frames.whole is (not seqs)
    names = ("end", "open")
    after_end = Frames(declared(name, {}, cursor="", seq=n, offset=n) for n, name in enumerate(names))
    assert not after_end.whole
