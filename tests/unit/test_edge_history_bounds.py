"""Of a stream's past no more is given than its kind declares, from memory and from the log."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cursor import decode_cursor
from schemas.kinds import JOB, KindTable
from tests.unit.support_replay import KEY, Edge
from tests.unit.test_edge_replay import check, drink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.frame import Frame


def shown(frames: Sequence[Frame]) -> list[tuple[str, int]]:
    return [(frame.type, frame.seq) for frame in frames]


@pytest.mark.parametrize("ring_events_max", [2, 100], ids=["from the log", "from the ring"])
@pytest.mark.parametrize(
    "bound",
    [{"history_events": 6}, {"history_bytes": 650}, {"history_ms": 60_000}],
    ids=lambda bound: next(iter(bound)),
)
def test_a_kind_s_history_is_kept_to(bound, ring_events_max):
    """Thirty events of 100 bytes; the first 24 are two minutes old."""
    short = replace(JOB, replay=replace(JOB.replay, **bound))

    async def play() -> list[tuple[str, int]]:
        edge = Edge(ring_events_max, KindTable([short]))
        for seq in range(30):
            edge.append(type_name="log" if seq else "open", bytes=100, ago_ms=120_000 if seq < 24 else 0)
        edge.tail()
        joined = edge.join()
        got = [*joined.first, *await drink(edge, joined)]
        check(got, 0)
        assert orjson.loads(got[0].json or b"")["reason"] == "history"
        # A client that goes away right after the gap, or was here before, is given as much.
        for cursor in (got[0].cursor, edge.log.frames[11][1].cursor):
            again = edge.join(decode_cursor(cursor, "default", "s"))
            rest = [*again.first, *await drink(edge, again)]
            assert [frame.seq for frame in rest if frame.type == "log"] == [24, 25, 26, 27, 28, 29]
        # One that has more than that is given the rest, and live events whatever their date.
        newer = edge.join(decode_cursor(edge.log.frames[27][1].cursor, "default", "s"))
        edge.append(bytes=100, ago_ms=120_000)
        edge.tail()
        assert [frame.seq for frame in await drink(edge, newer)] == [28, 29, 30]
        return shown(got)

    assert asyncio.run(play()) == [("gap", 23), *(("log", seq) for seq in range(24, 30))]


@pytest.mark.parametrize(
    ("bound", "oldest"),
    [({"history_events": 12}, 18), ({"history_bytes": 1_250}, 18), ({"history_ms": 60_000}, 19)],
    ids=["events", "bytes", "time"],
)
def test_what_is_given_back_and_read_again_is_held_to_it_as_what_was_read_first(bound, oldest):
    short = replace(JOB, replay=replace(JOB.replay, **bound))

    async def play() -> list[tuple[str, int]]:
        edge = Edge(8, KindTable([short]))
        for seq in range(30):
            edge.append(type_name="log" if seq else "open", bytes=100, ago_ms=120_000 if seq < 19 else 0)
        edge.tail()
        joined = edge.join()
        subscriber, got = joined.subscriber, list(joined.first)
        while subscriber.behind:
            place = subscriber.place
            once = await edge.replay.next_frames(subscriber, joined.partition)
            subscriber.go_back(place)
            again = await edge.replay.next_frames(subscriber, joined.partition)
            assert shown(again) == shown(once)
            got += again
        assert orjson.loads(got[0].json or b"")["reason"] == "history"
        return shown([*got, *subscriber.take(1 << 20)])

    assert asyncio.run(play()) == [("gap", oldest - 1), *(("log", seq) for seq in range(oldest, 30))]


@pytest.mark.parametrize("ring_events_max", [2, 100], ids=["from the log", "from the ring"])
def test_how_a_stream_ended_is_told_however_old_it_is(ring_events_max):
    short = replace(JOB, replay=replace(JOB.replay, history_ms=60_000))

    async def play() -> list[tuple[str, int]]:
        edge = Edge(ring_events_max, KindTable([short]))
        for name in ("open", "log", "log", "log", "end"):
            edge.append(type_name=name, ago_ms=120_000)
        edge.tail()
        joined = edge.join()
        got = [*joined.first, *await drink(edge, joined)]
        check(got, 0)
        return shown(got)

    assert asyncio.run(play()) == [("gap", 3), ("end", 4)]


@given(
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=60),
    bytes_max=st.integers(1, 20_000),
    held=st.integers(0, 70),
    marks_every=st.integers(1, 20),
    came_from=st.integers(-1, 59),
)
def test_a_bound_in_bytes_is_exact_in_the_ring_and_in_the_log(sizes, bytes_max, held, marks_every, came_from):
    async def play() -> tuple[int, list[int]]:
        edge = Edge(held or 1, KindTable([replace(JOB, replay=replace(JOB.replay, history_bytes=bytes_max))]))
        for seq, size in enumerate(sizes):
            edge.append(type_name="log" if seq else "open", bytes=size)
        entry = edge.index.get(KEY)
        assert entry is not None
        entry.sized_seqs = [*range(marks_every, len(sizes), marks_every), len(sizes)]
        entry.sized_bytes = [sum(sizes[:seq]) for seq in entry.sized_seqs]
        edge.tail()
        if not held:
            edge.forget()
        cursor = None
        if 0 <= came_from < len(sizes) - 1:
            cursor = decode_cursor(edge.log.frames[came_from][1].cursor, "default", "s")
        joined = edge.join(cursor)
        got = [*joined.first, *await drink(edge, joined)]
        check(got, 0 if cursor is None else cursor.seq + 1)
        return 0 if cursor is None else cursor.seq + 1, [frame.seq for frame in got if frame.type != "gap"]

    expected, given_seqs = asyncio.run(play())
    # An event that is larger alone is given all the same.
    oldest = next((seq for seq in range(len(sizes)) if sum(sizes[seq:]) <= bytes_max), len(sizes) - 1)
    assert given_seqs == list(range(max(oldest, expected), len(sizes)))
