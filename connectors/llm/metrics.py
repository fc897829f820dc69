"""A worker's own numbers, in Prometheus' terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.llm.ledger import Attempt

_CONTENT_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOTAL_S: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_COMMIT_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_NAMES_MAX: Final = 200
"""Models by name that no operator wrote, but which have answered: clients must not fill Prometheus."""
_OTHER: Final = "other"


class LlmMetrics:
    """Counters of one process; ``render`` is what ``/metrics`` answers."""

    def __init__(self, under_way: Callable[[], int], skew_s: Callable[[], float] = lambda: 0.0) -> None:
        self.registry = registry = CollectorRegistry()
        self._models: set[str] = set()
        gauge = Gauge("sluicegate_llm_operations", "Operations that are not over.", registry=registry)
        gauge.set_function(under_way)
        skew = Gauge(
            "sluicegate_llm_clock_skew_seconds",
            "By how much this machine's clock is ahead of the brokers', at the least.",
            registry=registry,
        )
        skew.set_function(skew_s)
        self._attempts = Counter(
            "sluicegate_llm_attempts",
            "Calls that were settled, by state and error class.",
            ["provider", "model", "state", "error"],
            registry=registry,
        )
        self._first = Histogram(
            "sluicegate_llm_first_content_seconds",
            "From the call to its first content.",
            ["provider", "model"],
            buckets=_CONTENT_S,
            registry=registry,
        )
        self._seconds = Histogram(
            "sluicegate_llm_attempt_seconds",
            "From the call to its last byte.",
            ["provider", "model"],
            buckets=_TOTAL_S,
            registry=registry,
        )
        self._tokens = Counter(
            "sluicegate_llm_tokens",
            "Tokens, by direction and where the number comes from.",
            ["provider", "model", "direction", "source"],
            registry=registry,
        )
        self._cost = Counter(
            "sluicegate_llm_cost_usd",
            "Cost of calls whose cost is known or estimated.",
            ["provider", "model", "source"],
            registry=registry,
        )
        self._unpriced = Counter(
            "sluicegate_llm_cost_unknown", "Calls whose cost nobody knows.", ["provider", "model"],
            registry=registry,
        )  # fmt: skip
        self._ends = Counter(
            "sluicegate_llm_ends", "Operations by how they ended.", ["reason"], registry=registry
        )
        self.commit_seconds = Histogram(
            "sluicegate_llm_commit_seconds",
            "Time of a transaction of starts and ends.",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self.requests_again = Counter(
            "sluicegate_llm_requests_again",
            "Requests that were passed over, as they are under way or over.",
            registry=registry,
        )
        self.letters = Counter(
            "sluicegate_llm_dead_letters", "Requests that name no stream.", registry=registry
        )

    def settled(self, row: Attempt, *, configured: bool = False) -> None:
        """Count an attempt that is over. ``configured``: routes, prices or settings name its model."""
        names = row.provider, row.model if configured else self._named(row)
        self._attempts.labels(*names, row.state, row.error_class).inc()
        if row.first_content_us:
            self._first.labels(*names).observe(max(row.first_content_us - row.started_us, 0) / 1e6)
        if row.ended_us:
            self._seconds.labels(*names).observe(max(row.ended_us - row.started_us, 0) / 1e6)
        self._tokens.labels(*names, "in", row.usage_source).inc(row.input_tokens or 0)
        self._tokens.labels(*names, "out", row.usage_source).inc(row.output_tokens or 0)
        if row.cost_nanos is None:
            self._unpriced.labels(*names).inc()
        else:
            self._cost.labels(*names, row.cost_source).inc(row.cost_nanos / 1e9)

    def ended(self, reason: str) -> None:
        """Count an operation that is over."""
        self._ends.labels(reason).inc()

    def render(self) -> bytes:
        """Return all of it as text."""
        return generate_latest(self.registry)

    def _named(self, row: Attempt) -> str:
        if not row.model_named:
            return _OTHER
        if row.model not in self._models:
            if len(self._models) >= _NAMES_MAX:
                return _OTHER
            self._models.add(row.model)
        return row.model
