"""One operation's attempts, read from the ledger, and what is kept of them from a topic of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError

from connectors.kafka.errors import NotAuthorized
from connectors.kafka.memory import MemoryConsumer, MemoryKafka
from connectors.kafka.options import KafkaOptions
from connectors.llm.attempts import Found, attempts_of
from connectors.llm.ledger import Attempt
from schemas.catalog import LocalSchemas
from schemas.topics import LLM_ATTEMPTS, LLM_CONTENTS, partition_of
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from connectors.kafka.clients import Clients
    from schemas.topics import TopicSpec

WIRE = WireCodec(LocalSchemas())
NOW_MS = 1_700_000_000_000


class Stranger(MemoryConsumer):
    """May not read what people wrote."""

    def list_topics(self, topic, timeout):
        found = super().list_topics(topic, timeout)
        if topic == LLM_CONTENTS.name:
            found.topics[topic].error = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        return found


class Ledger:
    """Both topics, as a worker fills them."""

    def __init__(self) -> None:
        self.kafka = MemoryKafka(lambda: NOW_MS * 1_000)
        self.kafka.create([LLM_ATTEMPTS, LLM_CONTENTS])

    def put(self, row: Attempt) -> None:
        self.append(LLM_ATTEMPTS, row.key, row.encoded(WIRE))
        if (kept := row.with_contents(WIRE)) is not None:
            self.append(LLM_CONTENTS, row.key, kept)

    def append(self, spec: TopicSpec, key: bytes, value: bytes, at_ms: int = NOW_MS) -> None:
        place = spec.name, partition_of(b"t/s", spec.partitions)
        self.kafka.append(place, key, value, at_ms, None, None)

    def read(self, clients: Clients | None = None) -> Found:
        options = KafkaOptions("memory:9092", clients=clients or self.kafka.clients())
        return attempts_of(options, WIRE, "t", "s")


def row(attempt: int = 1, at_ms: int = NOW_MS, **fields: Any) -> Attempt:
    return Attempt(
        tenant="t", stream_id="s", kind="llm", attempt=attempt, epoch=0, state="completed",
        requested_us=at_ms * 1_000, started_us=at_ms * 1_000, **fields,
    )  # fmt: skip


def test_what_was_sent_and_what_came_is_told_beside_the_row_of_the_ledger():
    ledger = Ledger()
    for each in (row(1), row(2, input_json="i"), row(2, input_json="i", output_json="o")):
        ledger.put(each)
    found = ledger.read()
    assert [(each.attempt, each.input_json, each.output_json) for each in found.attempts] == [
        (1, None, None), (2, "i", "o"),
    ]  # fmt: skip
    assert found.refused is None


def test_whoever_may_not_read_contents_is_shown_the_ledger_and_told_so():
    ledger = Ledger()
    ledger.put(row(input_json="i"))
    stranger = replace(ledger.kafka.clients(), consumer=lambda config: Stranger(ledger.kafka, config))
    (told,), refused = ledger.read(stranger)
    assert (told.state, told.input_json) == ("completed", None)
    assert isinstance(refused, NotAuthorized)
    assert LLM_CONTENTS.name in str(refused)


@pytest.mark.parametrize("ahead_ms", [0, 30_000], ids=["clock", "clock-ahead"])
def test_contents_are_read_from_when_it_was_asked_on(ahead_ms):
    ledger = Ledger()
    ledger.append(LLM_CONTENTS, b"t/s/1", b"of a stream of that name, weeks ago", NOW_MS - 86_400_000)
    ledger.put(row(at_ms=NOW_MS + ahead_ms, input_json="i"))
    assert [each.input_json for each in ledger.read().attempts] == ["i"]


def test_contents_that_retention_took_are_not_told():
    ledger = Ledger()
    ledger.append(LLM_CONTENTS, b"t/s/1", b"of a stream of that name, weeks ago", NOW_MS - 86_400_000)
    ledger.put(row())
    assert [each.input_json for each in ledger.read().attempts] == [None]


def test_attempts_of_one_number_of_two_questions_for_a_name_are_both_told():
    """A worker that does not know of the stream's life before begins its numbers again."""
    ledger = Ledger()
    for offset, state, at_ms in ((3, "failed", NOW_MS - 9_000), (8, "completed", NOW_MS)):
        for attempt in (1, 0):
            made = row(attempt, at_ms, request_partition=1, request_offset=offset, input_json=f"{offset}")
            ledger.put(replace(made, state="started"))
            ledger.put(replace(made, state=state, ended_us=at_ms * 1_000, output_json=f"{offset}"))
    told = ledger.read().attempts
    assert [(each.attempt, each.state) for each in told] == [
        (1, "failed"), (0, "failed"), (1, "completed"), (0, "completed"),
    ]  # fmt: skip
    assert [(each.input_json, each.output_json) for each in told] == [("3", "3")] * 2 + [("8", "8")] * 2
