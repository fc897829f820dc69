"""What becomes of an event whose agent raises: a dead letter after three tries, or a wait that may help."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from connectors.kafka.chunk import EventChunk, SourcePartition
from connectors.kafka.errors import KafkaUnavailable
from connectors.kafka.isolation import Isolation, Standstill, place_of
from connectors.kafka.ports import Backoff
from pipelines.errors import WorkerStopped
from schemas.errors import RegistryUnavailable
from schemas.record import Record
from tests.unit.test_coordinator import TOPIC, coordinator

if TYPE_CHECKING:
    from connectors.kafka.ports import FailurePolicy

SOURCE = SourcePartition("input", 0)
TRIES = 100


class Effects:
    """A scope that notes what is asked of it."""

    def __init__(self) -> None:
        self.letters: list[tuple[int, str, int]] = []
        self.places: list[str] = []
        self.counted: list[str] = []
        self.standstill: Standstill | None = None

    def dead_letter(
        self, record: Record, cause: str, detail: str, attempts: int = 1, raised_at: str = ""
    ) -> None:
        self.letters.append((record.offset, cause, attempts))
        self.places.append(raised_at)

    def count(self, outcome: str, n: int = 1) -> None:
        self.counted.append(outcome)


def chunk_of(*offsets: int) -> EventChunk:
    items = [(Record("input", 0, offset, 0, b"key", b"value"), offset) for offset in offsets]
    return EventChunk(SOURCE, 0, items, offsets[-1] + 1)


def work(
    chunk: EventChunk,
    errors: dict[int, Exception],
    policy: FailurePolicy = "dead-letter",
    attempts_max: int = 3,
) -> tuple[Effects, list[int], list[float]]:
    """Be an agent of batches that raises at some offsets, until nothing waits or it was tried often.

    Returns the effects, what was handled, and the pauses.
    """
    attempts = {SOURCE.topic: attempts_max, "another": 9}
    isolation, effects = Isolation(attempts, {SOURCE.topic: policy}, Backoff()), Effects()
    waiting: list[Any] = [chunk]
    handled: list[int] = []
    pauses: list[float] = []
    for _ in range(TRIES):
        if not waiting:
            break
        taken = waiting.pop(0)
        offsets = [record.offset for record, _ in taken.items]
        error = next((errors[offset] for offset in offsets if offset in errors), None)
        if error is None:
            handled += offsets
            continue
        again = isolation.isolate(effects, taken, error)
        if isinstance(again, Standstill):
            effects.standstill = again
            break
        waiting[:0] = again.chunks
        pauses.append(again.pause_s)
    return effects, handled, pauses


@pytest.mark.parametrize("policy", ["dead-letter", "stop-partition"])
@pytest.mark.parametrize("attempts_max", [1, 2, 5])
def test_it_is_tried_as_often_as_its_agent_says(attempts_max, policy):
    effects, _handled, pauses = work(chunk_of(7), {7: ValueError("poison")}, policy, attempts_max)

    given_up = effects.letters or [(7, "ValueError", effects.standstill.attempts)]
    assert given_up == [(7, "ValueError", attempts_max)]
    assert len([pause_s for pause_s in pauses if pause_s]) == attempts_max - 1


def test_an_event_that_always_fails_becomes_a_dead_letter_after_three_tries_with_pauses():
    effects, handled, pauses = work(chunk_of(7), {7: ValueError("poison")})

    assert effects.letters == [(7, "ValueError", 3)]
    assert effects.counted == ["dead_letter"]
    assert handled == []
    assert pauses == [0.1, 0.2, 0.0]


def test_a_batch_is_halved_until_its_failing_events_are_alone_and_the_others_are_handled_in_order():
    poison = {1: ValueError("one"), 6: KeyError("six")}
    effects, handled, _ = work(chunk_of(*range(8)), poison)

    assert handled == [0, 2, 3, 4, 5, 7]
    assert effects.letters == [(1, "ValueError", 3), (6, "KeyError", 3)]


@pytest.mark.parametrize(
    "error", [RegistryUnavailable("http://registry", "away"), KafkaUnavailable("kafka", "away")]
)
def test_an_event_whose_agent_found_a_service_away_waits_however_often(error):
    effects, _, pauses = work(chunk_of(7, 8), {7: error})

    assert effects.letters == []
    assert len(pauses) == TRIES
    assert pauses[:3] == [0.1, 0.2, 0.4]
    assert max(pauses) == pauses[-1] == 10.0


def test_a_partition_whose_agent_must_not_pass_an_event_over_stands_still_at_it():
    effects, handled, pauses = work(chunk_of(*range(8)), {5: ValueError("poison")}, "stop-partition")

    assert handled == [0, 1, 2, 3, 4], "what comes after it waits"
    assert effects.letters == []
    assert effects.standstill is not None
    assert (effects.standstill.record.offset, effects.standstill.attempts) == (5, 3)
    assert effects.standstill.note == "ValueError: poison"
    assert pauses[-2:] == [0.1, 0.2]


def test_pauses_double_up_to_a_bound_however_long_it_goes_on():
    often = (1, 2, 7, 8, 1_000_000)
    assert [Backoff().seconds(attempts) for attempts in often] == [0.1, 0.2, 6.4, 10.0, 10.0]
    assert [Backoff(20, 50).seconds(attempts) for attempts in often] == [0.02, 0.04, 0.05, 0.05, 0.05]


def test_an_event_whose_agent_says_fatal_stops_the_worker_and_is_not_handled():
    def agent() -> None:
        raise WorkerStopped("another owner has the partition")

    with pytest.raises(WorkerStopped) as raised:
        agent()
    error, line = raised.value, agent.__code__.co_firstlineno + 1

    async def scenario():
        async with coordinator() as bench:
            await bench.assign()
            bench.deliver(0, 1)
            await bench.work()
            bench.coordinator.failed(TOPIC, error)
            assert bench.fatal == [error]
            place = f"{__file__}:{line} in agent"
            assert bench.stopped_at == {"topic": TOPIC, "partition": 0, "offset": 0, "raised_at": place}
        assert bench.commits == []

    asyncio.run(scenario())


def test_the_place_where_an_error_left_the_agents_code_is_told():
    def agent(text: str) -> Any:
        return json.loads(text)

    with pytest.raises(ValueError) as raised:  # noqa: PT011  # whatever the library says
        agent("no JSON")
    line = agent.__code__.co_firstlineno + 1
    assert place_of(raised.value) == f"{__file__}:{line} in agent"
    assert place_of(ValueError("that nobody raised")) == ""


def test_a_dead_letter_says_where_its_error_was_raised():
    with pytest.raises(ValueError, match="invalid literal") as raised:
        int("seven")
    effects, _, _ = work(chunk_of(7), {7: raised.value})

    assert effects.places == [place_of(raised.value)]
    assert effects.places[0].startswith(f"{__file__}:")


def test_what_is_waited_for_is_told_by_topic_and_partition_as_all_else_is() -> None:
    with capture_logs() as told:
        work(chunk_of(5), {5: RegistryUnavailable("http://registry", "it is away")})
    waits = [one for one in told if one["event"] == "agent waits for what may pass"]
    assert {(one["topic"], one["partition"]) for one in waits} == {("input", 0)}
