"""A client's view is contiguous or declared, whatever the ring, the log and the client do to each other."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import replace

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.errors import HistoryUnavailable
from edge.frame import Frame, declared
from edge.hub import Hub, HubBounds
from edge.join import Joined, Over
from edge.options import EdgeOptions
from schemas.cursor import Cursor, decode_cursor
from schemas.kinds import JOB, KindTable
from tests.unit.support_replay import PARTITION, Edge, a_flusher


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
        if frame.type == "gap" and frame.seq == -1:  # what follows is of another stream of this name
            expected = 0
            continue
        assert frame.seq >= expected, f"{frame} again, expected {expected} of {got}"
        if frame.type != "gap":
            assert frame.seq == expected, f"silent hole before {frame}: expected {expected} of {got}"
        expected = frame.seq + 1
    return expected


def check_lives(got: list[Frame], opened: list[int]) -> None:
    """Fail where a client is led from one stream of the name into another, or back, and is not told."""
    here, told = 0, True
    for frame in got:
        if frame.type == "gap":
            told = told or frame.seq == -1
            continue
        life = bisect_right(opened, frame.offset)
        assert life == here or (told and life > here), f"{frame} of stream {life} after {here} in {got}"
        here, told = life, False


WHAT = (
    "append", "foreign", "tail", "drink", "drink", "drink", "forget", "retention", "reconnect", "outage",
    "skip", "again", "over", "reopen", "lag", "leave",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 8)), max_size=80)


class Play:
    """Three clients of one edge, and everything that may happen to them."""

    def __init__(self, ring_events_max: int, meanwhile: list[int], *, lags: bool = False) -> None:
        self.edge = Edge(ring_events_max)
        self.edge.lags = lags
        self.edge.append(type_name="open")
        self.clients: list[tuple[Joined | None, list[Frame]]] = [(self.edge.join(), []) for _ in range(3)]
        """Each with what it was given; no connection if it has the end, and all of it, or has left."""
        self.cut = False
        self.ended = self.gone = False
        """The stream has ended, and its history is over; and this edge was told so."""
        self.opened = [0]
        """Offset of each stream that had the name."""
        self.skipped = False
        self.meanwhile = meanwhile
        self.edge.log.meanwhile = self.go_on

    def go_on(self) -> None:
        """While a client is given the past, the present moves on."""
        self.append(self.meanwhile.pop() if self.meanwhile else 0)
        self.edge.tail()

    async def step(self, what: str, much: int) -> None:
        doing = getattr(self, what)(much)
        if doing is not None:
            await doing

    def append(self, count: int) -> None:
        for _ in range(count):
            self.reopen()
            self.edge.append()

    def foreign(self, count: int) -> None:
        for _ in range(count):
            self.edge.append(b"default/other")

    def over(self, much: int) -> None:
        """The stream ends, and its history is over; of which this edge may be told too late."""
        if not self.ended:
            self.edge.append(type_name="end")
        self.ended = True
        if much % 3:
            self.gone = not self.edge.lags
            self.edge.tail()
            self.edge.history_over()

    def lag(self, _much: int) -> None:
        """The index is not read for a while, or again."""
        self.edge.lags = not self.edge.lags
        if not self.edge.lags:
            self.gone = self.gone or self.edge.written[-1:] == [None]
            self.edge.read_index()

    def reopen(self, _much: int = 0) -> None:
        if self.ended:
            self.ended, self.gone, self.edge.next_seq = False, False, 0
            self.opened.append(self.edge.append(type_name="open").offset)

    def tail(self, records: int) -> None:
        self.edge.tail(records)

    def again(self, records: int) -> None:
        self.edge.tail_again(records)

    def skip(self, much: int) -> None:
        # Not where another stream of the name begins: only the index could still tell the two apart.
        read_to = self.edge.log.read_to
        self.edge.skip(min([much % 3, *(at - read_to for at in self.opened[1:] if at >= read_to)]))
        self.skipped = True

    def forget(self, _much: int) -> None:
        self.edge.forget()

    def retention(self, much: int) -> None:
        # It takes what the tail has come past long ago, never what it has not.
        log = self.edge.log
        log.low, self.cut = max(log.low, log.read_to - much), True

    def outage(self, _much: int) -> None:
        self.edge.log.down = not self.edge.log.down

    async def drink(self, much: int) -> None:
        joined, got = self.clients[much % 3]
        if joined is None or joined.subscriber.finished:
            self.reconnect(much)
            joined, got = self.clients[much % 3]
        if joined is None:
            return
        got.extend(await drink(self.edge, joined))
        log, expect = self.edge.log, joined.subscriber.expect
        if log.down or joined.subscriber.finished:
            return
        if self.gone:
            assert expect == 0, "it waits in the middle of what will not go on"
        elif self.opened[-1] < log.read_to and not (self.cut or self.skipped or self.edge.lags):
            # At rest a client has all that this edge has read: nothing waits for a later event. (What the
            # tail could not read shows only by the seq of what comes after it.)
            assert expect > self.edge.tailed_seq

    def leave(self, much: int) -> None:
        """A client goes, or all do: then the stream's memory is let go of."""
        for client in range(3):
            joined, got = self.clients[client]
            if joined is not None and much in (client, 3, 4, 5):
                self.edge.hub.detach(joined.subscriber)
                self.clients[client] = (None, got)

    def reconnect(self, much: int) -> None:
        client = much % 3
        joined, got = self.clients[client]
        if joined is not None:
            self.edge.hub.detach(joined.subscriber)
        cursor = decode_cursor(got[-1].cursor, "default", "s") if got else None
        again = self.edge.joiner.join("default", "s", cursor, "test")
        if isinstance(again, Over):
            assert got[-1].type == "end"
            self.clients[client] = (None, got)
        else:
            got += again.first
            self.clients[client] = (again, got)

    async def finish(self) -> None:
        edge = self.edge
        edge.log.down, self.meanwhile = False, []
        self.reopen()
        end = edge.append(type_name="end")
        edge.tail()
        if edge.lags:
            self.lag(0)
        for client in range(3):
            await self.read_to_the_end(client, end)
        edge.forget()
        assert (edge.hub.followers, edge.hub.bytes, len(edge.hub)) == (0, 0, 0)
        self.is_over(self.clients[0][1][-1])

    async def read_to_the_end(self, client: int, end: Frame) -> None:
        for _ in range(3):  # of the stream that it is in, and of the one that the name stands for now
            joined, got = self.clients[client]
            if joined is not None and not joined.subscriber.finished:  # else its connection is closed
                got.extend(await drink(self.edge, joined))
            if got and got[-1].type == "end" and got[-1].seq == end.seq and got[-1].offset == end.offset:
                break
            self.reconnect(client)
        check(got, 0)
        check_lives(got, self.opened)
        assert (got[-1].type, got[-1].offset) == ("end", end.offset)
        last = [n for n, frame in enumerate(got) if frame.seq == -1]
        if not (self.cut or (self.skipped and last)):
            given_seqs = [frame.seq for frame in got[last[-1] + 1 if last else 0 :]]
            assert given_seqs == list(range(self.edge.next_seq))
        self.is_over(got[-1])
        assert joined is not None
        self.edge.hub.detach(joined.subscriber)

    def is_over(self, end: Frame) -> None:
        cursor = decode_cursor(end.cursor, "default", "s")
        assert isinstance(self.edge.joiner.join("default", "s", cursor, "again"), Over)


# Who comes for a stream that has come and gone before the index knew it: it waited for what was over.
_UNLISTED = [("tail", 8), ("leave", 3), ("forget", 0), ("drink", 0), ("lag", 0), ("drink", 0)]


@settings(max_examples=500, deadline=None)
@example(steps=_UNLISTED, ring_events_max=4, meanwhile=[], lags=True)
@given(
    steps=STEPS,
    ring_events_max=st.integers(1, 8),
    meanwhile=st.lists(st.integers(0, 12), max_size=20),
    lags=st.booleans(),
)
def test_every_view_is_contiguous_or_declared_and_comes_to_the_end(steps, ring_events_max, meanwhile, lags):
    async def play() -> None:
        playing = Play(ring_events_max, meanwhile, lags=lags)
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
    hub = Hub(bounds, a_flusher())
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
