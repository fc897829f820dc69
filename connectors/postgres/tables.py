"""The archive's tables as the sink sees them: columns, key, and the statement that stores a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping

ColumnType = Literal["text", "text?", "bigint", "bigint?", "boolean", "boolean?", "jsonb", "text[]"]
"""PostgreSQL's type; `?` = may be NULL."""
_NEWEST: Final = sql.SQL("{0} = EXCLUDED.{0}")
_IF_GIVEN: Final = sql.SQL("{0} = coalesce(EXCLUDED.{0}, kept.{0})")


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose rows are the newest revision of each key."""

    name: str
    record: str
    """Avro record that a row comes from; its fields are the columns (a unit test compares them)."""
    key: tuple[str, ...]
    columns: Mapping[str, ColumnType]
    revision: str = "revision"
    """Column by which of two rows of a key the newer is known."""
    left_out: tuple[str, ...] = ()
    """Fields of the record that are no columns: of no use here, or of one event alone, and a row of many."""
    apart: tuple[str, ...] = ()
    """Columns that come by a topic of their own (``filling``): a row without them leaves them as they are."""
    filling: str = ""
    """The table whose columns ``apart`` are filled from these rows, whatever its revision; empty = none."""

    @property
    def stored_in(self) -> str:
        """Its table in the database."""
        return self.filling or self.name

    def upsert(self, schema: str) -> sql.Composed:
        """One statement, one parameter: a JSON array of rows; one without a higher revision changes nothing.

        Columns ``apart`` count where they are given; of rows that fill another table they alone, and of any
        revision. Why no COPY: ``docs/adr/0017-one-upsert-a-table.md``.
        """
        names = sql.SQL(", ").join(map(sql.Identifier, self.columns))
        types = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind.rstrip("?")))
            for name, kind in self.columns.items()
        )
        changed = self.apart if self.filling else [name for name in self.columns if name not in self.key]
        changes = sql.SQL(", ").join(
            (_IF_GIVEN if name in self.apart else _NEWEST).format(sql.Identifier(name)) for name in changed
        )
        newer = sql.SQL("" if self.filling else " WHERE kept.{0} < EXCLUDED.{0}").format(
            sql.Identifier(self.revision)
        )
        return sql.SQL(
            "INSERT INTO {schema}.{table} AS kept ({names}) "
            "SELECT {names} FROM json_to_recordset(%s::json) AS given ({types}) "
            "ON CONFLICT ({key}) DO UPDATE SET {changes}, archived = clock_timestamp(){newer}"
        ).format(
            newer=newer,
            schema=sql.Identifier(schema),
            table=sql.Identifier(self.stored_in),
            names=names,
            types=types,
            key=sql.SQL(", ").join(map(sql.Identifier, self.key)),
            changes=changes,
        )


STREAMS = Table(
    name="streams",
    record="sluicegate.StreamRecord",
    key=("tenant", "stream_id"),
    columns=MappingProxyType(
        {
            "tenant": "text",
            "stream_id": "text",
            "kind": "text",
            "request_id": "text",
            "task_id": "text",
            "first_seq": "bigint",
            "last_seq": "bigint",
            "events_by_type": "jsonb",
            "bytes_by_type": "jsonb",
            "opened_us": "bigint",
            "first_data_us": "bigint",
            "last_data_us": "bigint",
            "ended_us": "bigint",
            "time_to_first_data_us": "bigint",
            "longest_silence_us": "bigint",
            "end_reason": "text",
            "upstream_ids": "text[]",
            "attempts": "bigint",
            "cost_nanos": "bigint?",
            "cost_unknown_events": "bigint",
            "revision": "bigint",
        }
    ),
)

USAGE_WINDOWS = Table(
    name="usage_windows",
    record="sluicegate.UsageWindow",
    key=("window_start_us", "window_ms", "tenant", "kind", "provider", "model"),
    columns=MappingProxyType(
        {
            "window_start_us": "bigint",
            "window_ms": "bigint",
            "tenant": "text",
            "kind": "text",
            "provider": "text",
            "model": "text",
            "calls": "bigint",
            "errors": "bigint",
            "events": "bigint",
            "input_tokens": "bigint",
            "output_tokens": "bigint",
            "tokens_estimated": "bigint",
            "tokens_unknown": "bigint",
            "cost_nanos": "bigint",
            "estimated_nanos": "bigint",
            "cost_unknown": "bigint",
            "latency_ms_sum": "bigint",
            "latency_ms_max": "bigint",
            "final": "boolean",
            "revision": "bigint",
        }
    ),
)

LLM_ATTEMPTS = Table(
    name="llm_attempts",
    record="sluicegate.LlmAttempt",
    key=("tenant", "stream_id", "request_partition", "request_offset", "attempt"),
    columns=MappingProxyType(
        {
            "tenant": "text",
            "stream_id": "text",
            "kind": "text",
            "attempt": "bigint",
            "epoch": "bigint",
            "state": "text",
            "request_id": "text",
            "task_id": "text",
            "upstream": "text",
            "provider": "text",
            "model": "text",
            "model_answered": "text",
            "route": "text",
            "route_version": "bigint",
            "prompt": "text",
            "prompt_version": "bigint",
            "why": "text",
            "requested_us": "bigint",
            "started_us": "bigint",
            "connected_us": "bigint",
            "first_content_us": "bigint",
            "last_content_us": "bigint",
            "ended_us": "bigint",
            "http_status": "bigint",
            "provider_request_id": "text",
            "finish": "text",
            "finish_raw": "text",
            "error_class": "text",
            "error_raw": "text",
            "retry_after_ms": "bigint",
            "input_tokens": "bigint?",
            "cached_input_tokens": "bigint?",
            "cache_write_tokens": "bigint?",
            "output_tokens": "bigint?",
            "reasoning_tokens": "bigint?",
            "usage_details": "jsonb",
            "usage_source": "text",
            "cost_nanos": "bigint?",
            "cost_source": "text",
            "price_version": "text",
            "reserved_tokens": "bigint",
            "reserved_nanos": "bigint",
            "contents": "bigint",
            "shown": "boolean?",
            "characters": "bigint",
            "chunks": "bigint",
            "input_json": "text?",
            "output_json": "text?",
            "gate": "text",
            "end_reason": "text",
            "worker": "text",
            "request_partition": "bigint",
            "request_offset": "bigint",
        }
    ),
    revision="ended_us",  # 0 until it is settled; settled again, it ended later
    left_out=("model_named",),  # for windows
    apart=("input_json", "output_json"),
)
LLM_CONTENTS = replace(LLM_ATTEMPTS, name="llm_contents", filling=LLM_ATTEMPTS.name)

LLM_WINDOWS = Table(
    name="llm_windows",
    record="sluicegate.LlmWindow",
    key=("window_start_us", "window_ms", "tenant", "kind", "provider", "model", "prompt", "prompt_version"),
    columns=MappingProxyType(
        {
            "window_start_us": "bigint",
            "window_ms": "bigint",
            "tenant": "text",
            "kind": "text",
            "provider": "text",
            "model": "text",
            "prompt": "text",
            "prompt_version": "bigint",
            "calls": "bigint",
            "completed": "bigint",
            "failed": "bigint",
            "cancelled": "bigint",
            "abandoned": "bigint",
            "refused": "bigint",
            "retries": "bigint",
            "fallbacks": "bigint",
            "restarts": "bigint",
            "input_tokens": "bigint",
            "cached_input_tokens": "bigint",
            "cache_write_tokens": "bigint",
            "output_tokens": "bigint",
            "reasoning_tokens": "bigint",
            "tokens_estimated": "bigint",
            "tokens_unknown": "bigint",
            "known_nanos": "bigint",
            "estimated_nanos": "bigint",
            "cost_unknown": "bigint",
            "first_contents": "bigint",
            "first_content_ms_sum": "bigint",
            "stream_ms_sum": "bigint",
            "stream_tokens": "bigint",
            "duration_ms_sum": "bigint",
            "first_content_ms_max": "bigint",
            "duration_ms_max": "bigint",
            "errors": "jsonb",
            "first_content_ms": "jsonb",
            "final": "boolean",
            "revision": "bigint",
        }
    ),
)

LLM_TASKS = Table(
    name="llm_tasks",
    record="sluicegate.LlmTask",
    key=("tenant", "task_id", "begun_us"),
    columns=MappingProxyType(
        {
            "tenant": "text",
            "task_id": "text",
            "begun_us": "bigint",
            "state": "text",
            "end_reason": "text",
            "started_us": "bigint",
            "ended_us": "bigint",
            "last_us": "bigint",
            "attempts": "bigint",
            "failed_attempts": "bigint",
            "running": "bigint",
            "other_calls": "bigint",
            "other_errors": "bigint",
            "known_nanos": "bigint",
            "estimated_nanos": "bigint",
            "cost_unknown": "bigint",
            "input_tokens": "bigint",
            "output_tokens": "bigint",
            "tokens_unknown": "bigint",
            "calls_by_upstream": "jsonb",
            "known_by_upstream": "jsonb",
            "estimated_by_upstream": "jsonb",
            "unknown_by_upstream": "jsonb",
            "revision": "bigint",
        }
    ),
)

CONNECTIONS = Table(
    name="connections",
    record="sluicegate.ConnectionEvent",
    key=("tenant", "stream_id", "edge", "connection"),
    columns=MappingProxyType(
        {
            "tenant": "text",
            "stream_id": "text",
            "edge": "text",
            "connection": "bigint",
            "kind": "text",
            "action": "text",
            "transport": "text",
            "peer": "text",
            "subject": "text",
            "opened_us": "bigint",
            "time_us": "bigint",
            "reason": "text",
            "resumed": "boolean",
            "seq": "bigint",
            "events": "bigint",
            "bytes": "bigint",
            "gaps": "bigint",
            "dropped": "bigint",
            "duration_ms": "bigint",
            "revision": "bigint",
        }
    ),
    left_out=("from_seq", "to_seq", "count"),
)

TABLES = (STREAMS, USAGE_WINDOWS, LLM_ATTEMPTS, LLM_CONTENTS, LLM_WINDOWS, LLM_TASKS, CONNECTIONS)
