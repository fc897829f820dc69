"""One bounded connection to PostgreSQL, and what its errors mean to the archive."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from connectors.postgres.errors import SinkError, SinkTimeout, SinkUnavailable, SinkUnfit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.abc import PQGen

    from connectors.postgres.options import PostgresOptions

RV = TypeVar("RV")
SERVER_VERSION_MIN = 140_000  # SQL bodies of functions
_TRANSACTION_TIMEOUT_SINCE = 170_000


class AnswerOverdue(psycopg.OperationalError):
    """The server kept the connection but did not answer; the connection was dropped."""


class BoundedConnection(psycopg.Connection[TupleRow]):
    """A connection that waits no longer than `answer_timeout_s` for an answer.

    `statement_timeout` is kept by the server: one that is frozen, or behind a network that swallows packets
    while keepalives pass, would hold the archive's thread for ever.
    """

    answer_timeout_s: float = 5.0

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's, with a bound; a connection whose answer is overdue is closed, lest it come later."""
        bound = self.answer_timeout_s if timeout is None else timeout
        started = time.monotonic()
        try:
            return super().wait(gen, interval, bound)
        except psycopg.OperationalError as error:
            if error.sqlstate is None and time.monotonic() - started >= bound and not is_lost(self):
                self.pgconn.finish()
                raise AnswerOverdue(f"no answer within {bound:g} s") from error
            raise


def is_lost(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether the connection can carry nothing more."""
    return connection.closed or connection.broken


def connect(options: PostgresOptions) -> BoundedConnection:
    """Open a connection in autocommit mode with the session's bounds set.

    Raises SinkUnavailable if no server answers, SinkUnfit if it answers and refuses us for good.
    """
    connection = _dial(options)
    if isinstance(connection, SinkError):
        raise connection
    connection.answer_timeout_s = options.answer_timeout_ms / 1000
    try:
        _prepare_session(connection, options)
    except psycopg.Error as error:
        connection.close()
        raise explain(options.where, "set up the session", error) from error
    except SinkError:
        connection.close()
        raise
    return connection


@contextmanager
def reading(options: PostgresOptions, doing: str) -> Iterator[BoundedConnection]:
    """A connection that changes nothing, and whose answers are of one moment; let go of at the end.

    ``doing`` stands in errors. Raises SinkUnavailable, SinkTimeout, SinkUnfit.
    """
    connection = connect(options)
    try:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield connection
    except psycopg.Error as error:
        raise explain(options.where, doing, error) from error
    finally:
        connection.close()


def _dial(options: PostgresOptions) -> BoundedConnection | SinkError:
    """Connect; give an error back instead of raising it.

    Its traceback would lead through frames whose variables hold the password, and loggers print those.
    """
    try:
        return BoundedConnection.connect(
            options.conninfo(), autocommit=True, row_factory=tuple_row, prepare_threshold=2
        )
    except psycopg.Error as error:
        return explain(options.where, "connect", error)


def _prepare_session(connection: BoundedConnection, options: PostgresOptions) -> None:
    version = connection.info.server_version
    if version < SERVER_VERSION_MIN:
        raise SinkUnfit(
            options.where,
            f"its version is {version // 10_000}, at least {SERVER_VERSION_MIN // 10_000} is needed",
            remedy="Upgrade PostgreSQL, or archive to another one",
        )
    settings = options.session_settings()
    if version >= _TRANSACTION_TIMEOUT_SINCE:
        # Bounds what the other time-outs add up to, so that a claim never waits longer for a lost session.
        settings["transaction_timeout"] = f"{2 * options.answer_timeout_ms}ms"
    calls = sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, false)").format(sql.Literal(name), sql.Literal(value))
        for name, value in settings.items()
    )
    connection.execute(sql.SQL("SELECT ") + calls)


_REMEDIES = {
    "28": "Check user and password in SLUICEGATE_POSTGRES__DSN, and pg_hba.conf of the server.",
    "3D": "Create the database, or name an existing one in SLUICEGATE_POSTGRES__DSN.",
    "42": "Restart the archive, which makes missing tables; if it repeats, give its user rights on them.",
}
_NO_REMEDY = "Read the server's log: this is a fault of the database or of this program, not of the data."
_WORDS = {"authentication failed": "28", "no password supplied": "28", "does not exist": "3D"}
_TOO_LONG = (
    AnswerOverdue,
    pg.QueryCanceled,
    pg.LockNotAvailable,
    pg.DeadlockDetected,
    pg.SerializationFailure,
    pg.IdleInTransactionSessionTimeout,
    pg.TransactionTimeout,
)
_PASSING = ("", "08", "53", "57", "58")  # connection, resources (disk, slots), shutdown, system
_PASSING_STATES = ("25006", "40003")  # became a replica; statement completion unknown


def explain(where: str, doing: str, error: psycopg.Error) -> SinkError:
    """The error of our tree for one of psycopg's that does not concern a single row."""
    state, problem = error.sqlstate or "", problem_of(error)
    if isinstance(error, _TOO_LONG):
        return SinkTimeout(where, doing, problem)
    # While connecting, libpq gives no SQLSTATE: what waiting cannot cure is known by its words alone.
    kind = state[:2] or next((kind for words, kind in _WORDS.items() if words in problem), "")
    if kind in _REMEDIES:
        return SinkUnfit(where, problem, remedy=_REMEDIES[kind])
    if kind in _PASSING or state in _PASSING_STATES:
        return SinkUnavailable(where, problem)
    return SinkUnfit(where, f"{problem} (SQLSTATE {state})", remedy=_NO_REMEDY)


def problem_of(error: psycopg.Error) -> str:
    """The server's first line alone: details may quote a row, and a row is a user's."""
    text = error.diag.message_primary or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:300]
