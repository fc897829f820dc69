"""What Prometheus reads of a role when it asks: state, memory, restores, hot keys and sinks as they are."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from connectors.postgres.claim import Counts
    from pipelines.engine import Engine

_KEY_CHARACTERS_MAX: Final = 64


class EngineGauges(Collector):
    """Reads an open engine; nothing is kept, so what is another worker's now is not shown any more."""

    def __init__(self, role: str, engine: Engine) -> None:
        self._role = role
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """Return all families; called for each answer of ``/metrics``."""
        yield from self._state()
        yield from self._restores()
        hot = GaugeMetricFamily(
            "sluicegate_hot_key_share",
            "Keys with at least 5 % of a partition's records in the last minutes, and their share; sampled.",
            labels=["role", "topic", "partition", "key"],
        )
        poller = self._engine.poller
        for source, keys in self._engine.hot_keys.top().items():
            if poller is None or source not in poller.assignment:
                continue  # another worker's now
            topic, partition = source
            shares: dict[str, float] = {}
            for key, share in keys:  # a series given twice makes a scrape void
                shares[_text(key)] = shares.get(_text(key), 0.0) + share
            for text, share in shares.items():
                hot.add_metric([self._role, topic, str(partition), text], share)
        yield hot

    def _state(self) -> Iterator[Metric]:
        partitions = self._engine.partitions
        stores = partitions.figures()
        for name, text, field in (
            ("sluicegate_state_bytes", "State on disk.", "disk_bytes"),
            ("sluicegate_state_memtable_bytes", "State that is in memory alone.", "memtable_bytes"),
            ("sluicegate_state_keys", "Keys, as RocksDB estimates them.", "keys_estimate"),
            ("sluicegate_state_set_aside_bytes", "State that could not be read, set aside.", "aside_bytes"),
        ):
            family = GaugeMetricFamily(name, text, labels=["role", "agent"])
            for agent, figures in stores.items():
                family.add_metric([self._role, agent], getattr(figures, field))
            yield family
        memory = partitions.memory
        for name, text, value in (
            ("sluicegate_block_cache_bytes", "In use, write buffers included.", memory.block_cache_bytes()),
            ("sluicegate_block_cache_max_bytes", "The budget.", memory.options.block_cache_mb << 20),
            ("sluicegate_write_buffer_bytes", "In use.", memory.write_buffer_bytes()),
            ("sluicegate_write_buffer_max_bytes", "The budget.", memory.options.write_buffer_mb << 20),
        ):
            yield self._of(GaugeMetricFamily(name, text, labels=["role"]), (), value)

    def _restores(self) -> Iterator[Metric]:
        labels = ["role", "topic", "partition"]
        remaining = GaugeMetricFamily(
            "sluicegate_restore_remaining_records", "Offsets that a restore has before it.", labels=labels
        )
        records = CounterMetricFamily("sluicegate_restore_records", "Changelog records read.", labels=labels)
        size = CounterMetricFamily("sluicegate_restore_bytes", "Their bytes.", labels=labels)
        seconds = CounterMetricFamily("sluicegate_restore_seconds", "Time of restores.", labels=labels)
        for (topic, partition), progress in self._engine.partitions.restorer.progress.items():
            at = (topic, str(partition))
            self._of(remaining, at, progress.remaining)
            self._of(records, at, progress.records)
            self._of(size, at, progress.size_bytes)
            self._of(seconds, at, progress.seconds)
        yield from (remaining, records, size, seconds)

    def _of(self, family: Any, labels: tuple[str, ...], value: float) -> Any:
        family.add_metric([self._role, *labels], value)
        return family


class SinkGauges(Collector):
    """Reads what a sink to PostgreSQL has done since the process began."""

    def __init__(self, role: str, counts: Counts) -> None:
        self._role = role
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        """Return all families; called for each answer of ``/metrics``."""
        counts = self._counts
        batches = SummaryMetricFamily(
            "sluicegate_sink_batch_seconds",
            "Batches committed in PostgreSQL, and their time from BEGIN to COMMIT.",
            labels=["role"],
        )
        batches.add_metric([self._role], counts.batches, counts.seconds)
        yield batches
        for name, text, value in (
            ("sluicegate_sink_rows", "Rows of these batches.", counts.rows_given),
            (
                "sluicegate_sink_rows_stored",
                "Rows that were newer than what stood there.",
                counts.rows_stored,
            ),
            ("sluicegate_sink_rows_refused", "Rows that PostgreSQL does not take.", counts.rows_refused),
            (
                "sluicegate_sink_characters_replaced",
                "Characters that PostgreSQL's text cannot hold.",
                counts.characters_replaced,
            ),
            ("sluicegate_sink_connections", "Connections made.", counts.connections),
        ):
            family = CounterMetricFamily(name, text, labels=["role"])
            family.add_metric([self._role], value)
            yield family
        errors = CounterMetricFamily(
            "sluicegate_sink_errors", "What PostgreSQL could not do, by error.", labels=["role", "error"]
        )
        for error, count in counts.errors.items():
            errors.add_metric([self._role, error], count)
        yield errors


def _text(key: bytes) -> str:
    """Return a key for people: what is no text is shown as such; a long one is cut, with a digest."""
    text = key.decode("utf-8", "backslashreplace")
    if len(text) <= _KEY_CHARACTERS_MAX:
        return text
    digest = blake2b(key, digest_size=4).hexdigest()
    return f"{text[: _KEY_CHARACTERS_MAX - 1 - len(digest)]}…{digest}"
