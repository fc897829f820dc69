"""A stream whose history is over, and another one under its name: nobody waits in vain, or is led astray."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import pytest

from edge.access.identity import Names
from edge.admission import Admission
from edge.errors import RequestError
from edge.frame import declared
from edge.join import Joined, Over
from schemas.cursor import Cursor, decode_cursor
from schemas.kinds import JOB, KindTable
from tests.unit.support_replay import KEY, PARTITION, Edge
from tests.unit.test_edge_authorised import Desk, somebody, told
from tests.unit.test_edge_connection import play, until
from tests.unit.test_edge_replay import check, drink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.frame import Frame
    from edge.history import Span, SpanAsked
    from edge.index import IndexEntry
    from edge.subscriber import Subscriber

LIFE = ("open", *["log"] * 9, "end")


def lived(ring_events_max: int = 4) -> Edge:
    """An edge on a stream of eleven events that has ended, and left its memory."""
    edge = Edge(ring_events_max)
    for name in LIFE:
        edge.append(type_name=name)
    edge.tail()
    edge.forget()
    return edge


def cursor_of(edge: Edge, seq: int) -> Cursor:
    return decode_cursor(edge.log.frames[seq][1].cursor, "default", "s")


def reopen(edge: Edge, events: int = 13) -> None:
    edge.next_seq = 0
    for seq in range(events):
        edge.append(type_name="log" if seq else "open")
    edge.tail()


def shown(frames: list[Frame]) -> list[tuple[str, int]]:
    return [(frame.type, frame.seq) for frame in frames]


def reasons(frames: list[Frame]) -> list[str]:
    return [orjson.loads(frame.json or b"")["reason"] for frame in frames if frame.type == "gap"]


@pytest.mark.parametrize("low", [0, 11], ids=["still in the log", "gone from the log"])
def test_who_comes_back_to_a_stream_whose_history_is_over_is_told_and_nothing_is_read(low):
    async def play() -> None:
        edge = lived()
        edge.history_over()
        edge.log.low = low
        joined = edge.join(cursor_of(edge, 5))
        got = [*joined.first, *await drink(edge, joined)]
        assert (shown(got), reasons(got)) == ([("gap", -1)], ["history"])
        assert orjson.loads(got[0].json or b"")["from_seq"] == 6
        # Whoever comes back with the gap's own cursor waits, too, and has nothing looked for.
        again = edge.join(decode_cursor(got[0].cursor, "default", "s"))
        assert [*again.first, *await drink(edge, again)] == []
        assert edge.history.reads == 0
        lost = edge.joiner.lost(KEY, cursor_of(edge, 5), low)
        assert lost is not None
        assert lost.reason == "history"
        reopen(edge, 3)
        for one in (joined, again):
            assert shown(await drink(edge, one)) == [("open", 0), ("log", 1), ("log", 2)]

    asyncio.run(play())


def test_who_has_the_end_is_told_that_there_is_nothing_more_when_nothing_is_known_of_the_stream():
    edge = lived()
    edge.history_over()
    end = cursor_of(edge, 10)
    assert end.ended
    assert isinstance(edge.joiner.join("default", "s", end, "t"), Over)
    assert edge.joiner.lost(KEY, end, 11) is None
    reopen(edge)
    joined = edge.join(end)
    assert reasons(list(joined.first)) == ["reopened"]


def test_the_end_that_is_told_from_the_index_has_a_cursor_that_says_so():
    async def play() -> Cursor:
        edge = lived()
        edge.log.low = 11
        got = await drink(edge, edge.join())
        return decode_cursor(got[-1].cursor, "default", "s")

    assert asyncio.run(play()) == Cursor(1, PARTITION, 10, 10, ended=True)


@pytest.mark.parametrize("told", [True, False], ids=["told by the index", "told by the new stream alone"])
def test_who_waits_where_a_stream_was_is_told_before_it_is_given_another_of_its_name(told):
    async def play() -> list[tuple[str, int]]:
        edge = lived(ring_events_max=100)
        edge.index.remove(KEY)
        joined = edge.join()  # what is known of it is kept for whoever follows it
        joined.subscriber.expect, joined.subscriber.next_offset, joined.subscriber.settled = 6, 6, True
        if told:
            edge.hub.forget(KEY)
        reopen(edge)
        got = await drink(edge, joined)
        assert reasons(got) == ["reopened"]
        assert orjson.loads(got[0].json or b"")["from_seq"] == 6
        return shown(got)

    assert asyncio.run(play()) == [("gap", -1), ("open", 0), *[("log", seq) for seq in range(1, 13)]]


@pytest.mark.parametrize("came", ["after the end", "before the end"])
@pytest.mark.parametrize("told", [True, False], ids=["told by the index", "told by the new stream alone"])
def test_one_in_the_middle_of_its_history_is_given_the_rest_of_it_before_the_new_stream_of_the_name(
    came, told
):
    async def play() -> None:
        edge = Edge()
        joined = edge.join()
        for name in LIFE[:-1]:
            edge.append(type_name=name)
        edge.tail()
        if came == "before the end":
            joined = edge.join()
        edge.append(type_name="end")
        edge.tail()
        if came == "after the end":
            joined = edge.join()
        got = list(await edge.replay.next_frames(joined.subscriber, PARTITION))
        if told:
            edge.history_over()
        reopen(edge)
        got += await drink(edge, joined)
        assert [frame.offset for frame in got] == list(range(11))
        assert got[-1].type == "end"

    asyncio.run(play())


def test_one_in_the_middle_of_a_history_that_is_cut_meanwhile_goes_on_with_the_new_stream_of_the_name():
    """It asked for the rest of the old one for ever: nothing was to be read, and the ring was another's."""

    async def play() -> list[tuple[str, int]]:
        edge = lived()
        joined = edge.join()
        got = list(await edge.replay.next_frames(joined.subscriber, PARTITION))
        edge.index.remove(KEY)
        edge.log.low = 11
        reopen(edge)
        got += await drink(edge, joined)
        check(got, 0)
        return shown(got)

    old, new = [("open", 0), ("log", 1), ("log", 2)], [("open", 0), *[("log", seq) for seq in range(1, 13)]]
    assert asyncio.run(play()) == [*old, ("gap", -1), *new]


@pytest.mark.parametrize("ended", [True, False], ids=["with its end", "and its end not"])
@pytest.mark.parametrize("seq", [None, 2, 8, 12], ids=["new", "in the log", "late in it", "in the ring"])
def test_an_index_that_still_knows_the_earlier_stream_of_a_name_alone_says_nothing_of_the_present_one(
    seq, ended
):
    """Its seqs were taken for the new one's: a client was told of a gap up to them, or waited for ever."""

    async def play() -> list[tuple[str, int]]:
        edge = Edge()
        for name in (*LIFE[:-1], *["log"] * 20, "end"):
            edge.append(type_name=name)
        edge.tail()
        entry = edge.index.get(KEY)
        assert entry is not None
        if not ended:
            entry.end_seq = entry.end_offset = -1
        began = len(edge.log.frames)
        reopen(edge)
        edge.index.put(KEY, entry)
        cursor = None if seq is None else cursor_of(edge, began + seq)
        joined = edge.join(cursor)
        if cursor is not None:
            assert edge.joiner.lost(KEY, cursor, began + 10) is None
        got = [*joined.first, *await drink(edge, joined)]
        assert all(frame.offset >= began for frame in got)
        return shown(got)

    first = 0 if seq is None else seq + 1
    assert asyncio.run(play()) == [("log" if n else "open", n) for n in range(first, 13)]


def test_an_event_whose_index_entry_has_not_come_yet_is_of_no_stream_that_is_over():
    async def play() -> list[tuple[str, int]]:
        edge = Edge()
        for name in LIFE[:6]:
            edge.append(type_name=name)
        edge.index.remove(KEY)  # it is written with the first event, and read apart from it
        edge.tail()
        assert edge.joiner.lost(KEY, cursor_of(edge, 3), 0) is None
        joined = edge.join(cursor_of(edge, 3))
        return shown([*joined.first, *await drink(edge, joined)])

    assert asyncio.run(play()) == [("log", 4), ("log", 5)]


def test_an_index_that_lags_says_of_no_stream_that_it_is_over():
    """Of a stream that others follow: its channel here gave way, and its entry has not come yet."""

    async def play() -> list[tuple[str, int]]:
        edge = Edge()
        for name in LIFE[:6]:
            edge.append(type_name=name)
        edge.index.remove(KEY)
        edge.tail()
        edge.forget()
        edge.log.index_read = False
        assert edge.joiner.lost(KEY, cursor_of(edge, 3), 0) is None
        joined = edge.join(cursor_of(edge, 3))
        return shown([*joined.first, *await drink(edge, joined)])

    assert asyncio.run(play()) == [("log", 4), ("log", 5)]


@pytest.mark.parametrize("reopened", [False, True])
def test_who_stands_in_a_stream_whose_end_nobody_could_read_is_told_when_its_history_is_over(reopened):
    async def play() -> list[tuple[str, int]]:
        edge = Edge()
        for name in LIFE:
            edge.append(type_name=name)
        edge.tail(10)
        joined = edge.join(cursor_of(edge, 9))
        over = edge.index.remove(KEY)
        edge.hub.forget(KEY, over, 10)  # the end may still come
        assert edge.hub.channel(KEY).ring.next_seq == 10
        edge.log.frames[10] = (b"default/other", edge.log.frames[10][1])
        edge.tail()
        if reopened:
            reopen(edge, 1)
        edge.hub.forget(KEY, over, edge.log.read_to)
        got = [*joined.first, *await drink(edge, joined)]
        assert len(reasons(got)) == 1
        return shown(got)

    assert asyncio.run(play()) == [("gap", -1), *([("open", 0)] if reopened else [])]


def test_an_index_that_does_not_hold_all_streams_says_of_none_by_status_that_it_is_over():
    edge = lived()
    edge.index.remove(KEY)
    edge.index.complete = False
    assert edge.joiner.lost(KEY, cursor_of(edge, 5), 0) is None
    edge.index.complete = True
    ahead = cursor_of(edge, 5)._replace(offset=400)  # another edge has read further than this one
    assert edge.joiner.lost(KEY, ahead, 0) is None


def test_what_the_tail_still_reads_of_a_stream_does_not_count_for_another_of_its_name():
    edge = lived()
    edge.next_seq = 0
    edge.append(type_name="open")
    entry = edge.index.get(KEY)
    assert entry is not None
    edge.index.saw(KEY, edge.log.frames[9][1], PARTITION)
    assert (entry.last_seq, entry.tailed) == (0, False)


# -- connections ------------------------------------------------------------------------------------------


def foreign(desk: Desk) -> None:
    """The end that nobody could read, and the marker of its transaction, take offsets too."""
    desk.log.append(b"default/other", lambda at: declared("log", {}, cursor="", seq=0, offset=at))


def test_clients_who_are_abreast_are_told_when_the_next_that_comes_is_of_another_stream():
    """The end of the old one could not be read: by its seq alone the new one's event 7 would follow on."""

    async def scene() -> None:
        desk = Desk()
        live = [(await desk.connect(somebody()))[1] for _ in range(2)]
        stalled = (await desk.connect(somebody()))[1]
        for seq in range(7):
            desk.emit(seq, "log" if seq else "open")
        await until(lambda: all(told(one) == list(range(7)) for one in [*live, stalled]))
        stalled.full = True
        foreign(desk)
        for seq in range(9):
            desk.emit(seq, "log" if seq else "open")
        stalled.drain()
        desk.emit(9, "end")
        expected = [*range(7), -1, *range(10)]
        await until(lambda: all(told(one) == expected for one in [*live, stalled]))
        assert all(one.is_closing() for one in [*live, stalled])
        assert b'"reason":"reopened"' in stalled.data

    play(scene())


def test_an_end_and_another_stream_of_its_name_in_one_batch_are_told_in_their_turn():
    async def scene() -> list[object]:
        desk = Desk()
        _, out = await desk.connect(somebody())
        await until(lambda: desk.core.hub.channel(KEY).abreast)
        batch: list[tuple[bytes, Frame]] = []
        hub, desk.core.hub = desk.core.hub, _Gathering(batch)  # type: ignore[assignment]
        for name, seq in (("open", 0), ("log", 1), ("end", 2), ("open", 0), ("log", 1)):
            desk.emit(seq, name)
        desk.core.hub = hub
        hub.publish(batch)
        await until(out.is_closing)
        return told(out)

    assert play(scene()) == [0, 1, 2]


class _Gathering:
    """Takes what would be published, one by one."""

    def __init__(self, batch: list[tuple[bytes, Frame]]) -> None:
        self._batch = batch

    def publish(self, frames: Sequence[tuple[bytes, Frame]]) -> None:
        self._batch += frames


def test_a_cursor_in_the_address_is_refused_by_status_unless_a_status_would_tell_of_foreign_streams():
    async def scene() -> None:
        desk = Desk()
        admission = Admission(desk.core)
        foreign(desk)
        cursor = Cursor(1, 0, 0, 5)
        text = cursor.encode("default", "s")
        with pytest.raises(RequestError, match="history of the stream is over") as refused:
            admission.cursor_still_held(text, "default", "s", somebody())
        assert (refused.value.status, refused.value.extra) == (410, {"code": "history"})
        for held in (cursor._replace(ended=True), cursor._replace(seq=-1)):
            text = held.encode("default", "s")
            assert admission.cursor_still_held(text, "default", "s", somebody()) == held
        some = somebody(kinds=Names(("job",)))
        assert admission.cursor_still_held(cursor.encode("default", "s"), "default", "s", some) == cursor
        joined = await admission.join("sse", "default", "s", cursor, "t", identity=some)
        assert isinstance(joined, Joined)
        assert reasons(list(joined.first)) == ["history"]

    play(scene())


def test_a_stream_that_gave_way_in_memory_while_its_client_waited_is_not_taken_for_one_that_is_over():
    async def scene() -> None:
        desk = Desk()
        edge = lived()
        entry = edge.index.get(KEY)
        looked_up = 0

        async def look_up(_key: bytes, _partitions: int) -> IndexEntry | None:
            nonlocal looked_up
            looked_up += 1
            return entry

        async def beyond(_cursor: Cursor) -> bool:
            desk.core.index.remove(KEY)  # others were looked up meanwhile
            return False

        desk.core.index.complete = False
        desk.core._look_up = look_up
        desk.core.is_beyond_the_log = beyond  # type: ignore[method-assign]
        joined = await Admission(desk.core).join(
            "sse", "default", "s", cursor_of(edge, 5), "t", identity=somebody()
        )
        assert isinstance(joined, Joined)
        assert (joined.first, joined.subscriber.expect, looked_up) == ((), 6, 2)

    play(scene())


def test_another_stream_of_the_name_is_of_a_kind_of_its_own_and_judged_by_it():
    async def scene() -> tuple[list[object], list[object]]:
        desk = Desk()
        _, some = await desk.connect(somebody(kinds=Names(("job",))))
        _, both = await desk.connect(somebody(kinds=Names(("job", "llm"))))
        for seq in range(3):
            desk.emit(seq, "log" if seq else "open", kind="job")
        await until(lambda: told(some) == told(both) == [0, 1, 2])
        foreign(desk)
        for seq in range(2):
            desk.emit(seq, "log" if seq else "open", kind="llm")
        await until(lambda: some.is_closing() and len(told(both)) == 6)
        return told(some), told(both)

    some, both = play(scene())
    assert some == [0, 1, 2, ("refused", "forbidden")]
    assert both == [0, 1, 2, -1, 0, 1]


def test_another_stream_of_the_name_has_the_history_of_its_own_kind():
    async def scene() -> list[object]:
        desk = Desk()
        brief = replace(JOB, name="brief", replay=replace(JOB.replay, resumable=False))
        desk.core.joiner._kinds = KindTable((JOB, brief))
        _, first = await desk.connect(somebody())  # so that something is known of the stream
        for seq in range(3):
            desk.emit(seq, "log" if seq else "open")
        await until(lambda: told(first) == [0, 1, 2])
        desk.core.hub.sweep(1 << 60)
        read = desk.core.history._read

        async def meanwhile(asked: SpanAsked) -> Span:
            desk.core.history._read = read
            span = await read(asked)
            for seq in range(5):
                desk.emit(seq, "log" if seq else "open", kind="brief")
            desk.core.hub.sweep(1 << 60)
            return span

        desk.core.history._read = meanwhile
        _, out = await desk.connect(somebody())
        await until(lambda: len(told(out)) >= 2)
        assert b'"reason":"ephemeral"' in out.data
        return told(out)

    assert play(scene()) == [
        -1,
        4,
    ]  # the desk's events are of 1970: of the former one none is within its kind's


def test_a_past_that_does_not_go_on_is_not_asked_for_again_at_once():
    """Whatever is wrong with it: the loop is everybody's, and it must come to the others."""

    async def scene() -> int:
        desk, asked = Desk(), 0
        desk.emit(0, "open")
        desk.core.hub.sweep(1 << 60)

        async def nothing(_subscriber: Subscriber, _partition: int) -> list[Frame]:
            nonlocal asked
            asked += 1
            return []

        desk.core.replay.next_frames = nothing  # type: ignore[method-assign]
        await desk.connect(somebody())
        for _ in range(100):
            await asyncio.sleep(0)
        return asked

    assert 1 <= play(scene()) < 50
