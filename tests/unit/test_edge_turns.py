"""Reads of the past that wait: few at a time, bounded, tenant by tenant, and none that nobody waits for."""

from __future__ import annotations

import asyncio
import gc
from itertools import islice

import pytest

from edge import delivery, turns
from edge.errors import HistoryUnavailable
from edge.history import Frames, SharedHistory, Span, SpanAsked


class Kafka:
    """Reads what it is asked for when it is told to go on, and notes it."""

    def __init__(self, readers: int = 1) -> None:
        self.history = SharedHistory(self.read, 1 << 20, readers=readers)
        self.go_on = asyncio.Event()
        self.asked: list[str] = []
        self.at_a_time = self.most = 0

    async def read(self, asked: SpanAsked) -> Span:
        self.asked.append(f"{asked.key.decode()}@{asked.from_offset}")
        self.at_a_time += 1
        self.most = max(self.most, self.at_a_time)
        await self.go_on.wait()
        self.at_a_time -= 1
        return Span(Frames(), asked.stop_offset)

    def ask(self, key: str, offset: int = 0) -> asyncio.Task[Span]:
        return asyncio.create_task(self.history.read(SpanAsked(key.encode(), 0, offset, 1_000)))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_no_more_is_read_at_a_time_than_there_are_readers_and_tenants_take_turns():
    async def play() -> tuple[list[str], int]:
        kafka = Kafka(readers=2)
        asking = [kafka.ask("greedy/s", offset) for offset in range(6)]
        await settle()
        asking += [kafka.ask("modest/s"), kafka.ask("other/s"), kafka.ask("modest/s", 1)]
        await settle()
        assert kafka.history.waiting == 7
        kafka.go_on.set()
        await asyncio.gather(*asking)
        assert kafka.history.waiting == 0
        return kafka.asked, kafka.most

    asked, most = asyncio.run(play())
    assert most == 2
    assert asked == [
        "greedy/s@0", "greedy/s@1", "greedy/s@2", "modest/s@0", "other/s@0", "greedy/s@3", "modest/s@1",
        "greedy/s@4", "greedy/s@5",
    ]  # fmt: skip


def test_a_tenant_has_all_the_room_that_others_do_not_need_and_makes_way_when_they_do(monkeypatch):
    monkeypatch.setattr(turns, "WAITING_MAX", 6)

    async def play() -> list[str]:
        kafka = Kafka()
        asking = [kafka.ask("greedy/s", offset) for offset in range(7)]
        await settle()
        with pytest.raises(HistoryUnavailable, match=r"6 reads .* 6 by this tenant"):
            await kafka.ask("greedy/s", 7)
        asking += [kafka.ask(f"{modest}/s", offset) for offset in range(2) for modest in ("one", "two")]
        await settle()
        assert kafka.history.waiting == 6
        for full in ("greedy", "one"):  # two each: nobody has more than another needs
            with pytest.raises(HistoryUnavailable, match="2 by this tenant"):
                await kafka.ask(f"{full}/s", 8)
        asking.append(kafka.ask("late/s"))
        await settle()
        kafka.go_on.set()
        made_way = [one for one in await asyncio.gather(*asking, return_exceptions=True) if _is_refused(one)]
        assert len(made_way) == 5
        assert kafka.history.waiting == 0
        await kafka.ask("late/s", 1)
        return kafka.asked

    asked = asyncio.run(play())
    assert asked == [
        "greedy/s@0", "greedy/s@1", "one/s@0", "two/s@0", "late/s@0", "one/s@1", "two/s@1", "late/s@1",
    ]  # fmt: skip


def _is_refused(one: object) -> bool:
    assert isinstance(one, Span | HistoryUnavailable)
    return isinstance(one, HistoryUnavailable)


def test_of_more_tenants_than_there_is_room_for_each_has_one_that_waits_at_most(monkeypatch):
    monkeypatch.setattr(turns, "WAITING_MAX", 3)

    async def play() -> None:
        kafka = Kafka()
        asking = [kafka.ask(f"{tenant}/s") for tenant in range(4)]
        await settle()
        with pytest.raises(HistoryUnavailable, match="0 by this tenant"):
            await kafka.ask("4/s")
        kafka.go_on.set()
        await asyncio.gather(*asking)

    asyncio.run(play())


def test_who_makes_way_and_leaves_in_one_turn_of_the_loop_takes_no_room_with_it(monkeypatch):
    monkeypatch.setattr(turns, "WAITING_MAX", 2)

    async def play() -> None:
        places = turns.Turns(1)
        await places.take(b"greedy")
        first, last = (asyncio.create_task(places.take(b"greedy")) for _ in range(2))
        await settle()
        late = asyncio.create_task(places.take(b"late"))
        await asyncio.sleep(0)
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        assert (places.waiting, last.cancelled()) == (2, True)
        for _ in range(3):
            places.give_back()
        await asyncio.gather(first, late)
        assert places.waiting == 0

    asyncio.run(play())


def test_what_nobody_waits_for_any_more_is_not_read_and_what_is_read_already_is_kept():
    async def play() -> list[str]:
        kafka = Kafka()
        begun, left, stayed, shared = (kafka.ask("t/s", offset) for offset in (0, 1, 2, 1))
        gone = [kafka.ask("gone/s", offset) for offset in range(3)]
        await settle()
        for one in (begun, left, *gone):
            one.cancel()
        await settle()
        assert kafka.history.waiting == 2
        kafka.go_on.set()
        await asyncio.gather(stayed, shared)
        again = await kafka.ask("t/s")  # of which the client left while it was read
        assert again.next_offset == 1_000
        return kafka.asked

    assert asyncio.run(play()) == ["t/s@0", "t/s@1", "t/s@2"]


def test_who_asks_for_what_was_just_given_up_is_given_it_all_the_same():
    async def play() -> list[str]:
        kafka = Kafka()
        first, waiting = kafka.ask("t/s"), kafka.ask("t/s", 1)
        await settle()
        waiting.cancel()
        after = kafka.ask("t/s", 1)
        await settle()
        kafka.go_on.set()
        await asyncio.gather(first, after)
        return kafka.asked

    assert asyncio.run(play()) == ["t/s@0", "t/s@1"]


def test_a_place_that_was_given_to_one_who_has_just_gone_is_given_to_the_next():
    async def play() -> None:
        places = turns.Turns(1)
        await places.take(b"t")
        leaving, next_one = asyncio.create_task(places.take(b"t")), asyncio.create_task(places.take(b"t"))
        await settle()
        places.give_back()
        leaving.cancel()  # in the same turn of the loop in which it was let in
        await next_one
        assert leaving.cancelled()
        places.give_back()
        await places.take(b"t")  # none was lost
        assert places.waiting == 0

    asyncio.run(play())


def test_who_is_not_given_the_past_asks_again_ever_more_seldom_and_not_together_with_others():
    first, second = ([*islice(delivery.pauses_s(), 7)] for _ in range(2))
    assert first != second
    for pause_s, middle_s in zip(first, (0.5, 1, 2, 4, 4, 4, 4), strict=True):
        assert 0.5 * middle_s <= pause_s <= 1.5 * middle_s


def test_a_read_that_fails_when_all_who_waited_have_left_is_no_fault_of_ours():
    async def play() -> list[object]:
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: faults.append(fault))
        fail = asyncio.Event()

        async def read(_asked: SpanAsked) -> Span:
            await fail.wait()
            raise HistoryUnavailable("told to be down")

        asking = asyncio.create_task(SharedHistory(read, 1 << 20).read(SpanAsked(b"t/s", 0, 0, 9)))
        await settle()
        asking.cancel()
        await settle()
        fail.set()
        await settle()
        del asking
        gc.collect()
        return faults

    assert asyncio.run(play()) == []


def test_a_read_that_fails_gives_its_place_back():
    async def play() -> None:
        async def read(_asked: SpanAsked) -> Span:
            raise HistoryUnavailable("told to be down")

        history = SharedHistory(read, 1 << 20, readers=1)
        for _ in range(3):
            with pytest.raises(HistoryUnavailable, match="down"):
                await history.read(SpanAsked(b"t/s", 0, 0, 9))

    asyncio.run(play())
