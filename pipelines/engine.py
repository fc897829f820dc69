"""The parts under one role's agents, put together: producer, unit of work, stores, positions, ticker."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from connectors.kafka.at_least_once import AtLeastOnce
from connectors.kafka.decoding import DecodeGuard
from connectors.kafka.hot_keys import HotKeys
from connectors.kafka.inflight import InFlight
from connectors.kafka.owners import Owners
from connectors.kafka.positions import PositionReader
from connectors.kafka.ticker import Ticker
from connectors.kafka.transaction import KafkaTransaction
from pipelines.late import LateEventMaker
from pipelines.partitions import OpenStore, Partitions, open_rocks
from state.budget import StateOptions
from state.checkpoint import UnitOfWork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.consumer import ConsumerOptions, PollThread
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.ports import CoordinatorOptions
    from pipelines.metrics import WorkerMetrics
    from pipelines.partitions import Source
    from pipelines.tools import Tools
    from schemas.topics import TopicSpec


Guarantee = Literal["exactly-once", "at-least-once"]
"""What an event has on its agent's outputs and state: one effect, or at least one (docs/guarantees.md)."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What one role's process needs to know."""

    kafka: KafkaOptions
    group: str
    transactional_id: str
    transaction_timeout_ms: int
    state_dir: Path
    consumer: ConsumerOptions
    coordinator: CoordinatorOptions
    guarantee: Guarantee = "exactly-once"
    state: StateOptions = field(default_factory=StateOptions)
    open_store: OpenStore = open_rocks


class Engine:
    """Opened before the first agent runs, closed after the last unit of work."""

    def __init__(self, options: EngineOptions, tools: Tools, metrics: WorkerMetrics) -> None:
        self.options = options
        self.metrics = metrics
        self.poller: PollThread | None = None
        self.leaving = threading.Event()
        """Set when the worker must end soon, whether Kafka answers or not."""
        self._tools = tools
        self._reader = PositionReader(options.kafka, options.group)
        self.transaction = self._transaction()
        self.unit = UnitOfWork(self.transaction, self.topic_id)
        self.hot_keys = HotKeys()
        self.owners = Owners(options.kafka, options.group)
        self.ticker = Ticker(options.kafka, tools.codec.encode_event)
        self.partitions: Partitions
        self.in_flight: InFlight
        self.guard: DecodeGuard
        self.tombstones_ms: Mapping[str, int] = {}
        """How long each changelog keeps tombstones, by full name; set by the composition root."""
        self.still_deployed: Callable[[], None] = lambda: None
        """Raises if this code is not what is deployed any more; set by the composition root."""

    def open(self, sources: Mapping[str, Source]) -> None:
        """Open the stores and fence a predecessor's producer; blocks.

        Raises:
            StoreLocked: another process has the slot's folder.
            KafkaUnavailable: the broker does not answer, or refuses the transactional id.
        """
        self.partitions = Partitions(
            kafka=self.options.kafka,
            sources=sources,
            reader=self._reader,
            unit=self.unit,
            ticker=self.ticker,
            letters=self._tools.dead_letters(),
            late=lambda topic: LateEventMaker(self._tools.codec, topic),
            state_dir=self.options.state_dir,
            begin_at=self.transaction.begin_at if isinstance(self.transaction, AtLeastOnce) else None,
            still_deployed=self.still_deployed,
            tombstones_ms=self.tombstones_ms,
            state=self.options.state,
            open_store=self.options.open_store,
        )
        decoding = InFlight(self.options.state_dir, "DECODING")
        # A crash while decoding is not the agents' doing, whatever they had in hand.
        self.in_flight = InFlight(self.options.state_dir, believed=not decoding.found)
        self.guard = DecodeGuard(decoding)
        self.transaction.open()

    def behind(
        self, progress: Mapping[SourcePartition, tuple[int, int]]
    ) -> dict[tuple[str, int], tuple[int, float]]:
        """Return how many records, and seconds, each partition is behind its last stable offset; blocks.

        ``progress`` has where it stands, and since when, microseconds: the append time of the last record
        that was handled, or when the partition was given to us, if none was yet.

        Raises:
            KafkaUnavailable: no answer.
        """
        found = {}
        for source, (committed, handled_us) in progress.items():
            records = max(self._reader.stable_end(*source) - committed, 0)
            seconds = time.time() - handled_us / 1_000_000 if records else 0.0
            found[source.topic, source.partition] = (records, max(seconds, 0.0))
        return found

    def close(self) -> None:
        """Close what ``open`` opened; after the coordinator has stopped."""
        self.leaving.set()
        self.transaction.close()
        self.ticker.close()
        if hasattr(self, "partitions"):
            self.partitions.close_stores()
        self._reader.close()

    def _transaction(self) -> KafkaTransaction | AtLeastOnce:
        options = self.options
        if options.guarantee == "at-least-once":
            return AtLeastOnce(
                options.kafka,
                commit_offsets=self._commit_offsets,
                timeout_ms=options.transaction_timeout_ms,
                leaving=self.leaving,
            )
        return KafkaTransaction(
            options.kafka,
            transactional_id=options.transactional_id,
            group_metadata=self._group_metadata,
            committed_unit=self._committed_unit,
            timeout_ms=options.transaction_timeout_ms,
            leaving=self.leaving,
        )

    def _commit_offsets(self, offsets: Any) -> Future[None]:
        assert self.poller is not None
        return self.poller.commit(offsets)

    def _group_metadata(self) -> Any:
        assert self.poller is not None
        return self.poller.group_metadata

    def _committed_unit(self, source: Any) -> int | None:
        committed = self._reader.committed(source.topic, source.partition, self.leaving)
        return None if committed is None else committed.unit

    def topic_id(self, spec: TopicSpec) -> str:
        """Return a topic's identity; raises as ``PositionReader.topic_id``."""
        return self._reader.topic_id(spec.named(self.options.kafka.topic_prefix))
