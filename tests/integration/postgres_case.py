"""What the tests of the PostgreSQL sink share: a schema of their own, rows, and a look at what is stored."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from connectors.postgres.options import PostgresOptions
from connectors.postgres.sink import ArchiveSink
from connectors.postgres.tables import STREAMS, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOPIC = "streams.records.v1"
TOPIC_ID = "topic-id-1"


def stream(stream_id: str = "job:1", *, revision: int = 1, **fields: object) -> dict[str, object]:
    """A decoded stream record; plain values unless given."""
    return {
        "tenant": "default",
        "stream_id": stream_id,
        "kind": "log",
        "request_id": "request-1",
        "task_id": stream_id,
        "first_seq": 0,
        "last_seq": revision,
        "events_by_type": {"log": revision},
        "bytes_by_type": {"log": 100 * revision},
        "opened_us": 1_700_000_000_000_000,
        "first_data_us": 1_700_000_000_000_001,
        "last_data_us": 1_700_000_000_000_002,
        "ended_us": 0,
        "time_to_first_data_us": 1,
        "longest_silence_us": 1,
        "end_reason": "",
        "upstream_ids": ["call-1"],
        "attempts": 1,
        "cost_nanos": None,
        "cost_unknown_events": 0,
        "revision": revision,
    } | fields


def window(model: str = "small", *, revision: int = 1, **fields: object) -> dict[str, object]:
    """A decoded usage window."""
    return {
        "window_start_us": 1_700_000_000_000_000,
        "window_ms": 60_000,
        "tenant": "default",
        "kind": "llm",
        "provider": "acme",
        "model": model,
        "calls": revision,
        "errors": 0,
        "events": revision,
        "input_tokens": 10 * revision,
        "output_tokens": 20 * revision,
        "tokens_estimated": 0,
        "tokens_unknown": 0,
        "cost_nanos": 5,
        "estimated_nanos": 0,
        "cost_unknown": 0,
        "latency_ms_sum": 7,
        "latency_ms_max": 7,
        "final": False,
        "revision": revision,
    } | fields


class Database:
    """A second connection to the sink's database, and sinks that share one random schema."""

    def __init__(self, dsn: str, schema: str | None = None) -> None:
        self.options = PostgresOptions(dsn=dsn, schema=schema or f"test_{secrets.token_hex(6)}")
        self.admin = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self._sinks: list[ArchiveSink] = []

    def sink(self, **options: Any) -> ArchiveSink:
        """An open sink, closed with the case."""
        sink = ArchiveSink(replace(self.options, **options))
        self._sinks.append(sink)
        sink.open()
        return sink

    def query(self, text: str, *values: object) -> list[dict[str, Any]]:
        """Rows of a query in which `$schema` stands for the schema."""
        found = self.admin.execute(text.replace("$schema", self.options.schema).encode(), values)
        return found.fetchall() if found.description else []

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        """All that the sink stores, with the physical place of each row: equal = nothing was touched."""
        return {
            name: self.query(f"SELECT *, ctid::text, xmin::text FROM $schema.{name} ORDER BY 1, 2, 3, 4")
            for name in ("streams", "usage_windows", "progress")
        }

    def given(self, table: Table = STREAMS) -> dict[tuple[object, ...], dict[str, object]]:
        """Rows by key with the columns that were given, without the derived ones."""
        rows = self.query(f"SELECT {', '.join(table.columns)} FROM $schema.{table.name}")
        return {tuple(row[name] for name in table.key): row for row in rows}

    def session_of(self, sink: ArchiveSink) -> int:
        """Process id of the server's end of the sink's connection."""
        assert sink._connection is not None
        return sink._connection.info.backend_pid

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait, ten seconds at most, until something can be seen."""
        end = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < end, f"never seen: {what}"
            time.sleep(0.005)

    def until_waiting(self, pid: int, *, event: str, query: str = "%") -> None:
        """Wait until the server itself says that this session waits for `event`."""
        ask = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = %s AND query LIKE %s"
        self.until(lambda: self.query(ask, pid, event, query), f"session {pid} waiting for {event}")

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Keep every other session out of a table of the schema."""
        with psycopg.connect(self.options.dsn) as other:
            other.execute(f"LOCK TABLE {self.options.schema}.{table} IN ACCESS EXCLUSIVE MODE".encode())
            yield

    def terminate(self, pid: int) -> None:
        """End a session of the server, and see it gone."""
        assert self.query("SELECT pg_terminate_backend(%s) AS done", pid) == [{"done": True}]
        self.until(
            lambda: not self.query("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid), f"{pid} gone"
        )

    def close(self) -> None:
        """Drop the schema and all connections."""
        for sink in self._sinks:
            sink.close()
        self.query("DROP SCHEMA IF EXISTS $schema CASCADE")
        self.admin.close()
