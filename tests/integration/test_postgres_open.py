"""Opening the archive: connection strings, migrations, rights; and the schema that comes of it."""

from __future__ import annotations

import io
import secrets
import socket
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rich.traceback import Traceback

from connectors.llm.ledger import Attempt
from connectors.postgres import migrate as migrate_module
from connectors.postgres.claim import Batch, Refusal
from connectors.postgres.connection import connect
from connectors.postgres.encode import prepare
from connectors.postgres.errors import SinkError, SinkTimeout, SinkUnavailable, SinkUnfit
from connectors.postgres.migrate import Migration, migrate, migrations
from connectors.postgres.sink import ArchiveSink
from connectors.postgres.tables import LLM_ATTEMPTS, TABLES, USAGE_WINDOWS
from tests.integration.postgres_case import TOPIC, TOPIC_ID, Database, stream, window
from tests.support.attempts import attempt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.postgres.connection import BoundedConnection
    from connectors.postgres.options import PostgresOptions

SECRET = "hunter2-p@ss/word"  # of nobody
NEXT = len(migrations()) + 1


@pytest.fixture
def database(stack) -> Iterator[Database]:
    case = Database(stack.postgres_dsn)
    yield case
    case.close()


def all_text(error: BaseException) -> str:
    """What a log or a terminal could show of it: causes, and the variables of the sink's own frames."""
    ours = error.__traceback__
    while ours is not None and "connectors" not in ours.tb_frame.f_code.co_filename:
        ours = ours.tb_next  # the test's own frames do hold the secret
    shown = Console(file=io.StringIO(), width=400)
    chained = error.with_traceback(ours)
    shown.print(
        Traceback.from_exception(type(error), chained, ours, show_locals=True, locals_max_string=None)
    )
    assert isinstance(shown.file, io.StringIO)
    text = shown.file.getvalue()
    assert "locals" in text
    return text + "".join(traceback.format_exception(error)) + repr(error)


def test_an_empty_database_is_migrated_once(database):
    database.sink()
    database.sink()
    rows = database.query("SELECT version, name FROM $schema.migrations ORDER BY version")
    assert [row["version"] for row in rows] == [step.version for step in migrations()]
    assert rows[0]["name"] == "0001_archive.sql"


def test_many_that_open_at_once_migrate_once(database):
    def open_one(_: int) -> int:
        sink = ArchiveSink(database.options)
        sink.open()
        claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
        sink.close()
        return claim.owner

    with ThreadPoolExecutor(8) as pool:
        owners = sorted(pool.map(open_one, range(8)))
    assert owners == list(range(1, 9))
    assert len(database.query("SELECT 1 FROM $schema.migrations")) == len(migrations())


def test_a_migration_that_another_makes_for_too_long_is_a_time_out(database):
    lock = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
    with database.admin.transaction():
        database.query(lock, f"sluicegate {database.options.schema}")
        with pytest.raises(SinkTimeout, match="migrate its schema"):
            database.sink(migration_timeout_ms=300)


def test_a_migration_that_fails_leaves_nothing(database):
    steps = (*migrations(), Migration(NEXT, "0099_broken.sql", "CREATE TABLE more (a int); SELECT 1/0", 1))
    connection = connect(database.options)
    with pytest.raises(SinkUnfit, match="division by zero"):
        migrate(connection, database.options, steps)
    connection.close()
    assert database.query("SELECT to_regnamespace(%s)::text AS made", database.options.schema) == [
        {"made": None}
    ]


def test_a_later_migration_is_applied_to_a_schema_in_use(database):
    database.sink()
    steps = (*migrations(), Migration(NEXT, "0099_more.sql", "ALTER TABLE streams ADD COLUMN more text", 1))
    connection = connect(database.options)
    assert migrate(connection, database.options, steps) == [NEXT]
    assert migrate(connection, database.options, steps) == []
    connection.close()


def of_before_questions(options: PostgresOptions) -> BoundedConnection:
    """A session of a schema as code at 5 left it, with one attempt and one window in it."""
    connection = connect(options)
    migrate(connection, options, migrations()[:5])
    former = replace(LLM_ATTEMPTS, key=("tenant", "stream_id", "attempt"))
    added = ("tokens_estimated", "tokens_unknown", "estimated_nanos")
    columns = {name: kind for name, kind in USAGE_WINDOWS.columns.items() if name not in added}
    for table, row in ((former, llm_attempt(7)), (replace(USAGE_WINDOWS, columns=columns), window())):
        connection.execute(table.upsert(options.schema), (prepare(table, [row]).json(),))
    return connection


def llm_attempt(offset: int, **fields: object) -> dict[str, object]:
    row = attempt(1, at_us=1_700_000_000_000_000, request_offset=offset, input_json="[]", **fields)
    return asdict(Attempt(epoch=0, **row))


@pytest.mark.parametrize("built", [False, True], ids=["by the migration", "before it"])
def test_the_key_of_attempts_gets_their_question_and_rows_of_before_stay(database, built):
    connection = of_before_questions(database.options)
    if built:
        database.query(
            "CREATE UNIQUE INDEX CONCURRENTLY llm_attempts_by_question ON $schema.llm_attempts "
            "(tenant, stream_id, request_partition, request_offset, attempt)"
        )
    before = database.query("SELECT * FROM $schema.llm_attempts")
    sink = database.sink()
    assert database.query("SELECT * FROM $schema.llm_attempts") == before
    (kept,) = database.query("SELECT cost_nanos, tokens_unknown, estimated_nanos FROM $schema.usage_windows")
    assert kept == {"cost_nanos": 5, "tokens_unknown": 0, "estimated_nanos": 0}
    # The same record, read again, is the same row; another question's of the same number is another one.
    claim = sink.claim("llm.attempts.v1", "id", 0, 0)
    claim = sink.write(claim, Batch(2, llm_attempts=[llm_attempt(7), llm_attempt(9, output_json="{}")]))
    sink.write(claim, Batch(3, llm_attempts=[llm_attempt(9)]))
    told = "SELECT request_offset, cost_nanos, output_json FROM $schema.llm_attempts ORDER BY request_offset"
    assert [tuple(row.values()) for row in database.query(told)] == [(7, 1_000, None), (9, 1_000, "{}")]
    assert sink.forget_contents(0) == 2
    with pytest.raises(psycopg.errors.InvalidColumnReference):  # a worker of before that was under way
        connection.execute(
            replace(LLM_ATTEMPTS, key=("tenant", "stream_id", "attempt")).upsert(database.options.schema),
            (prepare(LLM_ATTEMPTS, [llm_attempt(7)]).json(),),
        )
    with pytest.raises(SinkUnfit, match=r"0006_llm_questions\.sql, to which code at 5 cannot write"):
        migrate(connection, database.options, migrations()[:5])
    connection.close()


@pytest.mark.parametrize(("oldest", "works"), [(1, True), (NEXT, False)])
def test_old_code_writes_to_a_newer_schema_as_long_as_that_allows_it(database, oldest, works):
    database.sink()
    database.query("INSERT INTO $schema.migrations VALUES (%s, '0099_more.sql', 'digest', %s)", NEXT, oldest)
    if works:
        database.sink()
        return
    with pytest.raises(SinkUnfit, match=r"0099_more\.sql.*cannot write") as caught:
        database.sink()
    assert "Upgrade this worker" in caught.value.remedy


def test_a_migration_that_was_edited_after_its_release_is_found(database):
    database.sink()
    database.query("UPDATE $schema.migrations SET sha256 = 'another'")
    with pytest.raises(SinkUnfit, match=r"0001_archive\.sql was applied .* with another text"):
        database.sink()


def test_migrations_are_numbered_without_a_hole():
    assert [step.version for step in migrate_module.migrations()] == list(range(1, len(migrations()) + 1))


def test_columns_keys_and_nullability_of_the_database_are_those_of_the_table_of_tables(database):
    database.sink()
    for table in TABLES:
        rows = database.query(
            "SELECT column_name AS name, udt_name AS type, is_nullable = 'YES' AS nullable, "
            "is_generated = 'ALWAYS' AS derived FROM information_schema.columns "
            "WHERE table_schema = %s AND table_name = %s",
            database.options.schema,
            table.stored_in,
        )
        sql_names = {"bigint": "int8", "boolean": "bool", "text[]": "_text"}
        given = {
            row["name"]: (row["type"], row["nullable"])
            for row in rows
            if not row["derived"] and row["name"] != "archived"
        }
        assert given == {
            name: (sql_names.get(kind.rstrip("?"), kind.rstrip("?")), kind.endswith("?"))
            for name, kind in table.columns.items()
        }
        key = database.query(
            "SELECT a.attname AS name FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k(num, place), "
            "pg_attribute a WHERE i.indrelid = %s::regclass AND i.indisprimary AND a.attrelid = i.indrelid "
            "AND a.attnum = k.num ORDER BY place",
            f"{database.options.schema}.{table.stored_in}",
        )
        assert tuple(row["name"] for row in key) == table.key


def test_every_table_and_every_column_says_what_it_is(database):
    database.sink()
    silent = database.query(
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum >= 0 "
        "AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)",
        database.options.schema,
    )
    assert silent == []


def test_the_session_is_named_and_bounded(database):
    sink = database.sink()
    pid = database.session_of(sink)
    (row,) = database.query("SELECT application_name AS name FROM pg_stat_activity WHERE pid = %s", pid)
    assert row == {"name": "sluicegate-archive"}
    assert sink._connection is not None
    for name, value in sink.options.session_settings().items():
        shown = sink._connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        assert shown is not None
        assert shown[0].replace(" ", "") == value.replace("000ms", "s").replace(" ", "")


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://user:{SECRET}@127.0.0.1:badport/db",
        f"postgresql://user:{SECRET.replace('@', '%')}@127.0.0.1/db",
        f"host=127.0.0.1 password='{SECRET}",
        f"host=127.0.0.1 {SECRET}",
        f"postgresql://user:{SECRET.replace('@', '%40').replace('/', '%2F')}@[::1/db",
        f"mysql://user:{SECRET}@127.0.0.1/db",
        f"password={SECRET} nosuchoption=1",
    ],
)
def test_a_connection_string_that_cannot_be_read_is_refused_without_being_repeated(database, dsn):
    with pytest.raises(SinkError) as caught:
        ArchiveSink(replace(database.options, dsn=dsn)).open()
    for piece in (SECRET, "hunter2", "ss/word", "p%ss"):
        assert piece not in all_text(caught.value)
        assert piece not in repr(replace(database.options, dsn=dsn))


def test_a_wrong_password_is_told_without_it(database, stack):
    if conninfo_to_dict(stack.postgres_dsn).get("password") is None:
        pytest.skip("this PostgreSQL trusts everybody")
    with pytest.raises(SinkUnfit, match="password authentication failed") as caught:
        database.sink(dsn=make_conninfo(stack.postgres_dsn, password=SECRET))
    assert SECRET not in all_text(caught.value)
    assert "pg_hba.conf" in caught.value.remedy


def test_an_unknown_user_or_database_is_final_and_named(database, stack):
    name = f"nobody_{secrets.token_hex(4)}"
    with pytest.raises(SinkUnfit, match=name) as caught:
        database.sink(dsn=make_conninfo(stack.postgres_dsn, dbname=name))
    assert "Create the database" in caught.value.remedy
    assert not caught.value.transient


@pytest.mark.parametrize("place", ["127.0.0.1", "/nonexistent-folder"])
def test_a_server_that_is_not_there_is_told_with_its_address_and_may_pass(database, place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    dsn = make_conninfo(host=place, port=port, user="somebody", password=SECRET, dbname="things")
    with pytest.raises(SinkUnavailable) as caught:
        database.sink(dsn=dsn)
    assert caught.value.where == f"somebody@{place}:{port}/things"
    assert caught.value.where in str(caught.value)
    assert "SLUICEGATE_POSTGRES__DSN" in caught.value.remedy
    assert caught.value.transient
    assert SECRET not in all_text(caught.value)


def test_a_user_without_the_right_to_create_can_write_to_a_schema_that_is_there(database, stack):
    role = f"writer_{secrets.token_hex(4)}"
    database.query(f"CREATE ROLE {role} LOGIN PASSWORD 'writer'")
    limited = make_conninfo(stack.postgres_dsn, user=role, password="writer")
    try:
        with pytest.raises(SinkUnfit, match="permission denied") as caught:
            database.sink(dsn=limited)
        assert "rights" in caught.value.remedy
        database.sink()
        database.query(
            f"GRANT USAGE ON SCHEMA $schema TO {role}; "
            f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA $schema TO {role}; "
            f"GRANT DELETE ON $schema.refusals TO {role}"
        )
        sink = database.sink(dsn=limited)
        claim = sink.claim(TOPIC, TOPIC_ID, 0, first=3)
        assert claim.next == 3
        claim = sink.write(claim, Batch(next=5, streams=[stream()], refused=[Refusal(4, "why")], settled=3))
        assert sink.renew(claim) == claim
    finally:
        database.query(f"DROP OWNED BY {role}; DROP ROLE {role}")
