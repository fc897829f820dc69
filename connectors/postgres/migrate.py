"""Versioned migrations of the archive's schema, safe when several workers start at once.

A file `migrations/NNNN_name.sql` is plain SQL. Its first line `-- oldest: N` names the oldest code (by the
number of its own newest migration) that may still write once it is applied: a rolling upgrade runs old and
new workers side by side, and may be rolled back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from connectors.postgres.connection import explain, reading
from connectors.postgres.errors import SinkUnfit

if TYPE_CHECKING:
    from connectors.postgres.connection import BoundedConnection
    from connectors.postgres.options import PostgresOptions

_NAME = re.compile(r"(\d{4})_\w+\.sql")
_OLDEST = re.compile(r"-- oldest: (\d+)\n")

_BOOKS = """
CREATE TABLE IF NOT EXISTS migrations (
    version bigint      PRIMARY KEY,
    name    text        NOT NULL,
    sha256  text        NOT NULL,
    oldest  bigint      NOT NULL,
    applied timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE migrations IS 'Migrations that this schema has seen.';
COMMENT ON COLUMN migrations.version IS 'Number of the migration.';
COMMENT ON COLUMN migrations.name IS 'File that it came from.';
COMMENT ON COLUMN migrations.sha256 IS 'Digest of that file, so that an edited one is found.';
COMMENT ON COLUMN migrations.oldest IS 'Newest migration that the oldest code allowed to write knows.';
COMMENT ON COLUMN migrations.applied IS 'When it was applied, by the clock of PostgreSQL.';
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step, and the oldest code that can live with it."""

    version: int
    name: str
    text: str
    oldest: int

    @property
    def sha256(self) -> str:
        """Digest of the text."""
        return sha256(self.text.encode()).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations that this code knows, in order; their numbers have no hole."""
    found = []
    for entry in files("connectors.postgres").joinpath("migrations").iterdir():
        named = _NAME.fullmatch(entry.name)
        if named is None:
            continue
        text = entry.read_text(encoding="utf-8")
        oldest = _OLDEST.match(text)
        if oldest is None:
            raise ValueError(f"{entry.name} does not begin with '-- oldest: N'")
        found.append(Migration(int(named[1]), entry.name, text, int(oldest[1])))
    found.sort(key=lambda step: step.version)
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations must be numbered 1, 2, …: {[step.name for step in found]}")
    return tuple(found)


def migrate(
    connection: BoundedConnection, options: PostgresOptions, steps: tuple[Migration, ...] | None = None
) -> list[int]:
    """Bring the schema to this code's version; return the versions applied now.

    A schema that is up to date costs one query, takes no lock and needs no right to create. A newer one is
    written to as long as its migrations allow. Raises SinkUnfit, SinkTimeout, SinkUnavailable.
    """
    steps = migrations() if steps is None else steps
    try:
        if _missing(_applied(connection, options), steps, options) == []:
            return []
        return _apply(connection, options, steps)
    except psycopg.Error as error:
        raise explain(options.where, "migrate its schema", error) from error


def unapplied(options: PostgresOptions) -> list[str]:
    """Return the names of the migrations that the archive would apply at its start; nothing is changed.

    Raises:
        SinkUnfit: it would refuse to: the schema is newer than this code, or is not what its migrations made.
        SinkUnavailable, SinkTimeout: no answer.
    """
    with reading(options, "look at its migrations") as connection:
        return [step.name for step in _missing(_applied(connection, options), migrations(), options)]


def _applied(connection: BoundedConnection, options: PostgresOptions) -> dict[int, tuple[str, str, int]]:
    known = connection.execute("SELECT to_regclass(%s)", (f"{options.schema}.migrations",)).fetchone()
    if known is None or known[0] is None:
        return {}
    query = sql.SQL("SELECT version, name, sha256, oldest FROM {}.migrations")
    rows = connection.execute(query.format(sql.Identifier(options.schema))).fetchall()
    return {version: (name, digest, oldest) for version, name, digest, oldest in rows}


def _missing(
    applied: dict[int, tuple[str, str, int]], steps: tuple[Migration, ...], options: PostgresOptions
) -> list[Migration]:
    ours = len(steps)
    for version, (name, _, oldest) in sorted(applied.items()):
        if version > ours and oldest > ours:
            raise SinkUnfit(
                options.where,
                f"schema {options.schema} has migration {name}, to which code at {ours} cannot write",
                remedy="Upgrade this worker; a newer one has migrated the database.",
            )
    for step in steps:
        if step.version in applied and applied[step.version][1] != step.sha256:
            raise SinkUnfit(
                options.where,
                f"migration {step.name} was applied to schema {options.schema} with another text",
                remedy="A migration is never edited once released: put the change into a new one.",
            )
    return [step for step in steps if step.version not in applied]


def _apply(
    connection: BoundedConnection, options: PostgresOptions, steps: tuple[Migration, ...]
) -> list[int]:
    """All missing steps in one transaction, under a lock that other openers of this schema wait for."""
    bound_s = options.migration_timeout_ms / 1000
    answer_timeout_s, connection.answer_timeout_s = connection.answer_timeout_s, bound_s + 1
    try:
        with connection.transaction():
            for name in ("lock_timeout", "statement_timeout"):
                connection.execute("SELECT set_config(%s, %s, true)", (name, f"{bound_s:g}s"))
            if connection.info.server_version >= 170_000:
                connection.execute("SET LOCAL transaction_timeout = 0")
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"sluicegate {options.schema}",)
            )
            return _apply_locked(connection, options, steps)
    finally:
        connection.answer_timeout_s = answer_timeout_s


def _apply_locked(
    connection: BoundedConnection, options: PostgresOptions, steps: tuple[Migration, ...]
) -> list[int]:
    schema = sql.Identifier(options.schema)
    # IF NOT EXISTS asks for the right to create even where nothing is to be created: look first.
    if connection.execute("SELECT to_regnamespace(%s)", (options.schema,)).fetchone() == (None,):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    connection.execute(sql.SQL("SET LOCAL search_path = {}, pg_catalog").format(schema))
    connection.execute(_BOOKS)
    missing = _missing(_applied(connection, options), steps, options)
    for step in missing:
        connection.execute(step.text.encode())
        connection.execute(
            "INSERT INTO migrations (version, name, sha256, oldest) VALUES (%s, %s, %s, %s)",
            (step.version, step.name, step.sha256, step.oldest),
        )
    return [step.version for step in missing]
