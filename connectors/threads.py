"""Threads whose work may be abandoned: a call into a library that never returns must not hold up an exit."""

from __future__ import annotations

import queue
import threading
import weakref
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    _Queue = queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor(Executor):
    """An executor on daemon threads, which end with it.

    The interpreter joins the threads of a ``ThreadPoolExecutor`` when it ends, however long what they call
    takes. These it leaves behind; so give them only what is as safe to lose as by a kill.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._work: _Queue = queue.SimpleQueue()
        for number in range(threads):
            # Not a method of ours: a thread that waits would keep us, and all that we hold, for ever.
            threading.Thread(target=_run, args=(self._work,), name=f"{name}_{number}", daemon=True).start()
        self._end = weakref.finalize(self, _end, self._work, threads)
        self._end.atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn`` run in turn; see ``Executor``."""
        future: Future[T] = Future()
        self._work.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002
        """Have the threads end after what they are at; never waits. What has not begun is cancelled."""
        while cancel_futures:
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                break
            if work is not None:
                work[0].cancel()
        self._end()


def _end(work: _Queue, threads: int) -> None:
    for _ in range(threads):
        work.put(None)


def _run(work: _Queue) -> None:
    while (given := work.get()) is not None:
        future, call = given
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  it is told to whoever asked
                future.set_exception(error)
        del given, future, call  # while it waits for more, nothing of what was done is kept alive
