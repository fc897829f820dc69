"""What can go wrong between the archive and PostgreSQL.

SluicegateError
└── SinkError                 transient says whether the same work may succeed later
    ├── SinkUnavailable       transient   PostgreSQL cannot be reached, or is shutting down
    ├── SinkTimeout           transient   it was reached and did not answer in time: a lock, a slow disk
    ├── OutcomeUnknown        transient   the connection broke during COMMIT: renewing the claim settles it
    ├── FenceLost             final       another owner has the partition: release it
    ├── WentBack              final       it holds less than it did: restored, or a replica that lagged
    ├── SinkRefused           final       one row cannot be stored: dead-letter that row, write the others
    └── SinkUnfit             final       rights, version or tables are not what is needed: a hand is needed

After every transient error the caller does one thing: wait, renew its claim, and hand over the same batch
again, less what lies below the claim's `next`. It need not seek: a claim that is renewed never stands before
what the caller has handed over, or it is WentBack. After all of them PostgreSQL holds whole batches only.
"""

from __future__ import annotations

from typing import ClassVar

from schemas.errors import SluicegateError


class SinkError(SluicegateError):
    """Root of this tree; `transient` tells whether waiting may cure it, `remedy` what an operator does."""

    transient: ClassVar[bool] = False


class SinkUnavailable(SinkError):
    """PostgreSQL cannot be reached; `where` is its address without the password."""

    transient = True

    def __init__(self, where: str, problem: str) -> None:
        self.where = where
        super().__init__(
            f"PostgreSQL at {where} cannot be used now: {problem}",
            remedy="Start PostgreSQL (the local stack's: `sluicegate up`), or point SLUICEGATE_POSTGRES__DSN "
            "at the right one; nothing is lost: the archive goes on where it stopped.",
        )


class SinkTimeout(SinkError):
    """PostgreSQL was reached, but a lock or an answer took longer than its bound; nothing was written."""

    transient = True

    def __init__(self, where: str, doing: str, problem: str) -> None:
        self.where = where
        self.doing = doing
        super().__init__(
            f"PostgreSQL at {where} took too long to {doing}: {problem}",
            remedy="Look for the session in the way in pg_stat_activity (wait_event, pg_blocking_pids) "
            "and for a full or slow disk; nothing is lost: the archive tries again.",
        )


class OutcomeUnknown(SinkError):
    """The answer to COMMIT never came: the batch is stored whole, or not at all.

    The next `renew` or `claim` of the partition waits for the lost session's row lock, and so returns the
    position that holds.
    """

    transient = True

    def __init__(self, where: str, problem: str) -> None:
        self.where = where
        super().__init__(
            f"PostgreSQL at {where} was lost during COMMIT, whose outcome is unknown: {problem}",
            remedy="Nothing to do: the claim is renewed, and the stored position settles it.",
        )


class FenceLost(SinkError):
    """Another owner has claimed the partition, or moved it; nothing was written."""

    def __init__(
        self, topic: str, partition: int, *, mine: tuple[int, int], found: tuple[int, int] | None
    ) -> None:
        self.topic = topic
        self.partition = partition
        now = f"owner {found[0]} at {found[1]}" if found else "no row at all"
        super().__init__(
            f"partition {partition} of {topic}: this worker was owner {mine[0]} at {mine[1]}, "
            f"PostgreSQL has {now}",
            remedy="Nothing to do when a partition moved to another worker; if it repeats, two deployments "
            "write the same sink: give one of them another sink name or schema.",
        )


class WentBack(SinkError):
    """PostgreSQL holds less of a partition than it did a moment ago; nothing was written."""

    def __init__(self, topic: str, partition: int, *, stored: int, found: int | None) -> None:
        self.topic = topic
        self.partition = partition
        now = "knows nothing of it" if found is None else f"stands at {found}"
        super().__init__(
            f"PostgreSQL went back: partition {partition} of {topic} was stored up to offset {stored}, "
            f"now it {now}",
            remedy="It was restored from a backup, or failed over to a replica that lagged. Start the worker "
            "again: it reads from where PostgreSQL stands, and stores again what is missing.",
        )


class SinkRefused(SinkError):
    """One row cannot be stored; `row` is its place in the batch as it was given."""

    def __init__(self, table: str, column: str, row: int, row_key: str, problem: str) -> None:
        self.table = table
        self.column = column
        self.row = row
        self.row_key = row_key
        self.problem = problem
        at = f"{table}.{column}" if column else table
        super().__init__(
            f"{at} refuses row {row_key}: {problem}",
            remedy="The record goes to the dead letter topic; look there for its bytes, "
            "and for constraints or triggers that were added to the table.",
        )


class SinkUnfit(SinkError):
    """The database was reached, but is not one that the archive can write to."""

    def __init__(self, where: str, problem: str, *, remedy: str) -> None:
        self.where = where
        super().__init__(f"PostgreSQL at {where} does not fit the archive: {problem}", remedy=remedy)
