"""What an attempt came to: on its row, and as an event of its stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectors.llm.clock import now_us
from connectors.llm.kept import named_plainly
from connectors.llm.ledger import RAW_MAX

if TYPE_CHECKING:
    from connectors.llm.attempt import Outcome
    from connectors.llm.ledger import Attempt


def settle(row: Attempt, outcome: Outcome) -> None:
    """Note in an attempt's row how its call went."""
    row.ended_us = now_us()
    row.http_status = outcome.http_status
    row.finish, row.finish_raw = outcome.finish, named_plainly(outcome.finish_raw)
    row.chunks = outcome.chunks
    row.retry_after_ms = outcome.retry_after_ms
    row.error_class, row.error_raw = outcome.error_class or "", outcome.error_raw[:RAW_MAX]
    row.state = (
        "completed"
        if outcome.error_class is None
        else "cancelled"
        if outcome.error_class == "cancelled"
        else "failed"
    )
    if outcome.usage is not None:
        row.count(outcome.usage)
        row.usage_source = "provider"


def usage_of(row: Attempt) -> dict[str, Any]:
    """Give the payload of the `usage` event of a settled attempt.

    A count is never null in it: where nobody counted, its 0 is none, as its provenance says.
    """
    return {
        "provider": row.provider,
        "model": row.model_answered or row.model,
        "calls": 1,
        "errors": int(row.state == "failed"),
        "input_tokens": row.input_tokens or 0,
        "output_tokens": row.output_tokens or 0,
        "cost_nanos": row.cost_nanos,
        "latency_ms": max(row.ended_us - row.started_us, 0) // 1_000,
        "provenance": row.usage_source,
        "cached_input_tokens": row.cached_input_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "reasoning_tokens": row.reasoning_tokens,
    }
