"""The timers of one attempt, as one timer: it looks again when the nearest deadline may have passed."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from connectors.llm.deltas import ErrorClass
    from connectors.llm.plan import Timers


class Watch:
    """Cancels the task that reads when a timer fires, or when somebody asks for it; says why.

    Content comes fifty times a second and moves a deadline away each time: no timer is set for any but the
    first, after which a deadline may be nearer than the one before.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        task: asyncio.Task[object],
        timers: Timers,
        total_s: float,
    ) -> None:
        self._loop = loop
        self._task = task
        self._timers = timers
        self._began_s = loop.time()
        self._total_s = self._began_s + min(timers.total_ms / 1_000, total_s)
        self._first_s = self._began_s + timers.first_content_ms / 1_000
        self._held_s: float | None = None
        """Since when nothing is read of it."""
        self.connected = False
        """Whether a connection stands: what is sent by it may be billed."""
        self._content_s = 0.0
        """When the latest content came; 0 = none did."""
        self.why: ErrorClass | None = None
        self._handle = loop.call_at(self._next()[0], self._look)

    def stop(self, why: ErrorClass) -> None:
        """End the attempt from outside; the first reason counts."""
        if self.why is None:
            self.why = why
            self._task.cancel()

    def connect(self) -> None:
        """Note that a connection stands."""
        self.connected = True
        self._look_sooner()

    def content(self) -> None:
        """Note that content came."""
        first = not self._content_s
        self._content_s = self._loop.time()
        if first:
            self._look_sooner()

    def hold(self) -> None:
        """Nothing is read of it for a while: it is our doing, for which no timer but the last ends it."""
        self._held_s = self._loop.time()

    def go_on(self) -> None:
        """It is read again, and has as much time left as it had."""
        assert self._held_s is not None
        held_s, self._held_s = self._loop.time() - self._held_s, None
        self._first_s += held_s
        self._content_s += held_s if self._content_s else 0.0
        self._look_sooner()

    def close(self) -> None:
        """Watch no more."""
        self._handle.cancel()

    def _next(self) -> tuple[float, ErrorClass]:
        timers = self._timers
        if self._held_s is not None:
            return self._total_s, "timeout_total"
        due: list[tuple[float, ErrorClass]] = [(self._total_s, "timeout_total")]
        if not self.connected:
            due.append((self._began_s + timers.connect_ms / 1_000, "timeout_connect"))
        if not self._content_s:
            due.append((self._first_s, "timeout_first_content"))
        else:
            due.append((self._content_s + timers.between_contents_ms / 1_000, "timeout_between_contents"))
        return min(due, key=itemgetter(0))

    def _look_sooner(self) -> None:
        """Set the timer anew if a deadline is nearer than when it looks."""
        due_s, _ = self._next()
        if due_s < self._handle.when():
            self._handle.cancel()
            self._handle = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        due_s, why = self._next()
        if due_s <= self._loop.time():
            self.stop(why)
        else:
            self._handle = self._loop.call_at(due_s, self._look)
