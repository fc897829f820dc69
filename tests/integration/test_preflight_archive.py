"""`preflight` asks PostgreSQL what the archive would find there at its start."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from connectors.postgres.connection import connect
from connectors.postgres.errors import SinkUnavailable
from connectors.postgres.migrate import migrate, migrations
from connectors.postgres.options import PostgresOptions
from pipelines.checks import check_archive
from tests.support.command_line import CommandLine
from tests.support.own_database import own_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def dsn(stack) -> Iterator[str]:
    """A database that no archive has seen."""
    with own_database(stack.postgres_dsn, f"preflight_{secrets.token_hex(6)}") as made:
        yield made


def change(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(statement.encode())


def test_what_the_archive_applies_at_its_start_is_told_and_an_archive_of_this_code_fits(dsn):
    first = check_archive(dsn)
    assert first.problem == ""
    assert all(step.name in first.warning for step in migrations())
    with psycopg.connect(dsn) as admin:
        assert admin.execute("SELECT to_regnamespace('sluicegate')").fetchone() == (None,)

    options = PostgresOptions(dsn)
    with connect(options) as connection:
        migrate(connection, options)
    assert (check_archive(dsn).problem, check_archive(dsn).warning) == ("", "")


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE sluicegate.migrations SET sha256 = 'other' WHERE version = 2", "with another text"),
        (
            "INSERT INTO sluicegate.migrations VALUES (900, '0900_x.sql', 'x', 900)",
            "0900_x.sql, to which code",
        ),
    ],
)
def test_a_database_that_the_archive_would_refuse_does_not_fit(dsn, statement, problem):
    options = PostgresOptions(dsn)
    with connect(options) as connection:
        migrate(connection, options)
    change(dsn, statement)
    assert problem in check_archive(dsn).problem


def test_a_database_that_is_not_there_does_not_fit_and_a_server_that_is_away_is_no_finding(dsn):
    assert "does not exist" in check_archive(make_conninfo(dsn, dbname="nowhere")).problem
    with pytest.raises(SinkUnavailable):
        check_archive("postgresql://127.0.0.1:1/x")


def test_the_command_tells_of_it_and_offline_asks_nobody(tmp_path: Path, stack, kafka_options, registry, dsn):
    with CommandLine(tmp_path, stack, kafka_options) as line:
        line.environment["SLUICEGATE_POSTGRES__DSN"] = dsn
        code, out, err = line.run("preflight", "--json")
        assert code == 0, err
        (found,) = (one for one in json.loads(out)["found"] if one["what"] == "archive")
        assert (found["role"], "0001_archive.sql" in found["warning"]) == ("archive", True)
        line.environment["SLUICEGATE_POSTGRES__DSN"] = "postgresql://127.0.0.1:1/x"
        code, _, err = line.run("preflight")
        assert (code, "PostgreSQL at (default user)@127.0.0.1:1/x" in err) == (3, True)
        assert line.run("preflight", "--offline")[0] == 0
