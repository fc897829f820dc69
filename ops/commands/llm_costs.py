"""`sluicegate llm costs`: what language models cost, from PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cyclopts import App


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(costs_command, name="costs")


def costs_command(
    *,
    by: Literal["provider", "model", "prompt", "tenant", "task"] = "model",
    since: str = "24h",
    tenant: str = "",
    limit: int = 50,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Show what language models cost, with known, estimated and unknown apart, and what a task cost.

    From the tables of the archive, so it needs PostgreSQL. A completed task's cost is what all tasks cost,
    failed and cancelled ones too, over those that were completed. Calls that were `cut off` were cancelled,
    or abandoned by a worker that died.

    Example: `sluicegate llm costs --by prompt --since 7d`

    Parameters
    ----------
    by
        What to add up by; `prompt` tells versions apart, `task` lists the most expensive ones.
    since
        From when on: how long ago (90m, 6h, 3d), a time with its zone, or `earliest`.
    tenant
        Of one tenant alone.
    limit
        Most rows to show, the most expensive first.
    as_json
        Print a JSON document; money in 1e-9 USD.
    """
    from connectors.postgres.costs import Asked, CostReader
    from ops import console
    from ops.addresses import archive_options
    from ops.errors import Misused
    from ops.llm_figures import figures_of, per_completed
    from ops.reprocess.plan import from_ms_of
    from ops.settings import Settings

    if not 1 <= limit <= 10_000:
        raise Misused(f"--limit {limit} is not between 1 and 10,000", "give a number of rows")
    since_ms = from_ms_of(since, option="--since")
    asked = Asked(max(since_ms, 0) * 1_000, tenant, limit + 1)  # one more tells that there are more
    options = archive_options(
        Settings(), "costs are in PostgreSQL", "costs", "`sluicegate llm attempts` needs Kafka alone"
    )
    with CostReader.opened(options) as reader:
        rows = reader.tasks(asked) if by == "task" else [figures_of(row) for row in reader.groups(by, asked)]
        tasks = reader.completed(asked)
    rows, more = rows[:limit], len(rows) > limit
    if as_json:
        told = {"by": by, "since_us": asked.since_us, "tenant": tenant or None, "rows": rows, "more": more}
        console.print_json({**told, "tasks": {**tasks, "per_completed": per_completed(tasks)}})
        return 0
    if by == "task":
        _show_tasks(rows)
    else:
        _show_groups(rows, by)
    if more:
        console.note(f"there are more than these {limit:,}; --limit shows them")
    if unknown := sum(row["tokens_unknown"] for row in rows):
        console.note(f"≥: the tokens of {unknown:,} calls are not known, and in no sum")
    _show_completed(tasks)
    return 0


def _show_groups(rows: Sequence[Mapping[str, Any]], by: str) -> None:
    from ops import console
    from ops.llm_figures import duration, money, tokens

    texts = {"provider": 1, "model": 2, "prompt": 2, "tenant": 1}[by]
    titles = {"model": ("provider", "model"), "prompt": ("prompt", "version")}.get(by, (by,))
    numbers = (
        "calls", "failed", "cut off", "refused", "retries", "fallbacks", "first p50", "first p95",
        "tokens/s", "in", "out", "known", "estimated", "unknown",
    )  # fmt: skip
    table = _table(titles, numbers)
    for row in rows:
        names = [str(value) or "-" for value in list(row.values())[:texts]]
        speed = row["tokens_per_s"]
        table.add_row(
            *map(_safe, names),
            f"{row['calls']:,}",
            f"{row['failed']:,}",
            f"{row['cancelled'] + row['abandoned']:,}",
            f"{row['refused']:,}",
            f"{row['retries']:,}",
            f"{row['fallbacks']:,}",
            duration(row["first_content_ms_p50"]),
            duration(row["first_content_ms_p95"]),
            "-" if speed is None else f"{speed:.1f}",
            tokens(row["input_tokens"], row["tokens_unknown"], row["tokens_estimated"]),
            tokens(row["output_tokens"], row["tokens_unknown"], row["tokens_estimated"]),
            money(row["known_nanos"]),
            money(row["estimated_nanos"]),
            f"{row['cost_unknown']:,}",
        )
    console.out().print(table)


def _show_tasks(rows: Sequence[Mapping[str, Any]]) -> None:
    from ops import console
    from ops.llm_figures import money, tokens

    numbers = ("calls", "failed", "running", "others", "in", "out", "known", "estimated", "unknown")
    table = _table(("tenant", "task", "state"), numbers)
    for row in rows:
        table.add_row(
            *(_safe(row[name]) for name in ("tenant", "task_id", "state")),
            f"{row['attempts']:,}",
            f"{row['failed_attempts']:,}",
            f"{row['running']:,}",
            f"{row['other_calls']:,}",
            tokens(row["input_tokens"], row["tokens_unknown"]),
            tokens(row["output_tokens"], row["tokens_unknown"]),
            money(row["known_nanos"]),
            money(row["estimated_nanos"]),
            f"{row['cost_unknown']:,}",
        )
    console.out().print(table)


def _show_completed(tasks: Mapping[str, Any]) -> None:
    from ops import console
    from ops.llm_figures import cost, per_completed

    counts = ", ".join(f"{tasks[name]:,} {name}" for name in ("completed", "failed", "cancelled", "open"))
    all_cost = cost(tasks["known_nanos"], tasks["estimated_nanos"], tasks["cost_unknown"])
    console.out().print(f"tasks: {counts}; all of them {all_cost}")
    each = per_completed(tasks)
    told = "none was completed" if each is None else cost(*each.values())
    console.out().print(f"a completed task: {told}")
    if tasks["running"]:
        console.note(f"{tasks['running']:,} calls are not settled; what they cost is in none of these sums")


def _table(texts: Sequence[str], numbers: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in texts:
        table.add_column(title)
    for title in numbers:
        table.add_column(title, justify="right")
    return table


def _safe(text: str) -> str:
    """Return a stranger's text as it may stand on a terminal."""
    from ops.redaction import escaped

    return escaped(text.encode(), 128)
