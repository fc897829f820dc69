"""Signals that ask us to stop: the first politely, a second one for good."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `make` and `timeout` hand a signal on to a child that the terminal sent it to already. Two within this
# time are one: a person is slower, and the second means something else.
_SAME_S: Final = 0.5


@contextmanager
def on_stop_signals(
    first: Callable[[signal.Signals], None], again: Callable[[signal.Signals], None]
) -> Iterator[None]:
    """Call ``first`` for the first signal that asks to stop, ``again`` for each later one, in the loop."""
    last_at = float("-inf")
    asked = False

    def on_signal(number: signal.Signals) -> None:
        nonlocal asked, last_at
        now = time.monotonic()
        if now - last_at < _SAME_S:
            return
        last_at = now
        if asked:
            again(number)
        else:
            asked = True
            first(number)

    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in STOPPING:
            loop.remove_signal_handler(number)
