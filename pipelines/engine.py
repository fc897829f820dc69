"""The parts under one role's agents, put together: producer, unit of work, stores, positions, ticker."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from connectors.kafka.at_least_once import AtLeastOnce
from connectors.kafka.decoding import DecodeGuard
from connectors.kafka.hot_keys import HotKeys
from connectors.kafka.idle import IdleTime
from connectors.kafka.inflight import InFlight
from connectors.kafka.owners import Owners
from connectors.kafka.positions import PositionReader
from connectors.kafka.tails import Tails
from connectors.kafka.ticker import Ticker
from connectors.kafka.transaction import KafkaTransaction
from pipelines.generations import FIRST
from pipelines.late import LateEventMaker
from pipelines.partitions import OpenStore, Partitions, open_rocks
from state.budget import StateOptions
from state.checkpoint import UNIT_BYTES_MAX, UNIT_RECORDS_MAX, UnitOfWork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.consumer import PollThread
    from connectors.kafka.membership import ConsumerOptions
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.ports import CoordinatorOptions
    from pipelines.changelogs import Retention
    from pipelines.metrics import WorkerMetrics
    from pipelines.partitions import Source
    from pipelines.tools import Tools
    from schemas.topics import TopicSpec


Guarantee = Literal["exactly-once", "at-least-once"]
"""What an event has on its agent's outputs and state: one effect, or at least one (docs/guarantees.md)."""

_TAILS_MAX: Final = 32  # each is a fetch of some 20 ms, and a look is every 5 s (role.py)


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
    unit_records_max: int = UNIT_RECORDS_MAX
    unit_bytes_max: int = UNIT_BYTES_MAX
    guarantee: Guarantee = "exactly-once"
    state: StateOptions = field(default_factory=StateOptions)
    open_store: OpenStore = open_rocks
    code_version: str = ""
    """Of the agents, for their dead letters; empty = ours."""
    generation: int = FIRST
    """Of the role, for the same."""


class Engine:
    """Opened before the first agent runs, closed after the last unit of work."""

    def __init__(self, options: EngineOptions, tools: Tools, metrics: WorkerMetrics) -> None:
        self.options = options
        self.metrics = metrics
        self.poller: PollThread | None = None
        self.leaving = threading.Event()
        """Set when the worker must end soon, whether Kafka answers or not."""
        self._tools = tools
        self.reader = PositionReader(options.kafka, options.group)
        self.transaction = self._transaction()
        self.unit = UnitOfWork(
            self.transaction, self.topic_id, options.unit_records_max, options.unit_bytes_max
        )
        self.hot_keys = HotKeys()
        self.owners = Owners(options.kafka, options.group)
        self.ticker = Ticker(options.kafka, tools.codec.encode_event)
        self.tails = Tails(options.kafka)
        self.idle = IdleTime(self.reader, self.tails)
        self._asked_s: dict[SourcePartition, float] = {}
        self.partitions: Partitions
        self.in_flight: InFlight
        self.guard: DecodeGuard
        self.guard_of_handbacks: DecodeGuard
        self.retention: Mapping[str, Retention] = {}
        """How long each changelog keeps what, by full name; set by the composition root."""
        self.still_deployed: Callable[[], None] = lambda: None
        """Raises if this code is not what is deployed any more; set by the composition root."""
        self.last_order: Callable[[], int] = lambda: -1
        """See ``Partitions``; set by the composition root."""

    def open(self, sources: Mapping[str, Source]) -> None:
        """Open the stores and fence a predecessor's producer; blocks.

        Raises:
            StoreLocked: another process has the slot's folder.
            StoreUnwritable, StoreUnreadable: the disk of the state is full, say, or broken.
            KafkaUnavailable: the broker does not answer, or refuses the transactional id.
        """
        self.partitions = Partitions(
            kafka=self.options.kafka,
            sources=sources,
            reader=self.reader,
            unit=self.unit,
            ticker=self.ticker,
            letters=self._tools.dead_letters(self.options.code_version, self.options.generation),
            late=lambda topic: LateEventMaker(self._tools.codec, topic),
            state_dir=self.options.state_dir,
            begin_at=self.transaction.begin_at if isinstance(self.transaction, AtLeastOnce) else None,
            still_deployed=self.still_deployed,
            retention=self.retention,
            state=self.options.state,
            open_store=self.options.open_store,
            on_closed=self._closed,
            last_order=self.last_order,
        )
        self.idle.steps = {topic: each.on_idle for topic, each in sources.items() if each.on_idle is not None}
        self.idle.note = self._note
        self.idle.on_failed = lambda at: self.metrics.idle_failed(sources[at.topic].agent, at.topic)
        for topic in self.idle.steps:
            self.metrics.idle_failed(sources[topic].agent, topic, times=0)
        decoding = InFlight(self.options.state_dir, "DECODING")
        handed_back = InFlight(self.options.state_dir, "DECODING_HANDED_BACK")
        # A crash while decoding is not the agents' doing, whatever they had in hand.
        self.in_flight = InFlight(self.options.state_dir, believed=not (decoding.found or handed_back.found))
        self.guard, self.guard_of_handbacks = DecodeGuard(decoding), DecodeGuard(handed_back)
        self.transaction.open()

    def behind(
        self, progress: Mapping[SourcePartition, tuple[int, int]]
    ) -> dict[tuple[str, int], tuple[int, float]]:
        """Return how many records, and seconds, each partition is behind its last stable offset; blocks.

        ``progress`` has where it stands, and since when, microseconds: the append time of the last record
        that was handled, or when the partition was given to us, if none was yet.

        Where nothing but markers of transactions follows, it is not behind. A look asks that of at most 32,
        those first that were asked longest ago; the others are taken to be behind until their turn.

        Raises:
            KafkaUnavailable: no answer.
            NotAuthorized: an ACL is missing.
        """
        ends = {source: self.reader.stable_end(*source) for source in progress}
        left = {source: max(ends[source] - at, 0) for source, (at, _) in progress.items()}
        unknown = []
        for source, (at, _) in progress.items():
            if self.tails.knows_empty(source, at, ends[source]):
                left[source] = 0
            else:
                unknown.append(source)
        unknown.sort(key=lambda source: self._asked_s.get(source, 0.0))
        for source in unknown[:_TAILS_MAX]:
            self._asked_s[source] = time.monotonic()
            if self.tails.is_empty(source, progress[source][0], ends[source]):
                left[source] = 0
        now = time.time()
        return {
            (source.topic, source.partition): (
                left[source],
                max(now - handled_us / 1_000_000, 0.0) if left[source] else 0.0,
            )
            for source, (_, handled_us) in progress.items()
        }

    def close(self, *, abandoned: bool = False) -> None:
        """Close what ``open`` opened; after the coordinator has stopped.

        ``abandoned``: its last unit did not end. The unit's thread may be at work in a store, which native
        code must not close under it: stores are left as a kill leaves them, the process ends.
        """
        self.leaving.set()
        self.transaction.close()
        self.ticker.close()
        self.idle.close()
        if hasattr(self, "partitions") and not abandoned:
            self.partitions.close_stores()
        self.tails.close()
        self.reader.close()

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

    def _closed(self, source: Any) -> None:
        """Know no more of a partition that is another's now."""
        self.idle.forget(source)
        self.tails.forget(source)
        self._asked_s.pop(source, None)

    def _note(self, source: Any, position: int, note: str) -> None:
        self.unit.advance(source, position, 0, note)

    def _commit_offsets(self, offsets: Any) -> Future[None]:
        assert self.poller is not None
        return self.poller.commit(offsets)

    def _group_metadata(self) -> Any:
        assert self.poller is not None
        return self.poller.group_metadata

    def _committed_unit(self, source: Any) -> int | None:
        committed = self.reader.committed(source.topic, source.partition, self.leaving)
        return None if committed is None else committed.unit

    def topic_id(self, spec: TopicSpec) -> str:
        """Return a topic's identity; raises as ``PositionReader.topic_id``."""
        return self.reader.topic_id(spec.named(self.options.kafka.topic_prefix))
