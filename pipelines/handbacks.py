"""Orders to hand records back to this role: followed in ``dead.replays.v1``, and brought to their agents.

``connectors/kafka/handbacks.py`` says what one is, and why each is carried out once. Here an order becomes
its record: the letter is read, its bytes are decoded as what is fetched would be, off the loop.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.deadletters import DeadLetterReader
from connectors.kafka.handbacks import HandBack, handed_back
from connectors.kafka.ports import Backoff
from connectors.kafka.tailer import RARELY_MS, Followed, Tailer
from connectors.threads import DaemonExecutor
from schemas.errors import SluicegateError, WireError
from schemas.topics import DEAD_LETTERS, DEAD_REPLAYS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.kafka.chunk import Chunker
    from connectors.kafka.coordinator import Coordinator
    from connectors.kafka.decoding import DecodeGuard
    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.tailer import Place, TailState
    from pipelines.partitions import Source
    from schemas.record import Record
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_AT_ONCE_MAX: Final = 16  # of a partition in memory: a letter may have a megabyte
_LOOK_S, _MORE_S = 0.5, 0.02
_JOIN_S: Final = 2.0


class Order(NamedTuple):
    """That the record of one letter is to be handed back to its partition."""

    number: int
    """Its offset in the topic of orders."""
    source: SourcePartition
    letter: tuple[int, int]
    """Partition and offset of the letter."""
    letter_time_us: int


class Orders:
    """Those of one generation of a role; implements ``connectors.kafka.tailer.TailListener``.

    All but ``decode`` runs on the loop. In memory are as many as the topic keeps: what people did by hand.
    """

    def __init__(self, kafka: KafkaOptions, role: str, generation: int, codec: WireCodec) -> None:
        self._kafka = kafka
        self._role, self._generation = role, generation
        self._codec = codec.limited(DEAD_LETTERS.max_message_bytes)
        self._orders: dict[SourcePartition, list[Order]] = {}
        self._told = asyncio.Event()
        self._thread: DaemonExecutor | None = None  # made for the first order: few roles have any
        self._reader: DeadLetterReader | None = None
        self._tailer: Tailer[list[Order]] | None = None

    def start(self) -> None:
        """Begin to follow; nothing is waited for."""
        followed = [Followed(DEAD_REPLAYS.named(self._kafka.topic_prefix), -1)]
        loop = asyncio.get_running_loop()
        self._tailer = Tailer(self._kafka, followed, self.decode, self, loop, asks_ms=RARELY_MS)
        self._tailer.start()

    async def stop(self) -> None:
        """Follow no more."""
        if self._thread is not None:
            if self._reader is not None:
                self._thread.submit(self._reader.close)
            self._thread.shutdown()
        if self._tailer is not None:
            self._tailer.stop()
            await asyncio.to_thread(self._tailer.join, _JOIN_S)

    async def carry_out(
        self, coordinator: Coordinator, sources: Mapping[str, Source], guard: DecodeGuard
    ) -> None:
        """Bring each order of an open partition to its agent, until cancelled; ``sources`` are by topic."""
        loop = asyncio.get_running_loop()
        failures, backoff = 0, Backoff()
        while True:
            self._told.clear()
            try:
                for source, after, orders in self._due(coordinator):
                    self._thread = self._thread or DaemonExecutor(1, "hand-back")
                    chunker = sources[source.topic].chunker
                    loaded = await loop.run_in_executor(self._thread, self._load, chunker, orders, guard)
                    coordinator.handbacks.take(source, after, loaded)
            except SluicegateError as error:
                failures += 1
                log.warning("records are handed back later", role=self._role, cause=str(error))
                await asyncio.sleep(backoff.seconds(failures))
            else:
                failures = 0
                with suppress(TimeoutError):
                    pause_s = _MORE_S if coordinator.handbacks.under_way else _LOOK_S
                    await asyncio.wait_for(self._told.wait(), pause_s)

    def _due(self, coordinator: Coordinator) -> list[tuple[SourcePartition, int, list[Order]]]:
        """Return what comes next of each open partition that has none in hand, and behind which number."""
        due = []
        for source, orders in self._orders.items():
            after = coordinator.handbacks.last(source) if source in coordinator.assignment else None
            if after is not None:
                begin = bisect_right(orders, after, key=attrgetter("number"))
                if found := orders[begin : begin + _AT_ONCE_MAX]:
                    due.append((source, after, found))
        return due

    def _load(self, chunker: Chunker, orders: Sequence[Order], guard: DecodeGuard) -> list[HandBack]:
        if self._reader is None:
            self._reader = DeadLetterReader(self._kafka, self._codec)
        letters = self._reader.several([order.letter for order in orders])
        loaded = []
        for order in orders:
            letter = letters.get(order.letter)
            if letter is None or letter.time_us != order.letter_time_us:
                log.warning("record cannot be handed back, its letter is gone", order=order)
                loaded.append(HandBack(order.number, None))
            else:
                loaded.append(HandBack(order.number, handed_back(order.number, letter, chunker, guard)))
        return loaded

    # -- followed -------------------------------------------------------------------------------------

    def decode(self, records: Sequence[Record]) -> list[Order]:
        """Return the orders for this role. Raises RegistryUnavailable."""
        found = []
        for record in records:
            try:
                fact = self._codec.decode(record.value or b"", DEAD_REPLAYS.subject)
            except WireError as error:
                log.warning("what was replayed cannot be read", offset=record.offset, cause=str(error))
                continue
            if (fact.get("to_role"), fact.get("to_generation")) == (self._role, self._generation):
                source = SourcePartition(fact["to_topic"], fact["to_partition"])
                letter = fact["partition"], fact["offset"]
                found.append(Order(record.offset, source, letter, fact["letter_time_us"]))
        return found

    def tail_batch(self, batch: list[Order], _positions: Mapping[Place, int]) -> None:
        """See ``TailListener``."""
        for order in batch:
            self._orders.setdefault(order.source, []).append(order)
        if batch:
            self._told.set()

    def tail_caught_up(self, _place: Place) -> None:
        """See ``TailListener``."""

    def tail_state(self, state: TailState) -> None:
        """See ``TailListener``."""
