"""What must be on record before, and after, a call: appended in transactions with the offsets of requests.

A start and an end each wait for a transaction that holds them, the source offsets and the group's metadata
(KIP-447). So the broker refuses both from a worker that lost its partition without knowing: it can begin no
call that its successor does not see on the ledger, and can end no stream. Many gather in one transaction:
alone a start waits for some milliseconds, under load transactions get larger, not later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from connectors.kafka.errors import KafkaUnavailable, TransactionAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.chunk import SourcePartition
    from connectors.kafka.transaction import KafkaTransaction
    from connectors.llm.offsets import Offsets
    from schemas.topics import TopicSpec

log = structlog.get_logger(__name__)

_BATCH_MAX: Final = 1_000
"""Entries of one transaction: each holds some records of some KiB."""
_WAITING_MAX: Final = 20_000
_AGAIN_S: Final = 0.2


class PartitionLost(Exception):
    """The request's partition is another worker's now: nothing of it was written."""


class Row(NamedTuple):
    """One record to append."""

    topic: TopicSpec
    key: bytes | None
    value: bytes | None
    partition: int | None
    on_offset: Callable[[int], None] | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """Records of one operation, and who waits for them."""

    source: SourcePartition
    rows: Sequence[Row]
    done: asyncio.Future[None]
    ends: int | None
    """Offset of the request that is over with it; None = it goes on."""


class Committer(threading.Thread):
    """The thread of the transactions.

    Args:
        transaction: this worker's.
        offsets: what each partition commits.
        ledger_at: the position that a partition's ledger was read to.
        failed: told of what waiting does not mend; the thread has ended then.
        timed: told how long each transaction took, seconds.
    """

    def __init__(
        self,
        transaction: KafkaTransaction,
        offsets: Offsets,
        ledger_at: Callable[[int], int],
        failed: Callable[[BaseException], None],
        timed: Callable[[float], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(name="llm-commit", daemon=True)
        self._transaction = transaction
        self._offsets = offsets
        self._ledger_at = ledger_at
        self._failed = failed
        self._timed = timed
        self._loop = loop
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        # Never one that a predecessor had: by it the outcome of a commit that was not answered is learnt.
        self._unit = time.time_ns() // 1_000_000

    async def put(self, source: SourcePartition, rows: Sequence[Row], *, ends: int | None = None) -> None:
        """Return when the records are committed; they are even if the caller is cancelled meanwhile.

        Raises:
            PartitionLost: they never will be.
        """
        entry = Entry(source, rows, self._loop.create_future(), ends)
        with self._changed:
            if self._stopping:
                raise PartitionLost
            assert len(self._waiting) < _WAITING_MAX, "calls in flight are bounded, and each waits for one"
            self._waiting.append(entry)
            self._changed.notify()
        await asyncio.shield(entry.done)

    def stop(self) -> None:
        """Have the thread end after what waits; ``join`` waits for it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Commit what comes until stopped."""
        try:
            self._transaction.open()
            while batch := self._next():
                self._commit(batch)
        except BaseException as error:  # noqa: BLE001  whatever it is, nobody may wait for ever
            self._failed(error)
        finally:
            with self._changed:
                self._stopping = True
                left = list(self._waiting)
            self._tell(left, lost=True)
            self._transaction.close()

    def _next(self) -> list[Entry]:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_MAX))]

    def _commit(self, batch: list[Entry]) -> None:
        for entry in batch:
            if entry.ends is not None:
                self._offsets.finish(entry.source, entry.ends)
        while batch:
            lost = [entry for entry in batch if not self._offsets.owns(entry.source)]
            self._tell(lost, lost=True)
            batch = [entry for entry in batch if self._offsets.owns(entry.source)]
            try:
                if not batch or self._try(batch):
                    break
            except (TransactionAborted, KafkaUnavailable) as error:
                # A partition that is not ours any more is what the next look finds.
                log.warning("attempts are not on record yet, tried again", cause=str(error))
                self._transaction.abort()
                time.sleep(_AGAIN_S)
            except BaseException:
                self._tell(batch, lost=True)
                raise
        self._tell(batch, lost=False)

    def _try(self, batch: list[Entry]) -> bool:
        positions, notes = {}, {}
        for source in {entry.source for entry in batch}:
            found = self._offsets.position(source, self._ledger_at(source.partition))
            if found is None:
                return False
            positions[source], notes[source] = found[0], str(found[1])
        self._unit += 1
        began = time.monotonic()
        self._transaction.begin()
        self._transaction.append([row for entry in batch for row in entry.rows])
        self._transaction.flush()
        self._transaction.send_offsets(positions, self._unit, notes)
        self._transaction.commit()
        self._timed(time.monotonic() - began)
        return True

    def _tell(self, entries: Sequence[Entry], *, lost: bool) -> None:
        if entries:
            try:
                self._loop.call_soon_threadsafe(_settle, entries, lost)
            except RuntimeError:
                return  # the loop has closed: nobody waits any more


def _settle(entries: Sequence[Entry], lost: bool) -> None:  # noqa: FBT001  called by the loop
    for entry in entries:
        if not entry.done.done():
            if lost:
                entry.done.set_exception(PartitionLost())
            else:
                entry.done.set_result(None)
