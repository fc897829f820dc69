"""What language models cost, read from the archive's tables: by group, by task, and a completed task."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from psycopg import sql
from psycopg.rows import dict_row

from connectors.postgres.connection import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psycopg

    from connectors.postgres.options import PostgresOptions

By = Literal["provider", "model", "prompt", "tenant"]
_NAMES: Final[Mapping[By, tuple[str, ...]]] = {
    "provider": ("provider",),
    "model": ("provider", "model"),
    "prompt": ("prompt", "prompt_version"),
    "tenant": ("tenant",),
}
"""By which columns a group is told; a model's name says nothing without its provider."""
_SUMS: Final = (
    "calls", "completed", "failed", "cancelled", "abandoned", "refused", "retries", "fallbacks", "restarts",
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "tokens_estimated", "tokens_unknown", "known_nanos", "estimated_nanos", "cost_unknown", "first_contents",
    "first_content_ms_sum", "stream_ms_sum", "stream_tokens", "duration_ms_sum",
)  # fmt: skip
_MAPS: Final = ("errors", "first_content_ms")
_GROUPS: Final = """
SELECT {names}, {sums}, max(first_content_ms_max) AS first_content_ms_max,
    max(duration_ms_max) AS duration_ms_max
FROM {schema}.llm_windows WHERE window_start_us >= %(since_us)s{of_tenant}
GROUP BY {names}
ORDER BY sum(known_nanos) + sum(estimated_nanos) DESC, sum(cost_unknown) DESC, {names} LIMIT %(limit)s
"""
_COUNTS: Final = """
SELECT {names}, pair.key AS key, sum(pair.value::numeric) AS count
FROM {schema}.llm_windows, jsonb_each_text({counts}) AS pair
WHERE window_start_us >= %(since_us)s{of_tenant}
GROUP BY {names}, pair.key
"""
_TASKS: Final = """
SELECT tenant, task_id, min(begun_us) AS begun_us, max(last_us) AS last_us,
    (array_agg(state ORDER BY begun_us DESC))[1] AS state, {sums}
FROM {schema}.llm_tasks WHERE last_us >= %(since_us)s{of_tenant}
GROUP BY tenant, task_id
ORDER BY sum(known_nanos) + sum(estimated_nanos) DESC, sum(cost_unknown) DESC, tenant, task_id LIMIT %(limit)s
"""
_TASK_SUMS: Final = (
    "attempts", "failed_attempts", "running", "other_calls", "other_errors", "known_nanos", "estimated_nanos",
    "cost_unknown", "input_tokens", "output_tokens", "tokens_unknown",
)  # fmt: skip
_COMPLETED: Final = """
SELECT count(*) AS tasks, count(*) FILTER (WHERE state = 'completed') AS completed,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
    count(*) FILTER (WHERE state = 'open') AS open, {sums}
FROM {schema}.llm_tasks WHERE last_us >= %(since_us)s{of_tenant}
"""
_ALL_SUMS: Final = ("attempts", "running", "known_nanos", "estimated_nanos", "cost_unknown")


@dataclass(frozen=True, slots=True)
class Asked:
    """Of what time on, and of whom; ``tenant`` empty = all."""

    since_us: int
    tenant: str = ""
    limit: int = 50


class CostReader:
    """Reads from one connection, each answer of one moment; to be used within ``opened``."""

    def __init__(self, connection: psycopg.Connection[Any], options: PostgresOptions) -> None:
        self._connection = connection
        self._options = options

    @classmethod
    @contextmanager
    def opened(cls, options: PostgresOptions) -> Iterator[CostReader]:
        """Connect, and let the connection go at the end.

        Raises:
            SinkUnavailable, SinkTimeout, SinkUnfit: there is no answer, or none for us.
        """
        with reading(options, "read what language models cost") as connection:
            yield cls(connection, options)

    def groups(self, by: By, asked: Asked) -> list[dict[str, Any]]:
        """Return the sums of the ledger's windows by group, the most expensive first; counts as maps."""
        names = _NAMES[by]
        rows = self._rows(_GROUPS, asked, names=_listed(names), sums=_sums(_SUMS))
        found = {tuple(row[name] for name in names): row for row in rows}
        for row in rows:
            row.update({counts: {} for counts in _MAPS})
        for counts in _MAPS:
            pairs = self._rows(_COUNTS, asked, names=_listed(names), counts=sql.Identifier(counts))
            for pair in pairs:
                key = tuple(pair[name] for name in names)
                if key in found:  # else it is beyond the limit
                    found[key][counts][pair["key"]] = int(pair["count"])
        return rows

    def tasks(self, asked: Asked) -> list[dict[str, Any]]:
        """Return tasks that were heard of since then, the most expensive first."""
        return self._rows(_TASKS, asked, sums=_sums(_TASK_SUMS))

    def completed(self, asked: Asked) -> dict[str, Any]:
        """Return how many tasks there were by state, and what all of them cost together."""
        return self._rows(_COMPLETED, asked, sums=_sums(_ALL_SUMS))[0]

    def _rows(self, text: str, asked: Asked, **parts: sql.Composable) -> list[dict[str, Any]]:
        of_tenant = sql.SQL(" AND tenant = %(tenant)s" if asked.tenant else "")
        schema = sql.Identifier(self._options.schema)
        query = sql.SQL(text).format(schema=schema, of_tenant=of_tenant, **parts)
        cursor = self._connection.cursor(row_factory=dict_row)
        values = {"since_us": asked.since_us, "tenant": asked.tenant, "limit": asked.limit}
        rows = cursor.execute(query, values).fetchall()
        return [{name: _plain(value) for name, value in row.items()} for row in rows]


def bys() -> Sequence[By]:
    """Return what groups there are."""
    return get_args(By)


def _listed(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _sums(names: Sequence[str]) -> sql.Composed:
    # A sum of bigint is numeric, which has no end: no number of a window can break it.
    return sql.SQL(", ").join(
        sql.SQL("coalesce(sum({0}), 0) AS {0}").format(sql.Identifier(name)) for name in names
    )


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int) else int(value)
