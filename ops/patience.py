"""How long to go on without an answer, and how long to pause between two tries."""

from __future__ import annotations

import random
import time

_PAUSE_MS_FIRST, _PAUSE_MS_MAX = 100, 5_000


class Patience:
    """Pauses between repeats: doubled each time, jittered so that clients do not come back as one.

    The time that is allowed runs from the first trouble after the last success, not from the start:
    a connection that was well for an hour has all of it left when it breaks.
    """

    def __init__(self, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self._until: float | None = None
        self._pause_ms = _PAUSE_MS_FIRST

    def answered(self) -> None:
        """There is somebody: the time is full again, the pauses stay as long as they are."""
        self._until = None

    def succeeded(self) -> None:
        """It works: the time is full again, and the next pause is a short one."""
        self._until = None
        self._pause_ms = _PAUSE_MS_FIRST

    def pause_s(self, *, at_least_s: float = 0.0) -> float | None:
        """Seconds to wait before the next try, or None when the time is over."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self.allowed_s
        left_s = self._until - now
        if left_s <= 0:
            return None
        pause_s = max(at_least_s, self._pause_ms / 1000) * random.uniform(0.75, 1.25)  # noqa: S311  # no secret
        self._pause_ms = min(self._pause_ms * 2, _PAUSE_MS_MAX)
        return min(pause_s, left_s)
