"""What must be on record before, and after, a call: appended in transactions with the offsets of requests.

A start and an end each wait for a transaction that holds them and the source offsets. A worker that lost its
partition can neither begin a call that its successor does not see on the ledger, nor end a stream:

- Its session timed out: the transaction carries the group's metadata as it was before the partition was
  looked at (KIP-447), and the broker refuses a member or generation that is gone.
- The partition was taken away in a rebalance, of which it is told: it is not let go of before the transaction
  that may have it is over (``settled``), and what waits is of a tenure that has ended. The broker alone
  would not refuse it: it knows members and generations, and not who has which partition.

Many gather in one transaction: alone a start waits for some milliseconds, under load transactions get larger,
not later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from connectors.kafka.errors import KafkaUnavailable, TransactionAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.transaction import KafkaTransaction
    from connectors.llm.offsets import Offsets, Tenure
    from schemas.record import Headers
    from schemas.topics import TopicSpec

log = structlog.get_logger(__name__)

_BATCH_MAX: Final = 1_000
"""Entries of one transaction. Each holds some rows of one operation, and at most one end: some KiB a row, or
up to 400 KB (twice ``kept.BYTES_MAX``) where the route keeps questions and answers."""
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
    headers: Headers = ()


@dataclass(slots=True, eq=False)
class Entry:
    """Records of one operation, and who waits for them."""

    tenure: Tenure
    rows: Sequence[Row]
    done: asyncio.Future[None]
    ends: int | None
    """Offset of the request that is over with it; None = it goes on."""


class Committer(threading.Thread):
    """The thread of the transactions.

    Args:
        transaction: this worker's; made with ``metadata`` for its group's.
        group_metadata: gives the consumer's, as of now.
        offsets: what each partition commits.
        ledger_at: the position that a partition's ledger was read to.
        failed: told of what waiting does not mend; the thread has ended then.
        timed: told how long each transaction took, seconds.
    """

    def __init__(
        self,
        transaction: Callable[[Callable[[], Any]], KafkaTransaction],
        group_metadata: Callable[[], Any],
        offsets: Offsets,
        ledger_at: Callable[[int], int],
        failed: Callable[[BaseException], None],
        timed: Callable[[float], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(name="llm-commit", daemon=True)
        self._transaction = transaction(lambda: self._metadata)
        self._group_metadata = group_metadata
        self._offsets = offsets
        self._ledger_at = ledger_at
        self._failed = failed
        self._timed = timed
        self._loop = loop
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._busy = False
        self._at_rest: list[Future[None]] = []
        self._metadata: Any = None
        # Never one that a predecessor had: by it the outcome of a commit that was not answered is learnt.
        self._unit = time.time_ns() // 1_000_000

    async def put(self, tenure: Tenure, rows: Sequence[Row], *, ends: int | None = None) -> None:
        """Return when the records are committed; they are even if the caller is cancelled meanwhile.

        Raises:
            PartitionLost: they never will be.
        """
        entry = Entry(tenure, rows, self._loop.create_future(), ends)
        with self._changed:
            if self._stopping:
                raise PartitionLost
            assert len(self._waiting) < _WAITING_MAX, "calls in flight are bounded, and each waits for one"
            self._waiting.append(entry)
            self._changed.notify()
        await asyncio.shield(entry.done)

    def settled(self) -> Future[None]:
        """Return what is done when the transaction that is under way is over, if one is.

        That it is tried again is not waited for: it may have to be until whoever waits here goes on.
        """
        future: Future[None] = Future()
        with self._changed:
            if self._busy and self.is_alive():
                self._at_rest.append(future)
            else:
                future.set_result(None)
        return future

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
            self._rest()
            self._transaction.close()

    def _next(self) -> list[Entry]:
        self._rest()
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            self._busy = bool(self._waiting)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_MAX))]

    def _rest(self) -> None:
        with self._changed:
            self._busy = False
        self._tell_settled()

    def _tell_settled(self) -> None:
        """Tell who has let go of a partition that no transaction has anything of it any more."""
        with self._changed:
            waiting, self._at_rest = self._at_rest, []
        for future in waiting:
            future.set_result(None)

    def _commit(self, batch: list[Entry]) -> None:
        for entry in batch:
            if entry.ends is not None:
                self._offsets.finish(entry.tenure, entry.ends)
        try:
            while batch and not self._try(batch):
                self._tell_settled()  # the next try leaves out what was let go of
                batch = self._without_lost(batch)
        except BaseException:
            self._tell(batch, lost=True)
            raise
        self._tell(batch, lost=False)

    def _without_lost(self, batch: list[Entry]) -> list[Entry]:
        if self._stopping:  # Kafka is away, say: what is not on record now is the next owner's to begin anew
            kept: list[Entry] = []
        else:
            kept = [entry for entry in batch if self._offsets.lasts(entry.tenure)]
        self._tell([entry for entry in batch if entry not in kept], lost=True)
        return kept

    def _try(self, batch: list[Entry]) -> bool:
        # Before the tenures are looked at: if one ends behind our back, these are of a generation before it.
        self._metadata = self._group_metadata()
        positions, notes = {}, {}
        for tenure in {entry.tenure for entry in batch}:
            found = self._offsets.position(tenure, self._ledger_at(tenure.source.partition))
            if found is None:
                return False
            positions[tenure.source], notes[tenure.source] = found[0], str(found[1])
        self._unit += 1
        began = time.monotonic()
        try:
            self._transaction.begin()
            self._transaction.append([row for entry in batch for row in entry.rows])
            self._transaction.flush()
            self._transaction.send_offsets(positions, self._unit, notes)
            self._transaction.commit()
        except (TransactionAborted, KafkaUnavailable) as error:
            # A partition that is not ours any more is what the next look finds.
            log.warning("attempts are not on record yet, tried again", cause=str(error))
            self._transaction.abort()
            time.sleep(_AGAIN_S)
            return False
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
