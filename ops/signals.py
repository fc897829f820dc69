"""Signals that ask us to stop: the first politely, a second one for good."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# `make` and `timeout` hand a signal on to a child that the terminal sent it to already. Two within this
# time are one: a person is slower, and the second means something else.
_SAME_S: Final = 0.5


@contextmanager
def on_stop_signals(
    first: Callable[[signal.Signals], None], again: Callable[[signal.Signals], None]
) -> Iterator[None]:
    """Call ``first`` for the first signal that asks to stop, ``again`` for each later one, in the loop.

    A signal that is ignored stays so: `nohup` asks for that, and a terminal that is closed must not end
    what was started to outlive it.
    """
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
    before = {number: signal.getsignal(number) for number in STOPPING}
    heard = [number for number in STOPPING if number is not signal.SIGHUP or before[number] != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number] or signal.SIG_DFL)


def interrupt_once() -> None:
    """Outside of a loop: the first signal that asks to stop raises KeyboardInterrupt, later ones do nothing.

    So that what was begun is undone, and wholly: a second Ctrl-C would end the clean-up half way.
    """

    def on_signal(_number: int, _frame: FrameType | None) -> NoReturn:
        ignore_stop_signals()
        raise KeyboardInterrupt

    for number in STOPPING:
        if number is not signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, on_signal)


def ignore_stop_signals() -> None:
    """From now on, nothing but SIGKILL ends this process early."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
