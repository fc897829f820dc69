"""The idempotent sink: batches of a partition, each in one transaction together with its position.

PostgreSQL is not fenced by Kafka; it fences itself, and its position wins:

1. On assignment `claim` raises the partition's owner number, which shuts out all owners before, and
   returns `next`: the consumer seeks there.
   A worker that only lost its connection takes up its claim by `renew`, which shuts out nobody.
2. `write` begins a transaction and moves `next` on condition that owner and `next` are still its own.
   No row moved = somebody else owns the partition: nothing is written.
3. Under the row lock that this took, the rows are stored, newer revisions only.
4. COMMIT in PostgreSQL; then, by the caller, in Kafka. After a crash between the two the next owner
   seeks to PostgreSQL's `next`; a worker that wakes up late finds its owner number gone.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from connectors.postgres import statements
from connectors.postgres.claim import Batch, Claim, Counts, Refusal
from connectors.postgres.connection import BoundedConnection, connect, explain, is_lost, problem_of
from connectors.postgres.culprit import find_refused, is_data_error
from connectors.postgres.encode import Rows, prepare, refusals_json
from connectors.postgres.errors import (
    FenceLost,
    OutcomeUnknown,
    SinkError,
    SinkUnavailable,
    SinkUnfit,
    WentBack,
)
from connectors.postgres.migrate import migrate
from connectors.postgres.tables import TABLES, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.postgres.options import PostgresOptions

CONTENTS_MAX = 500
"""Attempts whose contents one statement deletes: of 1 MiB each, well within a statement's time."""
CONNECTIONS_MAX = 5_000
"""Connections that one statement deletes, of some 500 bytes each."""


class ArchiveSink:
    """Writes stream records, windows and attempts; used by one thread at a time, every wait bounded."""

    def __init__(self, options: PostgresOptions) -> None:
        self.options = options
        self.counts = Counts()
        self._connection: BoundedConnection | None = None
        schema = sql.Identifier(options.schema)
        self._claim_sql = sql.SQL(statements.CLAIM).format(schema=schema)
        self._fence_sql = sql.SQL(statements.FENCE).format(schema=schema)
        self._held_sql = sql.SQL(statements.HELD).format(schema=schema)
        self._held_for_good_sql = sql.SQL(statements.HELD_FOR_GOOD).format(schema=schema)
        self._settle_sql = sql.SQL(statements.SETTLE).format(schema=schema)
        self._refuse_sql = sql.SQL(statements.REFUSE).format(schema=schema)
        self._refused_sql = sql.SQL(statements.REFUSED).format(schema=schema)
        self._forget_contents_sql = sql.SQL(statements.FORGET_CONTENTS).format(schema=schema)
        self._forget_connections_sql = sql.SQL(statements.FORGET_CONNECTIONS).format(schema=schema)
        self._upserts = {table.name: table.upsert(options.schema) for table in TABLES}

    def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises SinkUnavailable, SinkTimeout, SinkUnfit; each names the address without its password.
        """
        self.close()
        connection = connect(self.options)
        try:
            migrate(connection, self.options)
        except SinkError:
            connection.close()
            raise
        self.counts.connections += 1
        self._connection = connection

    def close(self) -> None:
        """Drop the connection; the server ends what was under way. Claims end with it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def claim(self, topic: str, topic_id: str, partition: int, first: int) -> Claim:
        """Become the owner of a partition; `first` is where it starts if it was never archived.

        Waits, within the lock time-out, for the batch that another owner is just storing, so that `next`
        holds. Connects again if the connection was lost. Raises SinkUnavailable, SinkTimeout, SinkUnfit.
        """
        return self._on_a_live_connection(lambda: self._claim_once(topic, topic_id, partition, first))

    def renew(self, claim: Claim) -> Claim:
        """Make a claim good again after its connection was lost, or its outcome was; `next` holds then.

        It raises no owner number: a worker that slept while its partition went to another one must not
        shut that one out. Waits and connects as `claim`. Raises FenceLost, WentBack, SinkUnavailable,
        SinkTimeout, SinkUnfit.
        """
        return self._on_a_live_connection(lambda: self._renew_once(claim))

    def _on_a_live_connection(self, ask: Callable[[], Claim]) -> Claim:
        fresh = self._connection is None
        while True:
            if self._connection is None:
                self.open()
                fresh = True
            try:
                return ask()
            except SinkUnavailable:
                self.close()
                if fresh:
                    raise
                # The connection was lost long ago, or its server became a replica: a new one decides.

    def _renew_once(self, claim: Claim) -> Claim:
        connection = self._connected()
        place = (self.options.sink, claim.topic_id, claim.partition)
        try:
            row = connection.execute(self._held_for_good_sql, place).fetchone()
        except psycopg.Error as error:
            doing = f"renew the claim of partition {claim.partition} of {claim.topic}"
            raise self._explained(connection, doing, error) from error
        owner, stands_at = row if row is not None else (-1, None)
        if owner > claim.owner:
            mine = (claim.owner, claim.next)
            raise FenceLost(claim.topic, claim.partition, mine=mine, found=(owner, stands_at))
        if owner < claim.owner or stands_at < claim.next:
            raise WentBack(claim.topic, claim.partition, stored=claim.next, found=stands_at)
        return replace(claim, next=stands_at, session=self.counts.connections)

    def _claim_once(self, topic: str, topic_id: str, partition: int, first: int) -> Claim:
        connection = self._connected()
        values = (self.options.sink, topic_id, partition, topic, first)
        try:
            row = connection.execute(self._claim_sql, values).fetchone()
        except psycopg.Error as error:
            raise self._explained(connection, f"claim partition {partition} of {topic}", error) from error
        assert row is not None
        return Claim(topic, topic_id, partition, owner=row[0], next=row[1], session=self.counts.connections)

    def write(self, claim: Claim, batch: Batch) -> Claim:
        """Store a batch whole or not at all, and return the claim at the batch's `next`.

        Raises FenceLost (release the partition), SinkRefused (one row; write the batch without it),
        OutcomeUnknown, SinkTimeout, SinkUnavailable (renew the claim), SinkUnfit. Whatever is raised,
        nothing was written, OutcomeUnknown apart.
        """
        if batch.next <= claim.next:
            raise ValueError(f"a batch must move its partition on: next={batch.next}, held {claim.next}")
        prepared = [(table, prepare(table, given)) for table in TABLES if (given := batch.rows(table.name))]
        connection = self._connected(claim)
        stored, began = 0, time.monotonic()
        try:
            connection.execute("BEGIN")
            self._move_fence(connection, claim, batch.next)
            for table, rows in prepared:
                stored += self._store(connection, table, rows)
            self._note_refused(connection, claim, batch)
        except psycopg.Error as error:
            raise self._undone(connection, error, prepared) from error
        except SinkError:
            self._roll_back(connection)
            raise
        self._commit(connection)
        self.counts.batches += 1
        self.counts.seconds += time.monotonic() - began
        self.counts.rows_given += sum(len(batch.rows(table.name)) for table, _ in prepared)
        self.counts.rows_stored += stored
        self.counts.characters_replaced += sum(rows.characters_replaced for _, rows in prepared)
        return replace(claim, next=batch.next)

    def _move_fence(self, connection: BoundedConnection, claim: Claim, new: int) -> None:
        place = (self.options.sink, claim.topic_id, claim.partition)
        moved = connection.execute(self._fence_sql, (new, *place, claim.owner, claim.next))
        if moved.rowcount == 1:
            return
        found = connection.execute(self._held_sql, place).fetchone()
        raise FenceLost(
            claim.topic,
            claim.partition,
            mine=(claim.owner, claim.next),
            found=(found[0], found[1]) if found else None,
        )

    def refused(self, claim: Claim, start: int, end: int) -> list[Refusal]:
        """The records from offset `start` to before `end` that were passed over, in order.

        For a caller that comes to a record below `claim.next` again, because its Kafka transaction failed
        after PostgreSQL had committed. Raises SinkUnavailable, SinkTimeout, SinkUnfit.
        """
        connection = self._connected(claim)
        place = (self.options.sink, claim.topic_id, claim.partition)
        try:
            rows = connection.execute(self._refused_sql, (*place, start, end)).fetchall()
        except psycopg.Error as error:
            raise self._explained(connection, "read what was refused", error) from error
        return [Refusal(offset, problem) for offset, problem in rows]

    def forget_contents(self, older_than_ms: int) -> int:
        """Delete inputs and outputs of old attempts, `CONTENTS_MAX` at most; return of how many.

        Their age is by PostgreSQL's clock; the attempts themselves stand. Several workers may do it at once:
        each takes others. Raises SinkUnavailable, SinkTimeout, SinkUnfit.
        """
        values = (older_than_ms * 1_000, CONTENTS_MAX)
        return self._forget(self._forget_contents_sql, values, "delete old inputs and outputs")

    def forget_connections(self, older_than_ms: int) -> int:
        """Delete connections that were heard of last so long ago, `CONNECTIONS_MAX` at most; as above."""
        values = (older_than_ms * 1_000, CONNECTIONS_MAX)
        return self._forget(self._forget_connections_sql, values, "delete old connections")

    def _forget(self, statement: sql.Composed, values: tuple[int, int], doing: str) -> int:
        if self._connection is None:
            self.open()
        connection = self._connected()
        try:
            return connection.execute(statement, values).rowcount
        except psycopg.Error as error:
            raise self._explained(connection, doing, error) from error

    def _note_refused(self, connection: BoundedConnection, claim: Claim, batch: Batch) -> None:
        place = (self.options.sink, claim.topic_id, claim.partition)
        if batch.settled:
            connection.execute(self._settle_sql, (*place, batch.settled))
        if batch.refused:
            connection.execute(self._refuse_sql, (*place, refusals_json(batch.refused)))

    def _store(self, connection: BoundedConnection, table: Table, rows: Rows) -> int:
        return sum(
            connection.execute(self._upserts[table.name], (part.json(),)).rowcount
            for part in rows.parts(self.options.rows_a_statement_max)
        )

    def _commit(self, connection: BoundedConnection) -> None:
        """COMMIT. An ERROR of a session that lives on is a no; whatever ends the session says nothing."""
        try:
            connection.execute("COMMIT")
        except psycopg.Error as error:
            refused = error.diag.severity_nonlocalized == "ERROR"
            if not refused or is_lost(connection):
                self.close()
                raise OutcomeUnknown(self.options.where, problem_of(error)) from error
            if is_data_error(error):
                raise SinkUnfit(
                    self.options.where,
                    f"a deferred constraint refuses a row, COMMIT does not say which: {problem_of(error)}",
                    remedy="Make the constraint that was added to the archive's tables NOT DEFERRABLE, so "
                    "that the row it refuses is found and goes to the dead letter topic.",
                ) from error
            raise self._explained(connection, "commit", error) from error

    def _undone(
        self, connection: BoundedConnection, error: psycopg.Error, prepared: list[tuple[Table, Rows]]
    ) -> SinkError:
        """Roll back, and say what was wrong: with the database, or with which row."""
        explained = self._explained(connection, "store a batch", error)
        if self._connection is None or not self._roll_back(connection) or not is_data_error(error):
            return explained

        def attempt(table: Table, rows: Rows) -> None:
            connection.execute("BEGIN")
            try:
                self._store(connection, table, rows)
            finally:
                self._roll_back(connection)

        try:
            return find_refused(prepared, attempt) or explained
        except psycopg.Error as other:
            return self._explained(connection, "look for the row that was refused", other)

    def _roll_back(self, connection: BoundedConnection) -> bool:
        """End the transaction; a connection that cannot even do that is dropped, which ends it too."""
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()
            return False
        return True

    def _explained(self, connection: BoundedConnection, doing: str, error: psycopg.Error) -> SinkError:
        if is_lost(connection):
            self.close()
        return explain(self.options.where, doing, error)

    def _connected(self, claim: Claim | None = None) -> BoundedConnection:
        if self._connection is None or (claim is not None and claim.session != self.counts.connections):
            raise SinkUnavailable(self.options.where, "the connection of this claim is gone: claim again")
        return self._connection
