"""The committer where transactions fail: whoever has let go of a partition waits for one try, not for all."""

from __future__ import annotations

import asyncio
import threading

import pytest

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.errors import TransactionAborted
from connectors.llm.committer import Committer, PartitionLost, Row
from connectors.llm.offsets import Offsets
from schemas.topics import LLM_ATTEMPTS

KEPT, LOST = SourcePartition("asked", 0), SourcePartition("asked", 1)
ROW = Row(LLM_ATTEMPTS, b"key", b"row", 0)


class Refusing:
    """Transactions of a member that the group does not know, as long as ``refuses``."""

    def __init__(self):
        self.refuses = True
        self.tries: list[int] = []
        """Rows of each."""
        self.tried = threading.Semaphore(0)
        self.goes_on = threading.Semaphore(0)

    def _nothing(self):
        pass

    open = begin = flush = commit = abort = close = _nothing

    def append(self, rows):
        self.tries.append(len(rows))

    def send_offsets(self, _positions, _unit, _notes):
        self.tried.release()
        assert self.goes_on.acquire(timeout=10)
        if self.refuses:
            raise TransactionAborted("the member is not known")


def test_who_let_go_of_a_partition_waits_for_the_try_that_may_have_it_alone():
    """… for what is tried next has nothing of it, and may fail for as long as nobody lets go."""
    asyncio.run(let_go_while_tries_fail())


async def let_go_while_tries_fail():
    kafka, offsets, loop = Refusing(), Offsets(), asyncio.get_running_loop()
    committer = Committer(
        lambda _metadata: kafka,
        lambda: None,
        offsets,
        lambda _partition: 0,
        pytest.fail,
        lambda _seconds: None,
        loop,
    )
    kept, lost = (offsets.start(source, 0, 0, 0) for source in (KEPT, LOST))
    puts = [asyncio.create_task(committer.put(tenure, [ROW])) for tenure in (kept, lost)]
    await asyncio.sleep(0)
    committer.start()
    try:
        assert await asyncio.to_thread(kafka.tried.acquire, timeout=10)
        offsets.stop([LOST])
        settled = asyncio.wrap_future(committer.settled())
        await asyncio.sleep(0.05)
        assert not settled.done(), "it may be committed yet"
        kafka.goes_on.release()
        await asyncio.wait_for(settled, 5)
        with pytest.raises(PartitionLost):
            await puts[1]
        kafka.refuses = False
        kafka.goes_on.release()
        await asyncio.wait_for(puts[0], 5)
    finally:
        committer.stop()
        kafka.refuses = False
        kafka.goes_on.release(10)
        await asyncio.to_thread(committer.join, 10)
    assert kafka.tries == [2, 1]
