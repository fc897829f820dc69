"""What a worker shows Prometheus before it has an engine: enough for the names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from connectors.kafka.hot_keys import HotKeys
from connectors.kafka.options import KafkaOptions
from connectors.kafka.restore import Restorer
from connectors.postgres.claim import Counts
from pipelines.gauges import EngineGauges, SinkGauges
from pipelines.metrics import WorkerMetrics
from state.rocksdb import RocksMemory

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def worker_registry() -> CollectorRegistry:
    """All that a worker measures."""
    partitions = SimpleNamespace(figures=dict, memory=RocksMemory(), restorer=Restorer(KafkaOptions("")))
    engine: Any = SimpleNamespace(hot_keys=HotKeys(), poller=None, partitions=partitions)
    metrics = WorkerMetrics("ingest")
    metrics.watch(EngineGauges("ingest", engine))
    metrics.watch(SinkGauges("archive", Counts()))
    return metrics.registry
