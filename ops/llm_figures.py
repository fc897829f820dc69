"""Figures of language-model calls as people read them: money, times, tokens; and one attempt by its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from schemas.latency import quantile_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.ledger import Attempt

_NANOS: Final = 1_000_000_000
QUANTILES: Final = {"first_content_ms_p50": 0.5, "first_content_ms_p95": 0.95}


def money(nanos: float) -> str:
    """Return 1e-9 USD as dollars, with as many places as say something: a token may cost 1e-7."""
    places = 2 if nanos >= 100 * _NANOS else 4 if nanos >= _NANOS else 9
    whole, _, rest = f"{nanos / _NANOS:,.{places}f}".partition(".")
    return f"${whole}.{rest.rstrip('0'):0<2}"


def cost(known: float, estimated: float, unknown: float) -> str:
    """Return a cost with its three parts apart; what is not known is never shown as nothing."""
    parts = [money(known)]
    if estimated:
        parts.append(f"about {money(estimated)}")
    if unknown:
        parts.append(f"{unknown:g} of unknown cost")
    return " + ".join(parts)


def tokens(count: int, unknown: int, estimated: int = 0) -> str:
    """Return a sum of tokens: ≥ where calls have others that nobody knows, ~ where some are estimated."""
    mark = "≥" if unknown else "~" if estimated else ""
    return f"{mark}{count:,}"


def duration(ms: float | None) -> str:
    """Return a time as a person reads it, - if there is none."""
    if ms is None:
        return "-"
    return (
        f"{ms:.0f} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s" if ms < 60_000 else f"{ms / 60_000:.1f} min"
    )


def figures_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's sums with what follows from them: quantiles, and tokens a second of one call."""
    counts, longest = row["first_content_ms"], row["first_content_ms_max"]
    derived: dict[str, Any] = {name: quantile_ms(counts, share, longest) for name, share in QUANTILES.items()}
    streamed = row["stream_ms_sum"]
    derived["tokens_per_s"] = row["stream_tokens"] * 1_000 / streamed if streamed else None
    return {**row, **derived}


def per_completed(tasks: Mapping[str, Any]) -> dict[str, float] | None:
    """Return what all tasks cost over those that were completed, 1e-9 USD and calls; None if none was."""
    if not tasks["completed"]:
        return None
    parts = ("known_nanos", "estimated_nanos", "cost_unknown")
    return {name: tasks[name] / tasks["completed"] for name in parts}


def times_of(attempt: Attempt, asked_us: int) -> dict[str, float | None]:
    """Return how long an attempt took, in ms: waiting for its turn, then from the call to each step.

    ``asked_us`` is when it could have begun: when it was asked for, or the end of the attempt before. 0 = not
    known.
    """

    def since_start(us: int) -> float | None:
        return max(us - attempt.started_us, 0) / 1_000 if us else None

    return {
        "queue_ms": max(attempt.started_us - asked_us, 0) / 1_000 if asked_us else None,
        "connect_ms": since_start(attempt.connected_us),
        "first_content_ms": since_start(attempt.first_content_us),
        "total_ms": since_start(attempt.ended_us),
    }
