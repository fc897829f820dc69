"""Threads whose work may be abandoned: a call into a library that never returns must not hold up an exit."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")
_Work = tuple[Future[Any], "Callable[[], Any]"]


class DaemonExecutor(Executor):
    """An executor on daemon threads.

    The interpreter joins the threads of a ``ThreadPoolExecutor`` when it ends, however long what they call
    takes. These it leaves behind; so give them only what is as safe to lose as by a kill.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True).start()

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
        for _ in range(self._threads):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  it is told to whoever asked
                future.set_exception(error)
