"""Attempts as a worker writes them on the ledger, by the hand of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

SECOND_US = 1_000_000


def attempt(number: int = 1, state: str = "completed", *, at_us: int, **fields: Any) -> dict[str, Any]:
    """An attempt that ended at ``at_us``, a second after it began, with its first content in the middle."""
    settled = state != "started"
    row: dict[str, Any] = {
        "tenant": "default", "stream_id": "answer", "attempt": number, "state": state, "provider": "acme",
        "model": "small", "started_us": at_us - SECOND_US, "kind": "llm", "task_id": "", "why": "first",
        "prompt": "", "prompt_version": 0, "usage_source": "unknown", "cost_source": "unknown",
        "cost_nanos": None, "input_tokens": None, "output_tokens": None, "cached_input_tokens": None,
        "cache_write_tokens": None, "reasoning_tokens": None, "error_class": "", "upstream": "model",
        "request_partition": 2, "request_offset": 7,
    }  # fmt: skip
    row |= {
        "ended_us": at_us if settled else 0,
        "first_content_us": at_us - SECOND_US // 2 if state == "completed" else 0,
        "last_content_us": at_us if state == "completed" else 0,
    }
    if state == "completed":
        row |= {
            "usage_source": "provider", "cost_source": "known", "cost_nanos": 1_000, "input_tokens": 10,
            "output_tokens": 20,
        }  # fmt: skip
    elif settled:
        row["error_class"] = "cancelled" if state == "cancelled" else "server"
    return row | fields


def random_attempt(rng: Random, number: int, base_us: int, *, span_s: int = 400) -> dict[str, Any]:
    """A settled attempt of a stream of its own, at random within ``span_s`` seconds after ``base_us``."""
    ended_us = base_us + rng.randint(0, span_s) * SECOND_US + rng.randint(0, 999_999)
    started_us = ended_us - rng.randint(0, 20_000) * 1_000
    has_content = rng.random() < 0.7
    first_us = rng.randint(started_us, ended_us) if has_content else 0
    state = rng.choice(["completed", "completed", "failed", "cancelled", "abandoned", "refused"])
    source = rng.choice(["known", "estimated", "unknown"])
    return attempt(
        rng.randint(1, 3), state, at_us=ended_us, stream_id=f"s{number}", tenant=rng.choice(["t", "u"]),
        provider=rng.choice(["acme", "zeta"]), model=rng.choice(["s", "l/x"]), started_us=started_us,
        prompt=rng.choice(["", "greet"]), prompt_version=rng.choice([0, 3]), first_content_us=first_us,
        last_content_us=rng.randint(first_us, ended_us) if has_content else 0,
        why=rng.choice(["first", "retry", "fallback", "crash"]), input_tokens=rng.choice([None, 5, 9]),
        output_tokens=rng.choice([None, 7]), cached_input_tokens=rng.choice([None, 2]),
        usage_source=rng.choice(["provider", "estimated"]), cost_source=source,
        cost_nanos=None if source == "unknown" else rng.randint(0, 9_000),
        error_class="" if state == "completed" else rng.choice(["server", "timeout_total"]),
    )  # fmt: skip
