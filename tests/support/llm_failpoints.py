"""Failpoints of the LLM worker: it kills itself at a named place, once, by the stream that is named for it.

Or its start is held up.

A worker that is given ``GATE`` as a gate in code imports this module. Kills from outside hit these few
milliseconds by luck alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.llm.entries import Entries
from connectors.llm.follower import Follower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.tailer import Place
    from connectors.llm.judges import Held
    from connectors.llm.ledger import Attempt

GATE = f"{__name__}:judge"
BEFORE_ITS_END = "dies-before-its-end"
"""The model has finished, and all its content is in Kafka; the transaction of the ``end`` is not begun."""
AFTER_ITS_END = "dies-after-its-end"
"""That transaction is committed, and nobody in the worker has been told."""

HELD_UP = "held-up"
"""While its folder has a file of this name, it does not hear that it has read the ledger."""

_commit, _caught_up = Entries.commit, Follower.tail_caught_up


async def _dying_commit(
    self: Entries, rows: Sequence[Attempt], last: Sequence[bytes] = (), *, over: bool = False
) -> None:
    if last:
        _die(BEFORE_ITS_END, self)
    await _commit(self, rows, last, over=over)
    if last:
        _die(AFTER_ITS_END, self)


def _die(place: str, entries: Entries) -> None:
    mark = Path(os.environ["SLUICEGATE_DATA_DIR"]) / place
    if entries._to.stream_id == place and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _held_up(self: Follower, place: Place) -> None:
    if (Path(os.environ["SLUICEGATE_DATA_DIR"]) / HELD_UP).exists():
        asyncio.get_running_loop().call_later(0.05, self.tail_caught_up, place)
    else:
        _caught_up(self, place)


def judge(held: Held) -> str:
    """Pass all: it is there so that the module is imported, and can be used as a gate, too."""
    return held.due


if "SLUICEGATE_LLM__GATE_FUNCTIONS" in os.environ:  # in a worker, not in the tests that start it
    Entries.commit = _dying_commit  # type: ignore[method-assign]
    Follower.tail_caught_up = _held_up  # type: ignore[method-assign]
