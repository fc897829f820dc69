"""A worker's own numbers, in Prometheus' terms: counters of what it did. What is read: ``gauges.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pipelines.fates import FATES, fate_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client.registry import Collector

    from connectors.kafka.chunk import SourcePartition
    from state.checkpoint import Share, UnitResult

# A unit of work is committed in a few milliseconds when all is well; ten seconds is the transaction's end.
_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RECORDS: Final = (1, 10, 100, 1_000, 5_000, 20_000, 100_000)
_NAMES_MAX: Final = 50
"""Causes of dead letters, and agents' own outcomes, by name: one that makes each of an event's text must not
fill Prometheus."""
_OTHER: Final = "other"


class WorkerMetrics:
    """Counters of one role's process; ``render`` is what ``/metrics`` answers."""

    def __init__(self, role: str) -> None:
        self.registry = CollectorRegistry()
        self._role = role
        self._causes: set[str] = set()
        self._outcomes: set[str] = set()
        self.agents: Mapping[str, str] = {}
        """Which agent reads a topic; set before the first unit of work."""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["role", *labels], registry=self.registry)

        self._inputs = counter(
            "sluicegate_inputs",
            "What became of source records, by outcome and by the fate that it stands for.",
            "agent", "partition", "outcome", "fate",
        )  # fmt: skip
        self._sources = counter(
            "sluicegate_source_records", "Source records committed.", "agent", "topic", "partition"
        )
        self._letters = counter("sluicegate_dead_letters", "Dead letters by cause.", "agent", "cause")
        self._units = counter("sluicegate_units", "Units of work committed.").labels(role)
        self._records = counter("sluicegate_unit_records", "Source records committed.").labels(role)
        self._appended = counter("sluicegate_unit_appends", "Records appended.").labels(role)
        self._append_bytes = counter("sluicegate_unit_append_bytes", "Bytes appended.").labels(role)
        self._changelog = counter("sluicegate_changelog_appends", "Changelog records.").labels(role)
        self._changelog_bytes = counter("sluicegate_changelog_bytes", "Bytes of the changelog.").labels(role)
        self._size = Histogram(
            "sluicegate_unit_size_records",
            "Source records of one unit of work.",
            ["role"],
            buckets=_RECORDS,
            registry=self.registry,
        ).labels(role)
        self._seconds = Histogram(
            "sluicegate_unit_seconds",
            "Time of a unit of work by step.",
            ["role", "step"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._partitions = Gauge(
            "sluicegate_partitions", "Partitions being read.", ["role"], registry=self.registry
        ).labels(role)
        self._standstills = Gauge(
            "sluicegate_partition_standstill",
            "1 while a partition stands still at an event that its agent cannot handle; absent = none does.",
            ["role", "topic", "partition"],
            registry=self.registry,
        )
        self._ticks = counter("sluicegate_ticks", "Ticks appended to idle partitions.").labels(role)
        self._idle_failures = counter(
            "sluicegate_idle_failures",
            "Steps at silent partitions that failed; each is tried again.",
            "agent", "topic",
        )  # fmt: skip
        self._lag_records = Gauge(
            "sluicegate_lag_records",
            "Records between what is committed and the last stable offset.",
            ["role", "topic", "partition"],
            registry=self.registry,
        )
        self._lag_seconds = Gauge(
            "sluicegate_lag_seconds",
            "Age of the last record handled (until there is one: since when it is ours) while more wait.",
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
        self._size.observe(result.records)
        self._appended.inc(result.appended)
        self._append_bytes.inc(result.append_bytes)
        self._changelog.inc(result.changelog)
        self._changelog_bytes.inc(result.changelog_bytes)
        for source, records in result.inputs.items():
            agent = self.agents.get(source.topic, "")
            self._sources.labels(self._role, agent, source.topic, source.partition).inc(records)
        for share in result.shares:
            self._count(share)
        for step, seconds in (
            ("handle", result.handle_s),
            ("append", result.append_s),
            ("commit", result.commit_s),
            ("store", result.store_s),
        ):
            self._seconds.labels(self._role, step).observe(seconds)

    def ticked(self, ticks: int) -> None:
        """Count ticks."""
        self._ticks.inc(ticks)

    def idle_failed(self, agent: str, topic: str, times: int = 1) -> None:
        """Count failed steps at silent partitions; 0 = none yet: Prometheus sees it rise from there."""
        self._idle_failures.labels(self._role, agent, topic).inc(times)

    def watch(self, collector: Collector) -> None:
        """Have what ``collector`` reads when asked be shown, too."""
        self.registry.register(collector)

    def render(self, partitions: int, standstills: Iterable[SourcePartition] = ()) -> bytes:
        """Return the exposition text."""
        self._partitions.set(partitions)
        self._standstills.clear()
        for topic, partition in standstills:
            self._standstills.labels(self._role, topic, partition).set(1)
        return generate_latest(self.registry)

    def _count(self, share: Share) -> None:
        for outcome, n in share.counts.items():
            if n > 0:
                fate = fate_of(outcome)
                named = outcome if outcome in FATES else _named(outcome, self._outcomes)
                self._inputs.labels(self._role, share.agent, share.partition, named, fate).inc(n)
        for cause, n in share.letters.items():
            self._letters.labels(self._role, share.agent, _named(cause, self._causes)).inc(n)


def _named(word: str, known: set[str]) -> str:
    """Return a word of an agent's as a label: the first so many by name, all others together."""
    if word not in known and len(known) < _NAMES_MAX:
        known.add(word)
    return word if word in known else _OTHER
