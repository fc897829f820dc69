"""Which row of a refused batch it was: the database names the constraint, seldom the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import Error

from connectors.postgres.connection import problem_of
from connectors.postgres.encode import Rows, key_of, misfit
from connectors.postgres.errors import SinkRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.postgres.tables import Table

# Classes of SQLSTATE that concern the data: invalid value, constraint, a limit such as an index row's size.
_DATA_ERRORS = ("22", "23", "54")


def is_data_error(error: Error) -> bool:
    """Whether the rows are at fault, and not the database."""
    return (error.sqlstate or "")[:2] in _DATA_ERRORS


def find_refused(
    prepared: Sequence[tuple[Table, Rows]], attempt: Callable[[Table, Rows], None]
) -> SinkRefused | None:
    """Halve each table's rows until one is left that it refuses; None if all are taken this time.

    `attempt` stores rows and undoes it, and raises what the database said: at most 2 + log2(rows) times.
    """
    for table, rows in prepared:
        error = _refusal(table, rows, attempt)
        if error is not None:
            return _narrow_down(table, rows, error, attempt)
    return None


def _narrow_down(
    table: Table, rows: Rows, error: Error, attempt: Callable[[Table, Rows], None]
) -> SinkRefused:
    while len(rows.rows) > 1:
        middle = len(rows.rows) // 2
        first, second = Rows(rows.rows[:middle], 0), Rows(rows.rows[middle:], 0)
        refused = _refusal(table, first, attempt)
        rows, error = (first, refused) if refused is not None else (second, error)
    at, row = rows.rows[0]
    error = _refusal(table, rows, attempt) or error
    column = misfit(table, row) or error.diag.column_name or ""
    return SinkRefused(table.name, column, at, key_of(table, row), problem_of(error))


def _refusal(table: Table, rows: Rows, attempt: Callable[[Table, Rows], None]) -> Error | None:
    try:
        attempt(table, rows)
    except Error as error:
        if not is_data_error(error):
            raise
        return error
    return None
