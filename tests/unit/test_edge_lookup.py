"""Streams that are looked for in the index topic: once, not for long, and never as "not there" by mistake."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from connectors.kafka.options import KafkaOptions
from connectors.kafka.spans import KeySpan
from edge import lookup
from edge.core import EdgeCore
from edge.errors import HistoryUnavailable
from edge.history import SharedHistory
from edge.index import IndexEntry, StreamIndex
from edge.kafka_history import KafkaHistory
from edge.lookup import LookUps
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.tail import Decoder
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec


class Topic:
    """An index that holds nothing, and is read only when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[bytes] = []

    def read(self, key: bytes, _partitions: int) -> IndexEntry | None:
        self.asked.append(key)
        assert self.go_on.wait(10)
        return None


def entry(end_seq: int) -> IndexEntry:
    return IndexEntry(
        "default", "s", "job", "", {}, 0, 1, opened_us=0, open_offset=0, mark_seqs=[], mark_offsets=[],
        last_seq=7, updated_us=0, end_seq=end_seq,
    )  # fmt: skip


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_however_many_ask_for_a_stream_it_is_looked_for_once_and_not_again_at_once():
    async def play() -> list[bytes]:
        topic = Topic()
        look_ups = LookUps(topic.read)
        asking = [asyncio.create_task(look_ups.find(b"a", 4)) for _ in range(20)]
        await asyncio.sleep(0)
        asking[0].cancel()
        topic.go_on.set()
        assert await asyncio.gather(*asking[1:]) == [None] * 19
        assert await look_ups.find(b"a", 4) is None
        assert await look_ups.find(b"b", 4) is None
        look_ups.close()
        return topic.asked

    assert asyncio.run(play()) == [b"a", b"b"]


def test_what_was_not_there_is_looked_for_again_after_a_while(monkeypatch):
    monkeypatch.setattr(lookup, "ABSENT_S", 0.0)

    async def play() -> list[bytes]:
        topic = Topic()
        topic.go_on.set()
        look_ups = LookUps(topic.read)
        for _ in range(3):
            await look_ups.find(b"a", 4)
        look_ups.close()
        return topic.asked

    assert asyncio.run(play()) == [b"a"] * 3


def test_more_than_can_be_looked_for_are_asked_to_come_back():
    async def play() -> None:
        topic = Topic()
        look_ups = LookUps(topic.read)
        most = lookup.WAITING_MAX + 1  # one of them is under way
        asking = [asyncio.create_task(look_ups.find(b"t/%d" % n, 4)) for n in range(most)]
        await settle()
        with pytest.raises(HistoryUnavailable):
            await look_ups.find(b"t/one more", 4)
        topic.go_on.set()
        await asyncio.gather(*asking)
        assert await look_ups.find(b"t/one more", 4) is None
        look_ups.close()

    asyncio.run(play())


def test_a_tenant_that_asks_for_many_streams_keeps_no_other_waiting():
    async def play() -> list[bytes]:
        topic = Topic()
        look_ups = LookUps(topic.read)
        most = lookup.WAITING_MAX + 1
        asking = [asyncio.create_task(look_ups.find(b"greedy/%d" % n, 4)) for n in range(most)]
        await settle()
        modest = asyncio.create_task(look_ups.find(b"modest/s", 4))
        await settle()
        topic.go_on.set()
        assert await modest is None
        made_way = await asyncio.gather(*asking, return_exceptions=True)
        assert [isinstance(one, HistoryUnavailable) for one in made_way] == [False] * (most - 1) + [True]
        look_ups.close()
        return topic.asked

    assert asyncio.run(play())[:3] == [b"greedy/0", b"greedy/1", b"modest/s"]


def test_what_the_tail_brings_while_a_stream_is_looked_for_is_newer_than_what_is_found():
    async def play() -> None:
        edge = EdgeCore(EdgeOptions(index_entries_max=1), PayloadCodec(LocalSchemas()), topic_version=1)

        async def look_up(key: bytes, _partitions: int) -> IndexEntry | None:
            found = entry(end_seq=-1)
            edge.index.put(key, entry(end_seq=7))
            return found

        log = MemoryLog()
        edge.feed_from(log, SharedHistory(log.read, 1 << 20), look_up)
        edge.index.complete = False
        assert (found := await edge.find(b"default/s")) is not None
        assert found.ended
        assert edge.index.get(b"default/s") is found

    asyncio.run(play())


def test_an_index_is_bounded_by_what_its_entries_hold_and_who_was_touched_longest_ago_gives_way():
    index, marks = StreamIndex(1_000, bytes_max=100_000), list(range(500))
    for number in range(10):
        index.put(b"t/%d" % number, replace(entry(end_seq=-1), mark_seqs=marks, mark_offsets=marks))
    assert (len(index), index.complete) == (1, False)
    assert index.get(b"t/9") is not None
    index.put(b"t/9", entry(end_seq=7))  # a later word on it, and a shorter one
    for number in range(50):
        index.put(b"s/%d" % number, entry(end_seq=-1))
    assert len(index) == 51
    index.remove(b"t/9")
    index.put(b"t/8", replace(entry(end_seq=-1), labels={"name": "x" * 40_000}))
    assert index.get(b"s/0") is None
    assert index.get(b"s/49") is not None


def test_an_index_that_was_not_read_to_its_end_says_nothing_of_a_stream(monkeypatch):
    class CutShort:
        def __init__(self, *_: object) -> None: ...

        def read(self, *_: object) -> KeySpan:
            return KeySpan((), 1_000_000, truncated=False, passed=1_000_000)

        def close(self) -> None: ...

    monkeypatch.setattr("edge.kafka_history.SpanReaders", CutShort)
    source = LocalSchemas()
    decoder = Decoder(WireCodec(source), PayloadCodec(source), "")
    history = KafkaHistory(KafkaOptions("none:1"), EdgeOptions(), decoder)
    with pytest.raises(HistoryUnavailable, match="not read to its end"):
        asyncio.run(history.look_up(b"default/s", 4))
    history.close()
