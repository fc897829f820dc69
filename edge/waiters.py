"""Publishers that wait for the verdict on each of their events."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge.frame import Frame
    from edge.rejects import Verdict

Answer = dict[str, object]


class Wait:
    """One request's events, and what was heard of them so far."""

    __slots__ = ("answers", "done", "open")

    def __init__(self, event_ids: Iterable[str]) -> None:
        self.open = set(event_ids)
        self.answers: dict[str, Answer] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answer(self, event_id: str, answer: Answer) -> None:
        """Take what became of one event; the first that is heard counts."""
        if event_id not in self.open:
            return
        self.open.discard(event_id)
        self.answers[event_id] = answer
        if not self.open and not self.done.done():
            self.done.set_result(None)


class Waiters:
    """All requests that wait, by stream and event; bounded by the number of events."""

    def __init__(self, events_max: int) -> None:
        self._events_max = events_max
        self._events = 0
        self._waits: dict[tuple[bytes, str], list[Wait]] = {}

    @property
    def any(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waits)

    def room_for(self, events: int) -> bool:
        """Whether so many more can be waited for."""
        return self._events + events <= self._events_max

    def add(self, key: bytes, event_ids: Iterable[str]) -> Wait:
        """Begin to wait; to be called before the append, or a quick verdict is missed."""
        wait = Wait(event_ids)
        for event_id in wait.open:
            self._waits.setdefault((key, event_id), []).append(wait)
            self._events += 1
        return wait

    def remove(self, key: bytes, wait: Wait, event_ids: Iterable[str]) -> None:
        """Wait no longer."""
        for event_id in set(event_ids):
            waits = self._waits.get((key, event_id), [])
            if wait in waits:
                waits.remove(wait)
                self._events -= 1
            if not waits:
                self._waits.pop((key, event_id), None)

    def accepted(self, key: bytes, partition: int, frame: Frame) -> None:
        """An event came out of the output topic."""
        event_id = frame.event.event_id if frame.event is not None else ""
        for wait in self._waits.get((key, event_id), ()):
            wait.answer(
                event_id,
                {
                    "verdict": "accepted",
                    "seq": frame.seq,
                    "partition": partition,
                    "offset": frame.offset,
                    "cursor": frame.cursor,
                },
            )

    def rejected(self, key: bytes, verdict: Verdict) -> None:
        """Ingest did not accept an event."""
        for wait in self._waits.get((key, verdict.event_id), ()):
            wait.answer(verdict.event_id, {"verdict": verdict.verdict, "detail": verdict.detail})
