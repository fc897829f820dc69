"""Work for the poll thread that others ask for: done between two polls, or refused once it has ended."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Commands:
    """A queue of calls with their answers; who serves it is the one thread that may touch the consumer."""

    def __init__(self, refusal: Callable[[], BaseException]) -> None:
        """``refusal`` makes what is told to who asks when nobody serves any more."""
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._refusal = refusal
        self._ended = False

    @property
    def none_wait(self) -> bool:
        """Whether nobody asks for anything."""
        return self._waiting.empty()

    def call(self, fn: Callable[[], T]) -> Future[T]:
        """Have ``fn`` run by who serves; from any thread."""
        future: Future[T] = Future()
        self._waiting.put((fn, future))
        if self._ended:
            self._refuse()
        return future

    def serve(self, wait_s: float = 0.0) -> None:
        """Do what is asked; ``wait_s`` is how long to wait for the first."""
        try:
            while True:
                fn, future = self._waiting.get(block=wait_s > 0, timeout=wait_s or None)
                wait_s = 0.0
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(fn())
                except Exception as error:  # noqa: BLE001  it is told to whoever asked
                    future.set_exception(error)
        except queue.Empty:
            return

    def end(self) -> None:
        """Serve no more: whoever waits for an answer must not wait for ever."""
        self._ended = True
        self._refuse()

    def _refuse(self) -> None:
        while True:
            try:
                _fn, future = self._waiting.get_nowait()
            except queue.Empty:
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(self._refusal())
