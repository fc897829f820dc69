"""What is told of deliveries: opened or resumed, each gap, and how they closed."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from starlette.requests import Request

from edge.access.identity import ANYBODY, Identity, Names
from edge.connections import connection_routes, shown
from tests.unit.support_pressure import (
    BOUND,
    Scene,
    backpressure,
    cursor_of,
    gaps_of,
    play,
    seqs_of,
    until,
)

TOPIC = "edge.connections.v1"


@pytest.mark.parametrize("left", ["gone", "end", "drain"])
def test_a_delivery_is_told_from_its_opening_to_its_close(left):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit()
        out = await edge.reader()
        edge.emit(3)
        if left == "gone":
            out.close()
        elif left == "end":
            edge.emit(end=True)
        else:
            await edge.core.drain()
        await until(lambda: edge.told.of(TOPIC, action="closed"))
        opened, closed = edge.told.of(TOPIC)
        assert {key for _, key, _ in edge.told.records} == {b"default/s"}
        shared = {
            name: opened[name] for name in ("edge", "connection", "transport", "peer", "kind", "stream_id")
        }
        assert shared.items() <= closed.items()
        assert shared | {"edge": ""} == {
            "edge": "", "connection": 1, "transport": "sse", "peer": "a client", "kind": "job",
            "stream_id": "s",
        }  # fmt: skip
        assert (opened["action"], opened["seq"]) == ("opened", -1)
        assert [(one["revision"], one["resumed"]) for one in (opened, closed)] == [(1, False), (2, False)]
        assert (closed["gaps"], closed["dropped"]) == (0, 0)
        assert opened["opened_us"] == closed["opened_us"] == opened["time_us"]
        assert (closed["reason"], closed["seq"]) == (left, edge.next_seq - 1)
        assert closed["events"] == edge.next_seq
        assert closed["bytes"] == len(out.data[out.data.index(b"id: ") :].partition(b"retry:")[0])
        assert closed["duration_ms"] >= 0
        assert opened["time_us"] <= closed["time_us"]

    play(scene())


ALL = Names(("*",))


@pytest.mark.parametrize(
    ("subject", "shown_as"),
    [
        ("", ""),
        ("Änn <b>", "Änn <b>"),
        ("a\x1b[2J\nb", r"a\x1b[2J\nb"),
        ("\u202eann", r"\u202eann"),
        ("\ud800", r"\ud800"),
        ("\0" * 256, (r"\x00" * 256)[:256]),
    ],
    ids=["nobody", "printable", "steers a terminal", "turns the line around", "no character", "long"],
)
def test_whose_token_it_is_stands_in_view_and_record_as_text_that_does_nothing(subject, shown_as):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        out = await edge.reader()
        (client,) = edge.core.clients
        client.authorise(Identity(ALL, ALL, ALL, frozenset({"subscribe"}), subject=subject))
        (delivery,) = client.deliveries
        assert shown(edge.core, client, delivery)["subject"] == shown_as
        out.close()
        await until(lambda: edge.told.of(TOPIC, action="closed"))
        assert edge.told.of(TOPIC, action="closed")[0]["subject"] == shown_as

    play(scene())


def test_the_slowest_are_named_first_and_no_more_of_them_than_are_asked_for():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit()
        for _ in range(3):
            await edge.stalled()
            await asyncio.sleep(0.01)  # it counts in milliseconds
        await edge.reader()
        asked = Request({"type": "http", "headers": [], "sluicegate.identity": ANYBODY})
        (route,) = connection_routes(edge.core).routes

        async def told(**query: Any) -> tuple[int, list[int]]:
            body = orjson.loads((await route.endpoint(asked, **query)).body)
            return body["total"], [one["events_behind"] for one in body["connections"]]

        assert await told(slow=True, limit=2) == (3, [2, 1])
        assert await told(slow=False, limit=10) == (4, [2, 1, 0, 0])

    play(scene())


def test_who_comes_with_a_cursor_has_resumed_from_it_and_a_gap_is_told_as_the_client_was_told():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit()
        out = await edge.reader()
        out.close()
        await until(lambda: edge.told.of(TOPIC, action="closed"))
        back = edge.connect(cursor_of(out.data))
        assert back is not None
        (resumed,) = edge.told.of(TOPIC, action="resumed")
        assert (resumed["seq"], resumed["connection"], resumed["resumed"]) == (0, 2, True)
        edge.emit()
        back.full = True
        edge.emit()
        await until(lambda: back.get_write_buffer_size() > 0)
        edge.emit(5 * BOUND)
        back.drain()
        ((from_seq, to_seq, _),) = gaps_of(back.data)
        (gap,) = edge.told.of(TOPIC, action="gap")
        assert (gap["from_seq"], gap["to_seq"], gap["reason"]) == (from_seq, to_seq, "slow")
        assert gap["count"] == gap["dropped"] == to_seq + 1 - from_seq
        given = len(seqs_of(back.data))
        assert (gap["gaps"], gap["events"], gap["revision"]) == (1, given - BOUND, 2)
        back.close()
        await until(lambda: len(edge.told.of(TOPIC, action="closed")) == 2)
        closed = edge.told.of(TOPIC, action="closed")[-1]
        assert (closed["gaps"], closed["dropped"], closed["events"]) == (1, gap["count"], given)
        assert (closed["subject"], closed["revision"], closed["resumed"]) == ("", 3, True)

    play(scene())


@pytest.mark.parametrize("reads", ["along", "later", "the past"])
def test_an_event_that_nobody_can_read_is_a_gap_that_is_counted_to_each_who_was_told_of_it(reads):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), ring_events_max=1 if reads == "the past" else 100)
        edge.emit()
        outs = [await edge.reader() for _ in range(2)] if reads == "along" else []
        edge.emit_unreadable()
        edge.emit(2)
        outs = outs or [await edge.reader() for _ in range(2)]
        await until(lambda: all(b'"seq":3' in out.data for out in outs))
        assert edge.core.history.reads == (reads == "the past")
        assert [gaps_of(out.data) for out in outs] == [[(1, 1, "unreadable")]] * 2
        assert edge.counted("gaps_total") == 2
        views = [shown(edge.core, client, *client.deliveries) for client in edge.core.clients]
        assert [view["gaps"] for view in views] == [1, 1]
        for out in outs:
            out.close()
        await until(lambda: len(edge.told.of(TOPIC, action="closed")) == 2)
        assert [one["gaps"] for one in edge.told.of(TOPIC, action="closed")] == [1, 1]

    play(scene())
