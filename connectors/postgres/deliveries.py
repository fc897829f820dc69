"""How a stream was delivered, read from the archive's tables: what it comes to, and each connection."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from psycopg import sql
from psycopg.rows import dict_row

from connectors.postgres.connection import reading
from connectors.postgres.tables import CONNECTIONS, STREAMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.postgres.connection import BoundedConnection
    from connectors.postgres.options import PostgresOptions

_DELIVERY: Final = (
    "connections", "connections_open", "resumes", "gaps", "dropped", "last_seq_written",
)  # fmt: skip
"""What the view has beside the columns of a stream's record."""
_RECORD: Final = """
SELECT {names} FROM {schema}.stream_deliveries WHERE tenant = %(tenant)s AND stream_id = %(stream_id)s
"""
_CONNECTIONS: Final = """
SELECT {names} FROM {schema}.connections WHERE tenant = %(tenant)s AND stream_id = %(stream_id)s
ORDER BY opened_us DESC, edge, connection DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Delivered:
    """How one stream was delivered."""

    record: dict[str, Any] | None
    """The stream's structured record with its delivery; None if the archive has none."""
    connections: list[dict[str, Any]]
    """The latest first; also of earlier streams of the name, as long as they are kept."""


def delivered(options: PostgresOptions, tenant: str, stream_id: str, limit: int) -> Delivered:
    """Read it, as of one moment; ``limit`` connections at most.

    Raises:
        SinkUnavailable, SinkTimeout, SinkUnfit: there is no answer, or none for us.
    """
    asked = {"tenant": tenant, "stream_id": stream_id, "limit": limit}
    with reading(options, "read how a stream was delivered") as connection:

        def rows(text: str, names: Iterable[str]) -> list[dict[str, Any]]:
            return _rows(connection, options, text, names, asked)

        records = rows(_RECORD, (*STREAMS.columns, *_DELIVERY))
        return Delivered(records[0] if records else None, rows(_CONNECTIONS, CONNECTIONS.columns))


def _rows(
    connection: BoundedConnection,
    options: PostgresOptions,
    text: str,
    names: Iterable[str],
    asked: dict[str, object],
) -> list[dict[str, Any]]:
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    query = sql.SQL(text).format(names=listed, schema=sql.Identifier(options.schema))
    found = connection.cursor(row_factory=dict_row).execute(query, asked).fetchall()
    # A sum of bigint is numeric, which has no end.
    return [
        {name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()}
        for row in found
    ]
