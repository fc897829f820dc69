"""A client's view is contiguous or declared, whatever the ring, the log and the client do to each other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import HistoryUnavailable
from edge.flush import Flusher
from edge.frame import Frame, declared, frame_of
from edge.history import SharedHistory, Span, SpanAsked
from edge.hub import Hub, HubBounds
from edge.index import IndexEntry, StreamIndex
from edge.join import Joined, Joiner, Over
from edge.metrics import EdgeMetrics
from edge.options import EdgeOptions
from edge.replay import Replay
from schemas.cursor import Cursor, decode_cursor
from schemas.envelope import Event, stream_key
from schemas.kinds import BUILTIN_KINDS, JOB, KindTable
from schemas.topics import partition_of

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = stream_key("default", "s")
PARTITION = partition_of(KEY, 4)
EVENT = Event(
    "e", "default", "s", 0, "job", "log", 0, "test", "", "", "", "", epoch=0, attempt=0, payload=b"",
    payload_schema=1,
)  # fmt: skip


@dataclass
class Log:
    """What Kafka is: frames of two streams on one partition; ``low`` is where retention has cut it."""

    frames: list[tuple[bytes, Frame]] = field(default_factory=list)
    low: int = 0
    read_to: int = 0
    """Where the tail stands: behind the log, as a tail is."""
    span_frames: int = 3
    down: bool = False
    meanwhile: Callable[[], None] = lambda: None
    """What goes on while a read is under way."""

    def position(self, _partition: int) -> int:
        return self.read_to

    async def read(self, asked: SpanAsked) -> Span:
        await asyncio.sleep(0)
        if self.down:
            raise HistoryUnavailable("told to be down")
        self.meanwhile()
        start = max(asked.from_offset, self.low)
        found = [
            frame for key, frame in self.frames
            if key == asked.key and start <= frame.offset < asked.stop_offset
        ]  # fmt: skip
        truncated = asked.from_offset < self.low
        if len(found) > self.span_frames:
            return Span(tuple(found[: self.span_frames]), found[self.span_frames - 1].offset + 1, truncated)
        return Span(tuple(found), max(asked.stop_offset, asked.from_offset), truncated)


class Edge:
    """Hub, index and replay over a log in memory."""

    def __init__(self, ring_events_max: int = 4, kinds: KindTable = BUILTIN_KINDS) -> None:
        self.log = Log()
        self.hub = Hub(HubBounds(ring_events_max, 1 << 20, 1_000, 1 << 20), Flusher(EdgeMetrics(), 1 << 20))
        self.index = StreamIndex(100)
        self.history = SharedHistory(self.log.read, 1 << 20)
        self.replay = Replay(self.history, self.index, self.log, topic_version=1, partitions=4)
        self.joiner = Joiner(self.hub, self.index, self.replay, kinds)
        self.next_seq = 0
        self.now_ms = 0

    def append(self, key: bytes = KEY, type_name: str = "log", *, bytes: int = 0, ago_ms: int = 0) -> Frame:  # noqa: A002
        """Append to the log; the tail has not read it yet."""
        offset = self.log.frames[-1][1].offset + 1 if self.log.frames else 0
        seq = self.next_seq if key == KEY else offset
        event = EVENT._replace(
            seq=seq, type=type_name, payload=b"x" * bytes, time=time.time_ns() // 1_000 - ago_ms * 1_000
        )
        frame = frame_of(event, topic_version=1, partition=PARTITION, offset=offset, read_ms=self.now_ms)
        self.log.frames.append((key, frame))
        if key == KEY:
            self.next_seq += 1
            self._list(frame)
        return frame

    def tail(self, records: int = 1_000_000) -> None:
        """Have the tail read on."""
        for key, frame in self.log.frames:
            if records and frame.offset >= self.log.read_to:
                self.log.read_to = frame.offset + 1
                self.index.saw(key, frame, PARTITION)
                self.hub.publish([(key, frame)])
                records -= 1

    def skip(self, records: int) -> None:
        """Have the tail pass over records that it cannot read, or that it lost its place at."""
        self.log.read_to = min(self.log.read_to + records, len(self.log.frames))

    def tail_again(self, records: int) -> None:
        """Have the tail read what it has read already."""
        start = max(self.log.read_to - records, 0)
        self.hub.publish([(k, f) for k, f in self.log.frames if start <= f.offset < self.log.read_to])

    @property
    def tailed_seq(self) -> int:
        """The last seq that the tail has come past."""
        return max(
            (f.seq for k, f in self.log.frames if k == KEY and f.offset < self.log.read_to), default=-1
        )

    def forget(self) -> None:
        """Have all rings empty themselves by age."""
        self.now_ms += 10_000
        self.hub.sweep(self.now_ms)

    def join(self, cursor: Cursor | None = None) -> Joined:
        joined = self.joiner.join("default", "s", cursor, "test")
        assert isinstance(joined, Joined)
        return joined

    def _list(self, frame: Frame) -> None:
        entry = self.index.get(KEY)
        if frame.type == "open":
            self.index.put(
                KEY,
                IndexEntry(
                    tenant="default", stream_id="s", kind="job", title="", labels={}, partition=PARTITION,
                    topic_version=1, opened_us=0, open_offset=frame.offset, mark_seqs=[], mark_offsets=[],
                    last_seq=0, updated_us=0,
                ),
            )  # fmt: skip
        elif entry is not None and frame.seq % 5 == 0:
            entry.mark_seqs.append(frame.seq)
            entry.mark_offsets.append(frame.offset)
            entry.sized_seqs.append(frame.seq)
            entry.sized_bytes.append(
                sum(len(f.event.payload) for k, f in self.log.frames[:-1] if k == KEY and f.event is not None)
            )
        if frame.type == "end" and entry is not None:
            entry.end_seq, entry.end_offset, entry.end_reason = frame.seq, frame.offset, "completed"


async def drink(edge: Edge, joined: Joined, rounds: int = 100) -> list[Frame]:
    """What a connection does: ring, else past, until there is nothing to do."""
    subscriber = joined.subscriber
    got: list[Frame] = []
    for _ in range(rounds):
        frames = list(subscriber.take(1 << 20))
        if not frames and subscriber.behind:
            try:
                frames = await edge.replay.next_frames(subscriber, joined.partition)
            except HistoryUnavailable:
                return got
        elif not frames:
            return got
        got += frames
        if subscriber.finished:
            return got
    raise AssertionError(f"never comes to rest: expects {subscriber.expect}, got {got}")


def check(got: list[Frame], first: int) -> int:
    """Fail unless each frame follows on, or a gap says what is missing; give the next seq."""
    expected = first
    for frame in got:
        assert frame.seq >= expected, f"{frame} again, expected {expected} of {got}"
        if frame.type != "gap":
            assert frame.seq == expected, f"silent hole before {frame}: expected {expected} of {got}"
        expected = frame.seq + 1
    return expected


WHAT = ("append", "foreign", "tail", "drink", "forget", "retention", "reconnect", "outage", "skip", "again")
STEPS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 8)), max_size=80)


class Play:
    """Three clients of one edge, and everything that may happen to them."""

    def __init__(self, ring_events_max: int, meanwhile: list[int]) -> None:
        self.edge = Edge(ring_events_max)
        self.edge.append(type_name="open")
        self.clients: list[tuple[Joined, list[Frame]]] = [(self.edge.join(), []) for _ in range(3)]
        self.cut = False
        self.skipped = False
        self.meanwhile = meanwhile
        self.edge.log.meanwhile = self.go_on

    def go_on(self) -> None:
        """While a client is given the past, the present moves on."""
        for _ in range(self.meanwhile.pop() if self.meanwhile else 0):
            self.edge.append()
            self.edge.tail()

    async def step(self, what: str, much: int) -> None:
        edge, client = self.edge, much % 3
        if what in ("append", "foreign"):
            for _ in range(much):
                edge.append(KEY if what == "append" else b"default/other")
        elif what == "tail":
            edge.tail(much)
        elif what == "skip":
            edge.skip(much % 3)
            self.skipped = True
        elif what == "again":
            edge.tail_again(much)
        elif what == "forget":
            edge.forget()
        elif what == "retention":
            # Retention takes what the tail has come past long ago, never what it has not.
            edge.log.low, self.cut = max(edge.log.low, edge.log.read_to - much), True
        elif what == "outage":
            edge.log.down = not edge.log.down
        elif what == "drink":
            await self.drink(client)
        else:
            self.reconnect(client)

    async def drink(self, client: int) -> None:
        joined, got = self.clients[client]
        got.extend(await drink(self.edge, joined))
        if not (self.edge.log.down or self.cut or self.skipped):
            # At rest a client has all that this edge has read: nothing waits for a later event. (What the
            # tail could not read shows only by the seq of what comes after it.)
            assert joined.subscriber.expect > self.edge.tailed_seq

    def reconnect(self, client: int) -> None:
        joined, got = self.clients[client]
        self.edge.hub.detach(joined.subscriber)
        cursor = decode_cursor(got[-1].cursor, "default", "s") if got else None
        self.clients[client] = (self.edge.join(cursor), got)

    async def finish(self) -> None:
        edge = self.edge
        edge.log.down, self.meanwhile = False, []
        edge.append(type_name="end")
        edge.tail()
        for joined, got in self.clients:
            got.extend(await drink(edge, joined))
            check(got, 0)
            assert got[-1].type == "end"
            if not self.cut:
                assert [frame.seq for frame in got] == list(range(edge.next_seq))
            self.is_over(got[-1])
            edge.hub.detach(joined.subscriber)
        edge.forget()
        assert (edge.hub.followers, edge.hub.bytes, len(edge.hub)) == (0, 0, 0)
        self.is_over(self.clients[0][1][-1])

    def is_over(self, end: Frame) -> None:
        cursor = decode_cursor(end.cursor, "default", "s")
        assert isinstance(self.edge.joiner.join("default", "s", cursor, "again"), Over)


@settings(max_examples=500, deadline=None)
@given(STEPS, st.integers(1, 8), st.lists(st.integers(0, 12), max_size=20))
def test_every_view_is_contiguous_or_declared_and_comes_to_the_end(steps, ring_events_max, meanwhile):
    async def play() -> None:
        playing = Play(ring_events_max, meanwhile)
        for what, much in steps:
            await playing.step(what, much)
        await playing.finish()

    asyncio.run(play())


def test_an_end_that_is_gone_from_the_log_is_told_from_the_index():
    async def play() -> list[tuple[str, int]]:
        edge = Edge()
        for name in ("open", "log", "log", "end"):
            edge.append(type_name=name)
        edge.tail()
        edge.forget()
        edge.log.low = 4
        got = await drink(edge, edge.join())
        check(got, 0)
        return [(frame.type, frame.seq) for frame in got]

    assert asyncio.run(play()) == [("gap", 2), ("end", 3)]


def test_a_hand_over_that_skipped_a_frame_would_be_found():
    """The checker itself is checked: with a frame taken out of the log it must complain."""

    async def play() -> list[Frame]:
        edge = Edge(2)
        edge.append(type_name="open")
        for _ in range(20):
            edge.append()
        edge.tail()
        joined = edge.join()
        got = await drink(edge, joined)
        del got[7]
        return got

    with pytest.raises(AssertionError, match="silent hole before"):
        check(asyncio.run(play()), 0)


def test_a_stream_that_is_not_known_yet_is_waited_for_from_its_first_event():
    async def play() -> list[int]:
        edge = Edge()
        joined = edge.join()
        assert await drink(edge, joined) == []
        edge.append(type_name="open")
        edge.append()
        edge.tail()
        return [frame.seq for frame in await drink(edge, joined)]

    assert asyncio.run(play()) == [0, 1]


def test_a_cursor_from_an_edge_that_was_further_ahead_is_waited_for():
    async def play() -> list[int]:
        edge = Edge()
        for _ in range(6):
            edge.append(type_name="open" if edge.next_seq == 0 else "log")
        edge.tail(3)
        cursor = decode_cursor(edge.log.frames[4][1].cursor, "default", "s")
        joined = edge.join(cursor)
        assert await drink(edge, joined) == []
        edge.tail()
        return [frame.seq for frame in await drink(edge, joined)]

    assert asyncio.run(play()) == [5]


@pytest.mark.parametrize("known", [True, False], ids=["stream known", "stream unknown"])
def test_a_cursor_that_no_log_has_given_is_told_so_and_begins_anew(known):
    async def play() -> list[tuple[str, int]]:
        edge = Edge()
        if known:
            for name in ("open", "log", "end"):
                edge.append(type_name=name)
        edge.tail()
        # By seq and offset it is past the end: but not past this end.
        joined = edge.joiner.join("default", "s", Cursor(1, PARTITION, 400, 400), "t", beyond=True)
        assert isinstance(joined, Joined)
        got = [*joined.first, *await drink(edge, joined)]
        if not known:
            edge.append(type_name="open")
            edge.tail()
            got += await drink(edge, joined)
        # A client that goes away right after the gap comes back to what follows it, and to no second gap.
        again = edge.joiner.join("default", "s", decode_cursor(got[0].cursor, "default", "s"), "t")
        assert isinstance(again, Joined)
        assert [frame.seq for frame in await drink(edge, again)] == [frame.seq for frame in got[1:]]
        gap = orjson.loads(got[0].json or b"")
        assert (gap["reason"], gap["from_seq"], gap["to_seq"], gap["count"]) == ("reopened", 401, -1, -1)
        return [(frame.type, frame.seq) for frame in got]

    rest = [("open", 0), ("log", 1), ("end", 2)] if known else [("open", 0)]
    assert asyncio.run(play()) == [("gap", -1), *rest]


def test_an_ephemeral_kind_is_live_only_and_says_what_is_missing():
    ephemeral = replace(JOB, replay=replace(JOB.replay, resumable=False))

    async def play() -> list[tuple[str, int]]:
        edge = Edge(3, KindTable([ephemeral]))
        for _ in range(9):
            edge.append(type_name="open" if edge.next_seq == 0 else "log")
        edge.tail()
        joined = edge.join(Cursor(1, PARTITION, 1, 1))
        got = [*joined.first, *await drink(edge, joined)]
        for _ in range(8):
            edge.append()
        edge.tail()
        got += await drink(edge, joined)
        assert edge.history.reads == 0
        check(got, 2)
        return [(frame.type, frame.seq) for frame in got]

    assert asyncio.run(play()) == [
        ("gap", 5), ("log", 6), ("log", 7), ("log", 8), ("gap", 13), ("log", 14), ("log", 15), ("log", 16),
    ]  # fmt: skip


@pytest.mark.parametrize("ring_emptied", [False, True])
def test_how_an_ephemeral_stream_ended_is_told_when_nothing_of_it_is_in_memory(ring_emptied):
    ephemeral = replace(JOB, replay=replace(JOB.replay, resumable=False))

    async def play() -> list[tuple[str, int, str]]:
        edge = Edge(3, KindTable([ephemeral]))
        for name in ("open", "log", "log", "log", "end"):
            edge.append(type_name=name)
        if ring_emptied:
            edge.join()  # keeps what is known of the stream
            edge.tail()
            edge.forget()
        else:
            edge.skip(5)  # it came before this edge
        joined = edge.join()
        got = [*joined.first, *await drink(edge, joined)]
        check(got, 0)
        return [(frame.type, frame.seq, orjson.loads(frame.json or b"").get("reason", "")) for frame in got]

    assert asyncio.run(play()) == [("gap", 3, "ephemeral"), ("end", 4, "completed")]


def test_one_read_serves_all_who_ask_for_the_same_span_and_a_client_that_leaves_does_not_end_it():
    async def play() -> tuple[int, int]:
        edge = Edge(1)
        for _ in range(40):
            edge.append(type_name="open" if edge.next_seq == 0 else "log")
        edge.tail()
        first = asyncio.create_task(drink(edge, edge.join()))
        others = [asyncio.create_task(drink(edge, edge.join())) for _ in range(50)]
        await asyncio.sleep(0)
        first.cancel()
        for got in await asyncio.gather(*others):
            assert [frame.seq for frame in got] == list(range(40))
        return edge.history.reads, edge.history.shared

    reads, shared = asyncio.run(play())
    assert reads <= 14  # forty events, three a span
    assert shared > 500


def test_the_rings_together_stay_within_their_bound_and_the_longest_silent_gives_way():
    options = EdgeOptions()
    bounds = HubBounds(1_000, 1 << 20, options.ring_age_ms_max, 50_000)
    hub = Hub(bounds, Flusher(EdgeMetrics(), 1 << 20))
    for stream in range(20):
        for seq in range(10):
            frame = declared("log", {"seq": seq}, cursor="c", seq=seq, offset=stream * 10 + seq)
            hub.publish([(b"default/%d" % stream, frame)])
            assert hub.bytes <= 50_000
    assert hub.get(b"default/0") is None
    newest = hub.get(b"default/19")
    assert newest is not None
    assert len(newest.ring) == 10
    assert hub.evicted_events == 200 - sum(
        len(channel.ring) for n in range(20) if (channel := hub.get(b"default/%d" % n))
    )


def test_followers_of_one_stream_are_woken_once_a_batch_and_others_not():
    async def play() -> list[str]:
        edge = Edge()
        woken: list[str] = []
        edge.append(type_name="open")
        mine = edge.join().subscriber
        mine.on_next(lambda: woken.append("mine"))
        other = edge.joiner.join("default", "another", None, "t")
        assert isinstance(other, Joined)
        other.subscriber.on_next(lambda: woken.append("other"))
        for _ in range(5):
            edge.append()
        edge.hub.publish([(key, frame) for key, frame in edge.log.frames])
        return woken

    assert asyncio.run(play()) == ["mine"]
