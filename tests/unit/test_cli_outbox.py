"""The outbox: in order, in batches, bounded, and honest about what it could not deliver."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from ops.client import REQUEST_EVENTS_MAX
from ops.errors import EdgeUnreachable
from ops.execution.outbox import WAITING_EVENTS_MAX, Outbox


class Taker:
    """Takes batches when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def __call__(self, batch: list[bytes]) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.batches.append([orjson.loads(body) for body in batch])

    @property
    def seqs(self) -> list[int]:
        return [event["seq"] for batch in self.batches for event in batch]


def outbox(taker: Taker) -> tuple[Outbox, asyncio.Task[None]]:
    box = Outbox(taker, source="make", run_id="run")
    return box, asyncio.create_task(box.run())


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_comes_alone_goes_at_once_and_what_comes_meanwhile_goes_together() -> None:
    async def scenario() -> None:
        taker = Taker()
        box, running = outbox(taker)
        await box.put("log", {"line": "a"})
        await settle()
        assert [len(batch) for batch in taker.batches] == [1]
        taker.open.clear()
        for n in range(5):
            await box.put("log", {"line": str(n)})
            await settle()
        taker.open.set()
        box.close()
        await running
        assert [len(batch) for batch in taker.batches] == [1, 1, 4]
        assert taker.seqs == list(range(6))
        assert taker.batches[0][0]["event_id"] == "run-0"

    asyncio.run(scenario())


def test_no_request_is_larger_than_an_edge_takes() -> None:
    async def scenario() -> None:
        taker = Taker()
        taker.open.clear()
        box, running = outbox(taker)
        for _ in range(2_500):
            await box.put("log", {"line": "x" * 1_000})
        taker.open.set()
        box.close()
        await running
        assert max(len(batch) for batch in taker.batches) <= 1_000
        assert max(len(orjson.dumps(batch)) for batch in taker.batches) <= 1024 * 1024
        assert taker.seqs == list(range(2_500))

    asyncio.run(scenario())


def test_when_nobody_takes_the_producer_waits_at_the_bound() -> None:
    async def scenario() -> None:
        taker = Taker()
        taker.open.clear()
        box, running = outbox(taker)
        filler = asyncio.create_task(fill(box, WAITING_EVENTS_MAX * 2))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(filler), 1.0)
        assert box.seq_next == WAITING_EVENTS_MAX + REQUEST_EVENTS_MAX  # waiting, and in flight

        taker.open.set()
        await filler
        box.close()
        await running
        assert taker.seqs == list(range(WAITING_EVENTS_MAX * 2))

    asyncio.run(scenario())


async def fill(box: Outbox, count: int) -> None:
    for _ in range(count):
        await box.put("log", {"line": ""})


def test_after_giving_up_nothing_blocks_and_every_line_is_counted() -> None:
    async def scenario() -> None:
        taker = Taker()
        box, running = outbox(taker)
        await box.put("log", {"line": "delivered"})
        await settle()
        taker.error = EdgeUnreachable("gone")
        for n in range(7):
            await box.put("progress" if n == 3 else "log", {})
        await running
        await fill(box, WAITING_EVENTS_MAX * 2)
        assert box.failure is taker.error
        assert box.lines_undelivered == 6 + WAITING_EVENTS_MAX * 2

    asyncio.run(scenario())
