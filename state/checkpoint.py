"""The unit of work: source offsets, outputs, changelog and dead letters commit together, then the state.

The steps (the numbers are those of ARCHITECTURE.md, "The unit of work"):

1. stop intake; 2. wait until the agents are done with what was handed out (both by the caller);
3. append outputs and dead letters, then what depends on their offsets, then the changelog;
4. send the source offsets with the group's metadata; 5. commit the transaction;
6. one write to each partition's backend: data and changelog position.

A failure before 5 aborts: nothing took place. A crash between 5 and 6 is healed from the changelog.
``connectors/kafka/at_least_once.py`` has the same steps without a transaction: what was appended stays.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from schemas.topics import MIB
from state.effects import Append
from state.errors import StoreUnwritable
from state.store import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from schemas.topics import TopicSpec
    from state.effects import PartitionScope

UNIT_RECORDS_MAX: Final = 200_000
UNIT_BYTES_MAX: Final = 64 * MIB
"""What a unit of work appends at most, by default; one more chunk of each agent may come on top."""


@dataclass(frozen=True, slots=True, order=True)
class SourcePartition:
    """A partition of an input topic (the topic's name as it stands in Kafka)."""

    topic: str
    partition: int


class Transaction(Protocol):
    """What the unit of work needs of a transactional producer; ``connectors/kafka`` has it.

    Each method raises when the transaction cannot go on; nothing of it takes place then.
    """

    def begin(self) -> None:
        """Open a transaction."""

    def append(self, appends: Sequence[Append]) -> None:
        """Append records. The ``on_offset`` of those that have one are called in ``flush``."""

    def flush(self) -> None:
        """Wait until all appended records are acknowledged, then call each ``on_offset`` in order."""

    def send_offsets(
        self,
        positions: Mapping[SourcePartition, int],
        unit: int,
        notes: Mapping[SourcePartition, str],
        handbacks: Mapping[SourcePartition, int],
    ) -> None:
        """Add the next source offsets, with the unit's number and what else stands beside them (KIP-447)."""

    def commit(self) -> None:
        """Commit. Returns only when it is known to be committed; raises when it is known that it is not."""

    def abort(self) -> None:
        """Abort what is open; nothing of it will be seen."""

    def settle(self) -> None:
        """Have the broker end what an ``abort`` that it did not answer left open."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one agent did on one partition in a unit of work."""

    agent: str
    partition: int
    counts: Counter[str]
    """Inputs by outcome."""
    letters: Counter[str]
    """Dead letters by cause."""


@dataclass(slots=True)
class UnitResult:
    """What a committed unit of work did; times in seconds."""

    unit: int
    inputs: Mapping[SourcePartition, int]
    """Source records by partition."""
    positions: Mapping[SourcePartition, int]
    """The next source offsets."""
    appended: int = 0
    append_bytes: int = 0
    changelog: int = 0
    changelog_bytes: int = 0
    shares: list[Share] = field(default_factory=list)
    handle_s: float = 0.0
    """From the first hand-out to the commit's begin: steps 1 and 2, and the agents' own time."""
    append_s: float = 0.0
    commit_s: float = 0.0
    store_s: float = 0.0

    @property
    def records(self) -> int:
        """Source records of all partitions."""
        return sum(self.inputs.values())

    @property
    def counts(self) -> Counter[str]:
        """Inputs by outcome, over all agents and partitions."""
        return sum((share.counts for share in self.shares), Counter())


class UnitOfWork:
    """The open unit of one role: scopes are made as agents touch partitions; ``commit`` ends it."""

    def __init__(
        self,
        transaction: Transaction,
        topic_id_of: Callable[[TopicSpec], str],
        records_max: int = UNIT_RECORDS_MAX,
        bytes_max: int = UNIT_BYTES_MAX,
    ) -> None:
        self._transaction = transaction
        self._topic_id_of = topic_id_of
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._scopes: dict[tuple[str, int], PartitionScope] = {}
        self._positions: dict[SourcePartition, int] = {}
        self._inputs: Counter[SourcePartition] = Counter()
        self._began: float | None = None
        self._notes: dict[SourcePartition, str] = {}
        self._handbacks: dict[SourcePartition, int] = {}  # as committed
        self._handed_back: dict[SourcePartition, int] = {}  # as this unit moves them on
        self._committing = False
        # Numbers begin at random: one that is read back may be another worker's, or an earlier process's.
        self.number = secrets.randbits(48)

    def add_scope(self, agent: str, scope: PartitionScope) -> None:
        """Have ``scope`` be part of each unit from now on: its partition was assigned and restored.

        Raises:
            RuntimeError: it is committing; its steps must all see the same scopes.
        """
        self._must_not_commit()
        self._scopes[agent, scope.partition] = scope

    def remove_scope(self, agent: str, partition: int) -> PartitionScope | None:
        """Forget a scope: its partition was revoked. What it staged is gone unless it was committed.

        Raises:
            RuntimeError: it is committing; outputs and offsets would commit without changelog and state.
        """
        self._must_not_commit()
        return self._scopes.pop((agent, partition), None)

    def scope(self, agent: str, partition: int) -> PartitionScope:
        """Return the scope of an agent's partition; the unit begins with the first that is asked for.

        Raises:
            KeyError: the partition is not assigned.
        """
        if self._began is None:
            self._began = time.perf_counter()
        return self._scopes[agent, partition]

    def advance(self, source: SourcePartition, offset: int, records: int, note: str = "") -> None:
        """Say that ``source`` is handled below ``offset``; the ``note`` is committed beside it."""
        self._positions[source] = offset
        if note or self._notes:
            self._notes[source] = note
        self._inputs[source] += records

    def begin_handbacks(self, source: Any, last: int) -> None:
        """Say which hand-back a partition that was assigned has had last, -1 = none; of its letters' records.

        The number is committed beside each offset of the partition, so it moves with what the record did.
        """
        self._handbacks[source] = last

    def hand_back(self, source: SourcePartition, number: int) -> None:
        """Say that a record that was handed back is handled, where its partition stands."""
        self._handed_back[source] = number

    def forget_handbacks(self, source: Any) -> None:
        """The partition is another's."""
        self._handbacks.pop(source, None)

    @property
    def handbacks(self) -> Mapping[SourcePartition, int]:
        """The last hand-back of each partition, those of the open unit among them."""
        return {**self._handbacks, **self._handed_back}

    @property
    def records(self) -> int:
        """Source records handled in the open unit."""
        return self._inputs.total()

    @property
    def full(self) -> bool:
        """The unit holds as many effects as one transaction should."""
        scopes = self._scopes.values()
        return (
            sum(scope.effect_records for scope in scopes) >= self._records_max
            or sum(scope.effect_bytes for scope in scopes) >= self._bytes_max
        )

    @property
    def empty(self) -> bool:
        """Nothing was handled since the last commit."""
        return not self._positions

    @property
    def positions(self) -> Mapping[SourcePartition, int]:
        """The next source offsets of the open unit."""
        return self._positions

    def commit(self) -> UnitResult:
        """Steps 3 to 6; blocks, so call it off the event loop, with no agent at work.

        What the transaction raises goes through, after all of the unit was dropped: nothing took place,
        seek back to the committed offsets.

        Raises:
            StoreUnwritable: Kafka committed, the disk did not take it; stop, the changelog has it.
        """
        self._committing = True
        try:
            return self._commit()
        finally:
            self._committing = False

    def _commit(self) -> UnitResult:
        self.number += 1
        result = UnitResult(self.number, self._inputs, self._positions)
        started = time.perf_counter()
        result.handle_s = 0.0 if self._began is None else started - self._began
        try:
            self._transaction.begin()
            self._append(result)
            changes = self._append_changelog(result)
            self._transaction.flush()
            # Not before: as the first request of a transaction that follows another at once, it meets the
            # markers of that one, and librdkafka asks again only after 100 ms (for partitions, 20 ms).
            self._transaction.send_offsets(self._positions, self.number, self._notes, self.handbacks)
            result.append_s = time.perf_counter() - started
            self._transaction.commit()
        except BaseException:
            try:
                self._transaction.abort()
            finally:  # else its state and offsets would commit with the next unit, without its outputs
                self._drop()
            raise
        self._handbacks |= self._handed_back
        result.commit_s = time.perf_counter() - started - result.append_s
        try:
            self._store(changes, result)
        except StoreUnwritable:
            raise
        except Exception as error:
            raise StoreUnwritable(f"state of a committed unit cannot be written: {error}") from error
        finally:
            self._drop()
        result.store_s = time.perf_counter() - started - result.append_s - result.commit_s
        return result

    def settle(self) -> None:
        """End what an aborted unit may have left open in Kafka; blocks. What it raises goes through."""
        self._transaction.settle()

    def drop(self) -> None:
        """Forget what the open unit staged: none of it takes place.

        Raises:
            RuntimeError: it is committing; dropped now, its outputs would commit without their offsets.
        """
        self._must_not_commit()
        self._drop()

    def _must_not_commit(self) -> None:
        if self._committing:
            raise RuntimeError("a unit of work that commits must end as it began")

    def _drop(self) -> None:
        for scope in self._scopes.values():
            scope.drop()
        self._positions = {}
        self._inputs = Counter()
        self._began = None
        self._notes = {}
        self._handed_back = {}

    def _append(self, result: UnitResult) -> None:
        """Step 3: outputs and dead letters; twice, as what waits for an offset may append once more."""
        scopes = list(self._scopes.values())
        for _wave in range(2):
            appends = [append for scope in scopes for append in scope.take_appends()]
            self._transaction.append(appends)
            result.appended += len(appends)
            result.append_bytes += _size_bytes(appends)
            if not any(append.on_offset for append in appends):
                return
            self._transaction.flush()
        if any(scope.appends for scope in scopes):
            msg = "an on_offset callback asked for another on_offset: only one wave is possible"
            raise RuntimeError(msg)

    def _append_changelog(self, result: UnitResult) -> dict[tuple[str, int], list[int]]:
        """Step 3: the staged writes, last value a key; returns where each scope's last offset will stand."""
        last_offsets: dict[tuple[str, int], list[int]] = {}
        for name, scope in self._scopes.items():
            staged = list(scope.view.staged.items())
            if scope.changelog is None or not staged:
                continue
            offsets = last_offsets.setdefault(name, [])
            appends = [Append(scope.changelog, key, value, scope.partition) for key, value in staged[:-1]]
            key, value = staged[-1]
            appends.append(Append(scope.changelog, key, value, scope.partition, offsets.append))
            self._transaction.append(appends)
            result.changelog += len(appends)
            result.changelog_bytes += _size_bytes(appends)
        return last_offsets

    def _store(self, last_offsets: Mapping[tuple[str, int], list[int]], result: UnitResult) -> None:
        """Step 6: what Kafka committed is written to each backend, data and position at once."""
        now_us = time.time_ns() // 1_000
        for name, scope in self._scopes.items():
            counts, letters = scope.counts, scope.letters
            if counts or letters:
                result.shares.append(Share(scope.agent, scope.partition, counts, letters))
            offsets = last_offsets.get(name)
            if offsets and scope.changelog is not None:
                position = Position(self._topic_id_of(scope.changelog), offsets[0] + 1, now_us)
                scope.backend.write(scope.view.staged, position)
            elif scope.view.staged:
                scope.backend.write(scope.view.staged, Position("", 0, now_us))
            scope.view.written()


def _size_bytes(appends: Sequence[Append]) -> int:
    return sum(len(append.key or b"") + len(append.value or b"") for append in appends)
