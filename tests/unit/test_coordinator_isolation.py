"""What becomes of an event whose agent raises: a dead letter after three tries, or a wait that may help."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from connectors.kafka.chunk import EventChunk, SourcePartition
from connectors.kafka.coordinator import Coordinator
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.ports import CoordinatorOptions
from pipelines.errors import WorkerStopped
from schemas.errors import RegistryUnavailable
from schemas.record import Record

SOURCE = SourcePartition("input", 0)
TRIES = 12


class Effects:
    """A scope that notes what is asked of it."""

    def __init__(self) -> None:
        self.letters: list[tuple[int, str]] = []

    def dead_letter(self, record: Record, cause: str, detail: str, attempts: int = 1) -> None:
        self.letters.append((record.offset, cause))

    def count(self, outcome: str, n: int = 1) -> None:
        pass


class NoUnit:
    """A unit of work that takes positions and is never due."""

    empty, full = True, False

    def advance(self, source: Any, offset: int, records: int) -> None:
        pass


class NoPoller:
    def handled(self, records: int, size_bytes: int) -> None:
        pass


def after_failing(error: Exception) -> tuple[list[tuple[int, str]], int, list[BaseException]]:
    """Let an agent fail on one event again and again: letters, events that wait, fatal errors."""
    fatal: list[BaseException] = []
    effects = Effects()

    async def fail() -> int:
        coordinator = Coordinator(
            agents={"input": "agent"},
            unit=NoUnit(),
            partitions=None,
            options=CoordinatorOptions(),
            on_committed=lambda _: None,
            on_fatal=fatal.append,
        )
        coordinator.poller = NoPoller()
        waiting = coordinator._pending
        record = Record("input", 0, 7, 0, b"key", b"value")
        coordinator._isolate(effects, EventChunk(SOURCE, 0, [(record, "event")], 8), error)
        for _ in range(TRIES):
            if waiting[SOURCE] and not fatal:
                coordinator._isolate(effects, waiting[SOURCE].popleft(), error)
        return sum(len(chunk) for chunk in waiting[SOURCE])

    return effects.letters, asyncio.run(fail()), fatal


def test_an_event_that_always_fails_becomes_a_dead_letter():
    assert after_failing(ValueError("poison")) == ([(7, "ValueError")], 0, [])


@pytest.mark.parametrize(
    "error", [RegistryUnavailable("http://registry", "away"), KafkaUnavailable("kafka", "away")]
)
def test_an_event_whose_agent_found_a_service_away_waits_however_often(error):
    assert after_failing(error) == ([], 1, [])


def test_an_event_whose_agent_says_fatal_stops_the_worker_and_waits():
    error = WorkerStopped("another owner has the partition")

    assert after_failing(error) == ([], 1, [error])
