"""A worker's own numbers, in Prometheus' terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from state.checkpoint import UnitResult
    from state.rocksdb import StoreFigures

# A unit of work is committed in a few milliseconds when all is well; ten seconds is the transaction's end.
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class WorkerMetrics:
    """Counters of one role's process; ``render`` is what ``/metrics`` answers."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        self._role = role

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, ["role"], registry=self.registry).labels(role)

        self._inputs = Counter(
            "sluicegate_inputs",
            "What became of source records, by outcome; docs/on-call.md says which sum to the input.",
            ["role", "outcome"],
            registry=self.registry,
        )
        self._units = counter("sluicegate_units", "Units of work committed.")
        self._records = counter("sluicegate_unit_records", "Source records committed.")
        self._appended = counter("sluicegate_unit_appends", "Records appended.")
        self._changelog = counter("sluicegate_changelog_appends", "Changelog records.")
        self._seconds = Histogram(
            "sluicegate_unit_seconds",
            "Time of a unit's commit by step.",
            ["role", "step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._partitions = Gauge("sluicegate_partitions", "Partitions being read.", registry=self.registry)
        self._ticks = counter("sluicegate_ticks", "Ticks appended to idle partitions.")
        self._state = Gauge(
            "sluicegate_state_bytes", "State on disk.", ["role", "agent"], registry=self.registry
        )

        self._lag_records = Gauge(
            "sluicegate_lag_records",
            "Records between what is committed and the last stable offset.",
            ["role", "topic", "partition"],
            registry=self.registry,
        )
        self._lag_seconds = Gauge(
            "sluicegate_lag_seconds",
            "Age of the last record handled while more wait; 0 = none waits.",
            ["role", "topic", "partition"],
            registry=self.registry,
        )

    def lag(self, behind: Mapping[tuple[str, int], tuple[int, float]]) -> None:
        """Say how far each partition is behind, in records and seconds; those not named are another's now."""
        self._lag_records.clear()
        self._lag_seconds.clear()
        for (topic, partition), (records, seconds) in behind.items():
            self._lag_records.labels(self._role, topic, partition).set(records)
            self._lag_seconds.labels(self._role, topic, partition).set(seconds)

    def committed(self, result: UnitResult) -> None:
        """Count a committed unit of work."""
        self._units.inc()
        self._records.inc(result.records)
        self._appended.inc(result.appended)
        self._changelog.inc(result.changelog)
        for outcome, n in result.counts.items():
            if n > 0:
                self._inputs.labels(self._role, outcome).inc(n)
        for step, seconds in (
            ("append", result.append_s),
            ("commit", result.commit_s),
            ("store", result.store_s),
        ):
            self._seconds.labels(self._role, step).observe(seconds)

    def ticked(self, ticks: int) -> None:
        """Count ticks."""
        self._ticks.inc(ticks)

    def render(self, partitions: int, stores: Mapping[str, StoreFigures]) -> bytes:
        """Return the exposition text."""
        self._partitions.set(partitions)
        for agent, figures in stores.items():
            self._state.labels(self._role, agent).set(figures.disk_bytes)
        return generate_latest(self.registry)
