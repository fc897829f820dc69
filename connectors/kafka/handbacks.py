"""Records of dead letters that are handed back: their own agent handles them once more, and nobody else does.

Appended again, a record would take place twice for a topic's other readers. So a hand-back is an order to the
role whose agent made the letter, numbered by its offset in ``dead.replays.v1``:

1. Whoever owns the partition of the record gives it to the agent between two records of that partition, as it
   stood in the log. The partition stays where it is.
2. The order's number is committed beside the partition's offset, in the unit of work that has the record's
   effects. So each is handled once, whoever dies: who has the partition next goes on behind the number.
3. A record that fails again is a dead letter again, whatever the agent's policy: nothing stands still at it.

Orders of one partition are handled in their order, and one at a time is in an agent's hands.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from connectors.kafka.chunk import Records, SourcePartition

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from connectors.kafka.backlog import Backlog
    from connectors.kafka.chunk import Chunk, Chunker
    from connectors.kafka.deadletters import DeadLetter
    from connectors.kafka.decoding import DecodeGuard
    from connectors.kafka.inflight import Span
    from connectors.kafka.ports import Unit
    from schemas.record import Record

_NAME_CHARACTERS = 248  # Kafka's longest name less one


class HandBack(NamedTuple):
    """One order that is to be carried out."""

    number: int
    chunk: Chunk | None
    """Its record; None = its letter is gone, and the order is passed over."""


class HandBacks:
    """Those that wait for their agents; on the coordinator's loop.

    Args:
        committed: where each open partition stands.
        on_taken: told when there is something to hand back.
    """

    def __init__(
        self,
        unit: Unit,
        backlog: Backlog,
        committed: Mapping[SourcePartition, int],
        on_taken: Callable[[], None],
    ) -> None:
        self._unit = unit
        self._backlog = backlog
        self._committed = committed
        self._on_taken = on_taken
        self._waiting: dict[SourcePartition, deque[HandBack]] = {}
        self._given: set[SourcePartition] = set()  # one of them is in the backlog, or in an agent's hands

    def take(self, source: SourcePartition, after: int, found: Iterable[HandBack]) -> None:
        """Take what is to be handed back to a partition next, in the order of the numbers.

        It was looked for behind the number ``after``. Where the partition goes on behind another by now, as a
        unit was aborted, or is not open any more, it is not taken: one before it would be passed over.
        """
        if self.last(source) == after and source in self._committed:
            self._waiting.setdefault(source, deque()).extend(found)
            self._on_taken()

    def last(self, source: SourcePartition) -> int | None:
        """Return the number behind which a partition goes on; None = it is not open, or has some in hand."""
        if source in self._given or self._waiting.get(source):
            return None
        return self._unit.handbacks.get(source)

    @property
    def under_way(self) -> bool:
        """Whether any waits for its agent, or is in its hands."""
        return bool(self._given) or any(self._waiting.values())

    def bring(self, topic: str, shut: Container[SourcePartition]) -> None:
        """Put the next ones of a topic before all that waits of their partitions; no agent has any of it."""
        for source, waiting in list(self._waiting.items()):
            if source.topic != topic or source in self._given or source in shut:
                continue
            position = self._unit.positions.get(source, self._committed.get(source))
            while waiting and position is not None:
                number, chunk = waiting.popleft()
                if chunk is None:
                    self._unit.advance(source, position, 0)
                    self._unit.hand_back(source, number)
                    continue
                chunk.next_offset = position
                self._given.add(source)
                self._backlog.put_back(chunk)
                break

    def handled(self, chunk: Chunk) -> bool:
        """Have it commit with the unit that a chunk is handled; False = it is none that was handed back."""
        if chunk.handback < 0:
            return False
        self._given.discard(chunk.source)
        self._unit.hand_back(chunk.source, chunk.handback)
        return True

    def voided(self, chunk: Chunk) -> bool:
        """Hear that nobody handles a chunk from here; False = it is none that was handed back."""
        if chunk.handback >= 0:
            self.drop(chunk.source)
        return chunk.handback >= 0

    def drop(self, source: SourcePartition) -> None:
        """Forget those of a partition; what is not committed of them is found again."""
        self._given.discard(source)
        self._waiting.pop(source, None)

    def clear(self) -> None:
        """Forget all; what is not committed is found again."""
        self._given.clear()
        self._waiting.clear()

    def passed(self) -> dict[SourcePartition, int]:
        """Return behind which number each partition stands, by the name of what is noted of it."""
        handbacks = self._unit.handbacks.items()
        return {_noted(source): number + 1 for source, number in handbacks if number >= 0}


def handed_back(number: int, letter: DeadLetter, chunker: Chunker, guard: DecodeGuard) -> Chunk:
    """Return the record of a letter as one that is fetched is given to an agent; blocks.

    Raises what the chunker does of what may pass: RegistryUnavailable.
    """
    stamp = TIMESTAMP_LOG_APPEND_TIME, letter.record_time_us // 1_000
    source = SourcePartition(letter.from_topic, letter.from_partition)
    headers = list(letter.headers) or None
    message = Message(*source, letter.from_offset, letter.key, letter.value, headers, None, stamp)
    records = Records(source, [message])
    chunk = chunker(0, records, guard)
    guard.acquit(records)
    chunk.handback = number
    return chunk


@dataclass(frozen=True, slots=True)
class _OneHandBack:
    """A ``Span`` of an order: what a crash has in hand is told by its number, as its partition goes on."""

    chunk: Chunk

    @property
    def source(self) -> SourcePartition:
        return _noted(self.chunk.source)

    @property
    def first(self) -> Record:
        return self.chunk.first._replace(offset=self.chunk.handback)

    @property
    def next_offset(self) -> int:
        return self.chunk.handback + 1

    def __len__(self) -> int:
        return 1


def span_of(chunk: Chunk) -> Span:
    """Return what of a chunk is noted while an agent has it in hand."""
    return chunk if chunk.handback < 0 else _OneHandBack(chunk)


def noted_as(topic: str) -> str:
    """Return the name under which hand-backs of a topic are noted; no topic can have it."""
    return f"{topic[-_NAME_CHARACTERS:]}~"


def _noted(source: SourcePartition) -> SourcePartition:
    return SourcePartition(noted_as(source.topic), source.partition)
