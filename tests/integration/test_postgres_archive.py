"""The archive agent on a real PostgreSQL, Kafka played by the test: no record is lost or doubled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from connectors.kafka.stream import Batch
from connectors.postgres.errors import SinkUnavailable
from pipelines.archive import Archive
from pipelines.errors import PartitionReleased, WorkerStopped
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


def handle(archive: Archive, start: int, end: int, unit: Unit | None = None, *, partition: int = 0) -> Unit:
    unit = unit or Unit()
    items = [(Record(TOPIC, partition, at, 0, b"key", b"value"), LOG[at]) for at in range(start, end)]
    asyncio.run(archive.handle(Batch(items, unit, TOPIC, partition, end), "streams"))
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
    assert (archive.counts.batches, archive.counts.rows_refused, archive.counts.rows_stored) == (1, 1, 17)
    assert archive.counts.seconds > 0
    assert set(archive.counts.errors.values()) == {0}
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


def end_session(database: Database, archive: Archive) -> None:
    """End the archive's session as a failover, or a cut, does; its next statement finds it gone."""
    database.terminate(database.session_of(archive._sink))
    with pytest.raises(SinkUnavailable):
        handle(archive, 10, 15)


def stood_at(database: Database) -> tuple[int, int]:
    (row,) = database.query("SELECT owner, next FROM $schema.progress")
    return row["owner"], row["next"]


def test_a_fenced_archive_releases_the_partition_and_goes_on_once_it_is_assigned_again(database):
    zombie, owner = Archive(database.options), Archive(database.options)
    zombie.assigned(TOPIC, TOPIC_ID, 0, 0)
    zombie.assigned(TOPIC, TOPIC_ID, 1, 0)
    owner.assigned(TOPIC, TOPIC_ID, 0, 0)
    for _again in range(3):
        with pytest.raises(PartitionReleased, match="owner 1 at 0, PostgreSQL has owner 2") as caught:
            handle(zombie, 0, 5)
        assert caught.value.transient, "the coordinator holds the partition, and the worker lives"
        assert not getattr(caught.value, "fatal", False)
    assert "another worker" in caught.value.remedy
    assert zombie.counts.errors["FenceLost"] == 1, "it asked once"
    assert database.given() == {}
    assert handle(zombie, 0, 5, partition=1).counts == {"archived": 5}, "its other partitions go on"

    assert handle(owner, 0, 15).counts["archived"] == 13, "the owner was not shut out"
    assert zombie.assigned(TOPIC, TOPIC_ID, 0, 15) == 15
    handle(zombie, 15, 20)
    with pytest.raises(PartitionReleased):
        handle(owner, 15, 20)
    assert whole(database)


def test_a_zombie_that_lost_its_connection_does_not_shut_out_the_owner(database):
    zombie, owner = Archive(database.options), Archive(database.options)
    zombie.assigned(TOPIC, TOPIC_ID, 0, 0)
    handle(zombie, 0, 10)
    assert owner.assigned(TOPIC, TOPIC_ID, 0, 10) == 10
    end_session(database, zombie)
    for _again in range(2):
        with pytest.raises(PartitionReleased, match="PostgreSQL has owner 2"):
            handle(zombie, 10, 15)
    assert stood_at(database) == (2, 10)
    handle(owner, 10, 20)
    assert whole(database)


def test_a_partition_that_the_group_leaves_to_a_fenced_worker_stops_it(database, monkeypatch):
    monkeypatch.setattr("pipelines.archive._FENCED_S_MAX", -1.0)
    zombie, owner = Archive(database.options), Archive(database.options)
    zombie.assigned(TOPIC, TOPIC_ID, 0, 0)
    owner.assigned(TOPIC, TOPIC_ID, 0, 0)
    with pytest.raises(WorkerStopped, match="the group has not taken the partition away") as caught:
        handle(zombie, 0, 5)
    assert "two deployments" in caught.value.remedy


def test_a_revoked_partition_is_not_claimed_by_a_batch_that_comes_late(database):
    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    archive.revoked(TOPIC, 0)
    with pytest.raises(PartitionReleased, match="revoked"):
        handle(archive, 0, 5)
    assert stood_at(database) == (1, 0)


def test_an_archive_that_only_lost_its_connection_goes_on_where_it_stood(database):
    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    handle(archive, 0, 10)
    end_session(database, archive)
    assert handle(archive, 10, 20).letters == {11: "SinkRefused"}
    assert whole(database)


def test_what_was_refused_is_told_again_after_a_lost_connection(database):
    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    handle(archive, 0, 15)
    end_session(database, archive)
    assert handle(archive, 10, 20).letters == {11: "SinkRefused"}


@pytest.mark.parametrize(
    "past",
    [
        "UPDATE $schema.progress SET next = 5",
        "UPDATE $schema.progress SET owner = 0",
        "DELETE FROM $schema.progress",
    ],
)
def test_a_database_that_went_back_stops_the_worker_instead_of_leaving_a_hole(database, past):
    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    handle(archive, 0, 10)
    database.query("DELETE FROM $schema.streams WHERE last_seq >= 5")  # a replica that lagged takes over
    database.query(past)
    end_session(database, archive)
    with pytest.raises(WorkerStopped, match=r"PostgreSQL went back: .* up to offset 10, now") as caught:
        handle(archive, 10, 15)
    assert "again" in caught.value.remedy


def test_the_worker_that_starts_after_it_stores_what_is_missing(database):
    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    handle(archive, 0, 10)
    database.query("DELETE FROM $schema.streams WHERE last_seq >= 5")
    database.query("UPDATE $schema.progress SET next = 5")
    end_session(database, archive)
    with pytest.raises(WorkerStopped):
        handle(archive, 10, 15)
    again = Archive(database.options)
    assert again.assigned(TOPIC, TOPIC_ID, 0, 10) == 5
    handle(again, 5, 20)
    assert whole(database)


def test_refusals_are_kept_until_kafka_has_passed_them_and_no_longer(database):
    def kept() -> list[int]:
        return [row["record_offset"] for row in database.query("SELECT * FROM $schema.refusals")]

    archive = Archive(database.options)
    archive.assigned(TOPIC, TOPIC_ID, 0, 0)
    unit = handle(archive, 0, 12)
    handle(archive, 12, 14, unit)  # of the same unit of work: Kafka may still drop both
    assert kept() == [11]
    handle(archive, 0, 14)  # it did
    handle(archive, 5, 16)
    assert kept() == [11]
    handle(archive, 16, 18)  # a unit that begins here: all before it is committed
    assert kept() == []
    assert whole(database) is False
    handle(archive, 18, 20)
    assert whole(database)
