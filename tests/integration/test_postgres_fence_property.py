"""Random interleavings of two owners on a real PostgreSQL against a plain model.

The model: a partition is one list of records; PostgreSQL must always hold exactly the fold of the records
before its `next`, and only the owner that claimed last moves it, whoever crashes, sleeps or repeats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from connectors.postgres.claim import Batch, Claim
from connectors.postgres.errors import FenceLost, SinkUnavailable
from tests.integration.postgres_case import TOPIC, TOPIC_ID, Database, stream

if TYPE_CHECKING:
    from connectors.postgres.sink import ArchiveSink

WORKERS = st.sampled_from(["a", "b"])
LOG_LENGTH = 200


@dataclass
class Worker:
    """What one worker process knows; its memory is gone when it crashes."""

    sink: ArchiveSink
    claim: Claim | None = None
    claim_lives: bool = False
    """False once its connection is gone: the model's own account, not the sink's."""


def log() -> list[dict[str, object]]:
    """A partition's records: revisions of a few streams, some of them late (with a lower revision)."""
    return [
        stream(f"job:{n % 5}", revision=n - 7 if n % 11 == 3 and n > 7 else n + 1, attempts=n)
        for n in range(LOG_LENGTH)
    ]


def fold(records: list[dict[str, object]]) -> dict[tuple[object, ...], dict[str, object]]:
    kept: dict[tuple[object, ...], dict[str, object]] = {}
    for record in records:
        key = (record["tenant"], record["stream_id"])
        if key not in kept or int(str(kept[key]["revision"])) < int(str(record["revision"])):
            kept[key] = record
    return kept


class TwoOwners(RuleBasedStateMachine):
    """Rules are what workers do and what befalls them; each is told beforehand what must come of it."""

    database: Database  # set by the test: one schema, emptied for each example

    @initialize()
    def start(self) -> None:
        self.log = log()
        self.owner: str | None = None
        self.owner_number = 0
        self.next = 0
        self.workers = {name: Worker(self.database.sink()) for name in ("a", "b")}
        self.database.query("TRUNCATE $schema.streams, $schema.progress")

    @rule(name=WORKERS)
    def claims(self, name: str) -> None:
        worker = self.workers[name]
        worker.claim = worker.sink.claim(TOPIC, TOPIC_ID, 0, first=0)
        worker.claim_lives = True
        self.owner, self.owner_number = name, self.owner_number + 1
        assert (worker.claim.owner, worker.claim.next) == (self.owner_number, self.next)

    @rule(name=WORKERS)
    def renews(self, name: str) -> None:
        """Whatever befell its connection: a worker gets back what is still its own, and shuts out nobody."""
        worker = self.workers[name]
        if worker.claim is None:
            return
        if worker.claim.owner != self.owner_number:
            with pytest.raises(FenceLost):
                worker.sink.renew(worker.claim)
            return
        worker.claim = worker.sink.renew(worker.claim)
        worker.claim_lives = True
        assert (worker.claim.owner, worker.claim.next) == (self.owner_number, self.next)

    @rule(name=WORKERS, size=st.integers(1, 8))
    def writes_what_follows(self, name: str, size: int) -> None:
        self._writes(name, size, keep=True)

    @rule(name=WORKERS, size=st.integers(1, 8))
    def writes_and_forgets_that_it_did(self, name: str, size: int) -> None:
        """The next write of this worker repeats a position that is taken: it must be fenced by itself."""
        self._writes(name, size, keep=False)

    def _writes(self, name: str, size: int, *, keep: bool) -> None:
        worker = self.workers[name]
        claim = worker.claim
        if claim is None or claim.next + size > LOG_LENGTH:
            return
        batch = Batch(next=claim.next + size, streams=self.log[claim.next : claim.next + size])
        if not worker.claim_lives:
            with pytest.raises(SinkUnavailable):
                worker.sink.write(claim, batch)
            return
        if self.owner != name or claim.owner != self.owner_number or claim.next != self.next:
            with pytest.raises(FenceLost):
                worker.sink.write(claim, batch)
            return
        moved = worker.sink.write(claim, batch)
        self.next = batch.next
        worker.claim = moved if keep else claim

    @rule(name=WORKERS)
    def loses_its_connection(self, name: str) -> None:
        worker = self.workers[name]
        if worker.sink._connection is not None:
            worker.sink._connection.pgconn.finish()
            worker.claim_lives = False

    @rule(name=WORKERS)
    def crashes_and_starts_again(self, name: str) -> None:
        self.workers[name].sink.close()
        self.workers[name] = Worker(self.database.sink())

    @invariant()
    def the_database_is_the_fold_of_the_log_up_to_next(self) -> None:
        if not hasattr(self, "workers"):
            return
        rows = self.database.query("SELECT owner, next FROM $schema.progress")
        assert rows == ([{"owner": self.owner_number, "next": self.next}] if self.owner_number else [])
        assert self.database.given() == fold(self.log[: self.next])

    def teardown(self) -> None:
        for worker in getattr(self, "workers", {}).values():
            worker.sink.close()


def test_two_owners_in_any_order_keep_the_archive_equal_to_the_fold_of_the_log(stack):
    database = Database(stack.postgres_dsn)
    database.sink()
    try:
        TwoOwners.database = database
        run_state_machine_as_test(
            TwoOwners,
            settings=settings(
                max_examples=60,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        database.close()
