"""The archive agent on a real PostgreSQL, Kafka played by the test: no record is lost or doubled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from connectors.kafka.stream import Batch
from pipelines.archive import Archive
from pipelines.errors import WorkerStopped
from schemas.errors import Undecodable
from schemas.record import Record
from tests.integration.postgres_case import TOPIC, TOPIC_ID, Database, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG: list[Any] = [stream(f"job:{n}", last_seq=n) for n in range(20)]
LOG[7] = Undecodable("truncated")
LOG[13] = None  # a tombstone
REFUSED_AT = 11


@dataclass
class Unit:
    """A unit of work's effects; they take place only if the test says that Kafka committed."""

    letters: dict[int, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def dead_letter(self, record: Record, cause: str, detail: str, attempts: int = 1) -> None:
        assert detail
        assert attempts == 1
        assert record.offset not in self.letters
        self.letters[record.offset] = cause

    def count(self, outcome: str, n: int = 1) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + n


def handle(archive: Archive, start: int, end: int) -> Unit:
    unit = Unit()
    items = [(Record(TOPIC, 0, at, 0, b"key", b"value"), LOG[at]) for at in range(start, end)]
    asyncio.run(archive.handle(Batch(items, unit, TOPIC, 0, end), "streams"))
    return unit


@pytest.fixture
def database(stack) -> Iterator[Database]:
    case = Database(stack.postgres_dsn)
    case.sink()
    case.query(f"ALTER TABLE $schema.streams ADD CHECK (last_seq <> {REFUSED_AT})")
    yield case
    case.close()


def whole(database: Database) -> bool:
    kept = {f"job:{n}" for n, row in enumerate(LOG) if isinstance(row, dict) and n != REFUSED_AT}
    return {key[1] for key in database.given()} == kept


def test_rows_are_stored_and_what_cannot_be_becomes_a_dead_letter(database):
    archive = Archive(database.options)
    assert archive.assigned(TOPIC, TOPIC_ID, 0, 0) == 0
    unit = handle(archive, 0, 20)
    assert unit.letters == {7: "Undecodable", 11: "SinkRefused"}
    assert unit.counts == {"dead_letter": 2, "archived": 18}
    assert whole(database)


@pytest.mark.parametrize("split", range(1, 20))
def test_dead_letters_survive_a_crash_between_postgresql_and_kafka_wherever_batches_are_cut(database, split):
    crashed = Archive(database.options)
    crashed.assigned(TOPIC, TOPIC_ID, 0, 0)
    handle(crashed, 0, 15)  # stored; its unit is lost with the worker

    archive = Archive(database.options)
    start = archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    assert start == 0
    letters = handle(archive, start, split).letters | handle(archive, split, 20).letters
    assert letters == {7: "Undecodable", 11: "SinkRefused"}
    assert whole(database)


def test_a_unit_that_kafka_drops_while_the_worker_lives_comes_again_with_the_same_dead_letters(database):
    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    assert handle(archive, 0, 20).letters == handle(archive, 0, 20).letters
    assert whole(database)


def test_a_worker_whose_kafka_stands_behind_an_older_database_goes_back_to_it(database):
    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    handle(archive, 0, 10)
    assert Archive(database.options).assigned(TOPIC, TOPIC_ID, 0, 20) == 10


def test_a_fenced_archive_stops_its_worker_and_says_why(database):
    zombie, owner = Archive(database.options), Archive(database.options)
    zombie.assigned(TOPIC, TOPIC_ID, 0, 0)
    owner.assigned(TOPIC, TOPIC_ID, 0, 0)
    with pytest.raises(WorkerStopped, match="owner 1 at 0, PostgreSQL has owner 2") as caught:
        handle(zombie, 0, 5)
    assert "another worker" in caught.value.remedy
    assert database.given() == {}
