"""What stands behind an assigned partition: its committed position, its restored state, its scope."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from connectors.kafka.restore import Restorer
from pipelines.restoration import Restoration
from state.effects import PartitionScope
from state.errors import PositionLost, StateWithoutOffset
from state.memory import MemoryBackend
from state.rocksdb import RocksMemory, RocksStore
from state.schema import UNDECLARED

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from connectors.kafka.chunk import Chunker, SourcePartition
    from connectors.kafka.idle import IdleStep
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.ports import FailurePolicy
    from connectors.kafka.positions import Committed, PositionReader
    from connectors.kafka.restore import Progress
    from connectors.kafka.ticker import Ticker
    from pipelines.changelogs import Retention
    from pipelines.queries import Query
    from schemas.topics import TopicSpec
    from state.budget import StateOptions
    from state.checkpoint import UnitOfWork
    from state.effects import DeadLetters, LateEvents
    from state.schema import StoreSchema
    from state.store import Backend, StagedView, StateView, Store, StoreFigures

log = structlog.get_logger(__name__)

OpenStore = Callable[[Path, RocksMemory, int], "Store"]
"""Opens an agent's store; what a test puts in RocksDB's place."""


@dataclass(frozen=True, slots=True)
class Source:
    """An input topic of one agent, with all that happens around its partitions."""

    spec: TopicSpec
    chunker: Chunker
    agent: str
    changelog: TopicSpec | None = None
    """Topic of the agent's store; None = the agent keeps no state."""
    open_deadline: Callable[[StateView], int | None] | None = None
    """When the partition's time must move at the latest, microseconds; see ``Ticker``."""
    late_to: TopicSpec | None = None
    """Topic of the events that come too late; None = they are counted and dropped."""
    on_assigned: Callable[[str, str, int, int], int] | None = None
    """Given topic, topic id, partition and start offset; returns where to begin. Blocks off the loop."""
    on_revoked: Callable[[int], None] | None = None
    """Given the partition; on the loop."""
    on_failure: FailurePolicy = "dead-letter"
    attempts_max: int | None = None
    """How often an event is tried before that; None = as the worker's setting says."""
    query: Query | None = None
    """How the store is read from outside; None = it is not."""
    writes: tuple[TopicSpec, ...] = ()
    """Topics that the agent appends to, dead letters and late events apart."""
    sink: str = ""
    """What it writes to outside of Kafka; empty = nothing."""
    store: StoreSchema = UNDECLARED
    """What stands in the agent's store; see ``state/schema.py``."""
    on_idle: IdleStep | None = None
    """What is done while nothing comes on a partition; None = nothing, its time stands still."""
    marked: bool = True
    """The changelog is on record to have begun with a mark; see ``Restoration``."""


def open_rocks(folder: Path, memory: RocksMemory, stores: int) -> Store:
    """Open the store in ``folder``, one of ``stores`` that share the memory."""
    return RocksStore(folder, memory, stores=stores)


class Partitions:
    """Implements ``connectors.kafka.ports.Partitions`` for one role."""

    def __init__(
        self,
        *,
        kafka: KafkaOptions,
        sources: Mapping[str, Source],
        reader: PositionReader,
        unit: UnitOfWork,
        ticker: Ticker,
        letters: DeadLetters,
        state_dir: Path,
        begin_at: Callable[[SourcePartition, int, threading.Event], None] | None = None,
        state: StateOptions,
        late: Callable[[TopicSpec], LateEvents],
        open_store: OpenStore = open_rocks,
        still_deployed: Callable[[], None] = lambda: None,
        retention: Mapping[str, Retention] | None = None,
        on_closed: Callable[[SourcePartition], None] = lambda _where: None,
        last_order: Callable[[], int] = lambda: -1,
    ) -> None:
        self._kafka = kafka
        self._sources = sources
        self._reader = reader
        self._unit = unit
        self._ticker = ticker
        self._on_closed = on_closed
        self._last_order = last_order
        """Number below which all hand-backs are that there are orders for; asks Kafka."""
        self._handbacks: dict[SourcePartition, int] = {}
        self._letters = letters
        self._state_dir = state_dir
        self._still_deployed = still_deployed
        self._retention = retention or {}
        self._begin_at = begin_at
        """Commits where a partition begins, before anything of it is handled. A transaction needs none."""
        self._late = {
            source.agent: late(source.late_to) for source in sources.values() if source.late_to is not None
        }
        self.restorer = Restorer(kafka)
        self._stores: dict[str, Store] = {}
        self._backends: dict[SourcePartition, Backend] = {}
        self._views: dict[SourcePartition, StagedView] = {}
        self.opening: dict[SourcePartition, tuple[int, int]] = {}
        """Where partitions will begin that are not read yet, and since when they are ours, microseconds."""
        self.memory = RocksMemory(state)
        agents = [source.agent for source in sources.values() if source.changelog is not None]
        for agent in agents:
            self._stores[agent] = open_store(state_dir / agent, self.memory, len(agents))

    def open(self, where: SourcePartition, cancelled: threading.Event) -> int:
        """Restore the state and return the offset to begin at; the order of the questions matters.

        1. whether this code is still what is deployed: whoever changes that writes it down first and then
           sees that the group has no member, so a member that asks after it joined hears of it;
        2. the stable committed offset: after it, no open transaction of a predecessor can still commit;
        3. the changelog's high watermark; 4. the restore up to it; 5. the checks of positions that lie.

        Raises:
            DeployRefused: the state is being migrated, or is another code's now.
            StateWithoutOffset: state exists, the group's offset does not.
            StateLost: the group's offset exists, the state does not.
            PositionLost: the committed offset is not in the log any more.
            KafkaUnavailable: no answer.
        """
        self._still_deployed()
        source = self._sources[where.topic]
        committed = self._reader.committed(where.topic, where.partition, cancelled)
        if committed is not None:
            _, since_us = self.opening.get(where, (0, time.time_ns() // 1_000))
            self.opening[where] = (committed.offset, since_us)
        backend = self._backend(source, where.partition)
        self._restore(source, where, backend, committed, cancelled)
        self._backends[where] = backend
        self._handbacks[where] = self._last_handback(where, committed)
        low, high = self._reader.ends(where.topic, where.partition)
        if committed is None:
            log.info("first start of partition", topic=where.topic, partition=where.partition, offset=low)
        start = low if committed is None else committed.offset
        whose = "the group's committed offset"
        if source.on_assigned is not None and not cancelled.is_set():  # it would shut out who has it now
            topic_id = self._reader.topic_id(where.topic)
            begin = source.on_assigned(where.topic, topic_id, where.partition, start)
            if begin != start:
                start, whose = begin, f"the offset that {source.agent} keeps outside of Kafka,"
        if not low <= start <= high:
            place = f"{where.topic}[{where.partition}]"
            what = f"{place}: {whose} {start} is outside of the log ({low} to {high})"
            if start < low:
                gone = f"{low - start} records, offsets {start} to {low - 1}"
                what += f": {gone}, were deleted before they were handled"
            raise PositionLost(
                what,
                remedy="See runbooks/checkpoint-failure.md, "
                + ("Records that retention took." if start < low else "A position that is gone."),
            )
        if committed is None and self._begin_at is not None:
            # Else a crash in the first unit would leave state without an offset.
            self._begin_at(where, start, cancelled)
        return start

    def ready(self, where: SourcePartition) -> None:
        """Make the partition's scope part of the unit of work."""
        source = self._sources[where.topic]
        scope = PartitionScope(
            source.agent,
            where.partition,
            self._backends[where],
            source.changelog,
            self._letters,
            self._late.get(source.agent),
        )
        self._unit.add_scope(source.agent, scope)
        self._views[where] = scope.view
        if where in self._handbacks:  # else the scope is made anew, and the unit knows of newer ones
            self._unit.begin_handbacks(where, self._handbacks.pop(where))
        self.opening.pop(where, None)
        self.watch(where)

    def watch(self, where: SourcePartition) -> None:
        """Tell the ticker when something falls due; called when nothing is staged."""
        source = self._sources[where.topic]
        view = self._views.get(where)
        if source.open_deadline is not None and view is not None:
            self._ticker.watch(where, source.open_deadline(view))

    def close(self, where: SourcePartition) -> None:
        """Let go of the partition; its state stays on disk for a quick return."""
        source = self._sources[where.topic]
        self._unit.remove_scope(source.agent, where.partition)
        self._unit.forget_handbacks(where)
        self.opening.pop(where, None)
        self._backends.pop(where, None)
        self._views.pop(where, None)
        self._ticker.forget(where)
        self._on_closed(where)
        if source.on_revoked is not None:
            source.on_revoked(where.partition)

    def lose(self, where: SourcePartition) -> None:
        """Lose what the disk has of a partition that is not open here: it is restored from its changelog."""
        assert where not in self._backends, "an open partition's state is its agent's"
        source = self._sources[where.topic]
        if source.changelog is not None:
            self._backend(source, where.partition).clear()

    def backend(self, where: SourcePartition) -> Backend | None:
        """Return the committed data of a partition that is open here."""
        return self._backends.get(where)

    def restore_of(self, where: SourcePartition) -> Progress | None:
        """Return how far the restore of a partition's changelog is."""
        changelog = self._sources[where.topic].changelog
        if changelog is None:
            return None
        return self.restorer.progress.get((changelog.named(self._kafka.topic_prefix), where.partition))

    def close_stores(self) -> None:
        """Close the databases; the end of the worker."""
        for store in self._stores.values():
            store.close()

    def figures(self) -> Mapping[str, StoreFigures]:
        """How large the store of each agent is."""
        return {agent: store.figures() for agent, store in self._stores.items()}

    def _backend(self, source: Source, partition: int) -> Backend:
        store = self._stores.get(source.agent)
        return MemoryBackend() if store is None else store.partition(partition)

    def _last_handback(self, where: SourcePartition, committed: Committed | None) -> int:
        """Return which order the partition has had last.

        Orders from before its group knew of any are another's: they have no effect on what begins anew, by a
        tool that moved its offsets, say. A topic of orders that was made anew counts from its beginning.
        """
        if committed is None or committed.unit is None:
            return self._last_order()
        if committed.handback < 0 or committed.handback <= self._last_order():
            return committed.handback
        log.warning("orders to hand records back are counted anew, their topic is another", source=where)
        return -1

    def _restore(
        self,
        source: Source,
        where: SourcePartition,
        backend: Backend,
        committed: Committed | None,
        cancelled: threading.Event,
    ) -> None:
        """Bring the state up to its changelog; state and the group's offset exist both, or neither."""
        if source.changelog is None:
            return
        restoration = Restoration(
            self._kafka,
            self._reader,
            self.restorer,
            source.changelog,
            where.partition,
            backend,
            retention=self._retention.get(source.changelog.named(self._kafka.topic_prefix)),
            marked=source.marked,
        )
        has_state = restoration.run(None if committed is None else committed.offset, cancelled)
        if committed is not None or cancelled.is_set():
            return
        if has_state:
            raise StateWithoutOffset(
                f"{where.topic}[{where.partition}]: state of {source.agent} exists, but its group has no "
                "committed offset",
                remedy="Offsets expired or were deleted. See runbooks/checkpoint-failure.md.",
            )
        restoration.begin()
