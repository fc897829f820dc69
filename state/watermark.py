"""Event time of a partition: how far it is certain to have come, by its own records alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from state.store import StateView

AHEAD_US_MAX = 60_000_000
"""An event counts for time at most this far after its append: one dated 2099 must not make others late."""

_STORED = struct.Struct(">q")
BEGINNING_US = -1


@dataclass(slots=True)
class Watermark:
    """``max(min(event time, append time + 1 min)) - allowed disorder`` over what was consumed in order.

    No clock is read: a catch-up after an outage and a replay come to the same times.
    """

    disorder_us: int
    max_us: int = BEGINNING_US
    """Greatest capped event time so far, ``BEGINNING_US`` before the first record."""

    @property
    def now_us(self) -> int:
        """The watermark; never goes back. ``BEGINNING_US`` before the first record."""
        return max(self.max_us - self.disorder_us, BEGINNING_US)

    def see(self, event_us: int, append_us: int) -> int:
        """Take a record's times in and return its effective time.

        The effective time is the event's, not later than append + 1 min and not before the watermark:
        with it deadlines and TTL are counted, so that a producer whose clock lags does not find its
        stream timed out by its neighbours.
        """
        capped_us = min(event_us, append_us + AHEAD_US_MAX)
        self.max_us = max(self.max_us, capped_us)
        return max(capped_us, self.now_us)

    def tick(self, append_us: int) -> None:
        """Take in that the broker's clock has come to ``append_us``."""
        self.max_us = max(self.max_us, append_us)

    def idle(self, silent_us: int) -> None:
        """Take in that nothing came for so long: event time goes on at the pace of the clock.

        From where the records left it, so that no clock of a machine is compared with another's. Before the
        first record there is no time.
        """
        if self.max_us > BEGINNING_US:
            self.max_us += silent_us

    def load(self, view: StateView, key: bytes) -> None:
        """Read what ``save`` stored."""
        stored = view.get(key)
        self.max_us = BEGINNING_US if stored is None else int(_STORED.unpack(stored)[0])

    def save(self, view: StateView, key: bytes) -> None:
        """Store with the data that it judged, in the same unit of work."""
        view.put(key, _STORED.pack(self.max_us))
