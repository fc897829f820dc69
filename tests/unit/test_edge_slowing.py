"""When a producer is slowed: what one edge decides of its own clients, and of what others say."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from edge import slowing
from edge.access.identity import ANYBODY
from edge.errors import RequestError
from edge.publish import PublishRequest
from edge.slowing import Counts, Said, is_enough
from tests.unit.support_pressure import (
    BOUND,
    KEY,
    Scene,
    backpressure,
    gaps_of,
    play,
    publishing,
    seqs_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(slowing, "TICK_S", 0.01)
    monkeypatch.setattr(slowing, "SETTLE_S", 0.05)
    return


@pytest.mark.parametrize(
    ("subscribers", "behind", "share", "enough"),
    [
        (1, 1, 1.0, True),
        (1, 0, 1.0, False),
        (0, 0, 0.5, False),
        (5, 4, 1.0, False),
        (5, 5, 1.0, True),
        (5, 2, 0.4, True),
        (5, 1, 0.2, False),
        (2, 1, 0.1, False),
    ],
)
def test_the_share_decides_and_a_single_one_of_several_never(subscribers, behind, share, enough):
    assert is_enough(Counts(subscribers, behind), share) == enough


def slow_producer(**others: Any) -> Any:
    return backpressure("slow_producer", **others)


def test_a_producer_is_slowed_while_all_are_behind_and_goes_on_when_one_has_caught_up_and_nothing_is_lost():
    async def scene() -> None:
        edge = Scene(slow_producer(), ring_events_max=4)
        edge.emit()
        slow, other = await edge.stalled(), await edge.stalled()
        edge.emit(2 * BOUND)
        await until(lambda: edge.core.slowing.of(KEY) is not None)
        assert edge.counted("slowed_streams_total") == edge.counted("slowed_producers") == 1
        other.drain()
        await until(lambda: edge.core.slowing.of(KEY) is None)
        slow.drain()
        for one in (slow, other):
            await until(lambda one=one: edge.next_seq - 1 in seqs_of(one.data))
            assert gaps_of(one.data) == []
            assert sorted(set(seqs_of(one.data))) == seqs_of(one.data)
        assert edge.counted("slow_dropped_events_total") == 0

    play(scene())


def test_one_that_keeps_up_keeps_the_producer_going():
    async def scene() -> None:
        edge = Scene(slow_producer())
        edge.emit()
        slow, _quick_one = await edge.stalled(), await edge.reader()
        edge.emit(5 * BOUND)
        await until(lambda: edge.told.of("edge.pressure.v1", subscribers=2, behind=1))
        assert edge.core.slowing.of(KEY) is None
        slow.drain()
        await until(lambda: seqs_of(slow.data) == list(range(edge.next_seq)))

    play(scene())


@pytest.mark.parametrize("then", ["drop_old", "drop_new", "terminate"])
def test_after_its_longest_stall_the_producer_goes_on_and_who_is_behind_is_dealt_with(then):
    async def scene() -> None:
        edge = Scene(slow_producer(stall_ms_max=100, then=then), ring_events_max=4)
        edge.emit()
        slow = await edge.stalled()
        edge.emit(5 * BOUND)
        await until(lambda: edge.core.slowing.of(KEY) is not None)
        await until(lambda: edge.core.slowing.of(KEY) is None)
        slow.drain()
        if then == "terminate":
            await until(slow.is_closing)
            assert edge.counted("slow_closed_total") == 1
            return
        await until(lambda: gaps_of(slow.data))
        owed = 5 * BOUND - BOUND
        assert edge.counted("slow_dropped_events_total") == owed
        first = 2 if then == "drop_old" else 2 + BOUND
        assert gaps_of(slow.data) == [(first, first + owed - 1, "slow")]
        edge.emit()
        await until(lambda: edge.next_seq - 1 in seqs_of(slow.data))

    play(scene())


def test_what_another_edge_says_counts_and_what_it_takes_back_does_not():
    async def scene() -> None:
        edge = Scene(slow_producer())
        edge.emit()
        await edge.stalled()
        edge.core.slowing.heard([(KEY, "other", Said("other", "job", Counts(3, 2)))])
        edge.emit(2 * BOUND)
        await until(lambda: edge.told.of("edge.pressure.v1", subscribers=1, behind=1))
        assert edge.core.slowing.of(KEY) is None
        edge.core.slowing.heard([(KEY, "other", Said("other", "job", Counts(3, 3)))])
        await until(lambda: edge.core.slowing.of(KEY) is not None)
        edge.core.slowing.heard([(KEY, "other", Said("other", "job", Counts(3, 0)))])
        await until(lambda: edge.core.slowing.of(KEY) is None)
        edge.core.slowing.heard([(KEY, "other", None)])
        await until(lambda: edge.core.slowing.of(KEY) is not None)

    play(scene())


def test_an_edge_without_clients_of_a_stream_slows_its_producer_by_what_others_say_and_says_nothing():
    async def scene() -> None:
        edge = Scene(slow_producer())
        edge.core.slowing.heard([(KEY, "other", Said("other", "job", Counts(2, 2)))])
        await until(lambda: edge.core.slowing.of(KEY) is not None)
        assert edge.told.records == []

    play(scene())


def test_an_edge_whose_clients_keep_up_answers_one_whose_clients_do_not():
    async def scene() -> None:
        edge = Scene(slow_producer())
        edge.emit()
        await edge.reader()
        edge.core.slowing.heard([(KEY, "other", Said("other", "job", Counts(2, 2)))])
        await until(lambda: edge.told.of("edge.pressure.v1", subscribers=1, behind=0))

    play(scene())


def test_an_edge_that_says_nothing_more_is_gone(monkeypatch):
    monkeypatch.setattr(slowing, "SILENT_S", 0.3)

    async def scene() -> None:
        edge = Scene(slow_producer())
        edge.core.slowing.heard([(KEY, "other", Said("other", "job", Counts(2, 2)))])
        await until(lambda: edge.core.slowing.of(KEY) is not None)
        await until(lambda: edge.core.slowing.of(KEY) is None)
        assert edge.core.slowing._heard == {}
        assert edge.core.slowing._presses == {}
        assert edge.core.slowing._timer is None

    play(scene())


def test_words_of_others_are_bounded(monkeypatch):
    monkeypatch.setattr(slowing, "SAID_MAX", 10)

    async def scene() -> None:
        edge = Scene(slow_producer())
        said = Said("other", "job", Counts(2, 2))
        edge.core.slowing.heard([(b"default/s%d" % n, "other", said) for n in range(100)])
        assert len(edge.core.slowing._heard) == 10
        edge.core.slowing.heard([(b"default/s%d" % n, "other", None) for n in range(100)])
        edge.core.slowing.heard([(b"default/t", "other", said)])
        assert len(edge.core.slowing._heard) == 1

    play(scene())


async def _body(data: bytes) -> Any:
    yield data


def test_a_publish_to_a_slowed_stream_is_429_with_when_to_come_back_and_a_cancel_passes():
    async def scene() -> None:
        edge = Scene(slow_producer())
        with publishing(edge) as (publisher, kept):
            request = PublishRequest("default", "s", "job", wait=False, identity=ANYBODY)
            body = b'{"type": "log", "payload": {"line": "a"}}'
            headers = {"content-type": "application/json"}
            await edge.slow()
            with pytest.raises(RequestError) as refused:
                await publisher.publish(request, _body(body), headers)
            assert (refused.value.status, refused.value.headers) == (429, {"retry-after": "1"})
            assert kept.events == []
            with pytest.raises(RequestError):
                await publisher.publish(replace(request, transport="grpc"), _body(body), headers)
            for name in ("http", "grpc"):
                assert edge.counted("slowed_publishes_total", kind="job", transport=name) == 1
            await publisher.publish_one(request, "cancel", {"by": "ann"})
            other = PublishRequest("default", "other", "job", wait=False, identity=ANYBODY)
            await publisher.publish(other, _body(body), headers)
            await edge.relieve()
            await publisher.publish(request, _body(body), headers)
            assert [event.type for event in kept.events] == ["cancel", "log", "log"]

    play(scene())
