"""Tumbling and hopping windows over a store: event time, grace, closed once, forgotten after a TTL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from state.binary import after, pack_time, unpack_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from state.store import StateView


_OVERLAP_MAX = 1_440
"""Windows that one event may be in: each is a write. A day by the minute."""


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """How long windows are, wait for the late, and are kept; all in event time."""

    window_ms: int = 60_000
    grace_ms: int = 300_000
    """A window takes in events until the watermark passes its end by this much."""
    ttl_ms: int = 3_600_000
    """A closed window can be read for this long after it closed."""
    advance_ms: int = 0
    """A window begins each so often: hopping windows, of which several hold an event. 0 = tumbling."""

    def __post_init__(self) -> None:
        if self.window_ms <= 0 or self.grace_ms < 0 or self.ttl_ms < 0:
            raise ValueError(f"window_ms must be positive, grace_ms and ttl_ms not negative: {self}")
        if not 0 <= self.advance_ms <= self.window_ms or self.window_ms > _OVERLAP_MAX * self.step_ms:
            raise ValueError(
                f"advance_ms must be at most window_ms, of which at most {_OVERLAP_MAX} overlap: {self}"
            )

    @property
    def step_ms(self) -> int:
        """From the start of a window to that of the next."""
        return self.advance_ms or self.window_ms


@dataclass(frozen=True, slots=True)
class Window:
    """One window of one key, with its stored value."""

    start_us: int
    key: bytes
    value: bytes


class TimeWindows:
    """Values by (window start, key). The start stands first in the store key, big-endian.

    So the windows that close, and those that expire, are the first ones of a range. How far each has
    come is kept with the data, which is why a window closes once, also over a restart.
    """

    def __init__(self, prefix: bytes, options: WindowOptions) -> None:
        self._data = prefix + b"w"
        self._closed_key = prefix + b"c"
        self._expired_key = prefix + b"x"
        self.size_us = options.window_ms * 1000
        self.step_us = options.step_ms * 1000
        self._grace_us = options.grace_ms * 1000
        self._ttl_us = options.ttl_ms * 1000
        self.closes_after_us = self.size_us + self._grace_us
        """From the start of a window to the watermark that closes it."""

    def start_us(self, time_us: int) -> int:
        """Return the start of the window that holds ``time_us``; of hopping ones the last."""
        return time_us - time_us % self.step_us

    def starts_us(self, time_us: int) -> range:
        """Return the starts of all windows that hold ``time_us``, ascending."""
        first = self.start_us(time_us - self.size_us) + self.step_us
        return range(max(first, 0), self.start_us(time_us) + 1, self.step_us)

    def is_late(self, start_us: int, watermark_us: int) -> bool:
        """Tell whether the window has closed: its end + grace is not after the watermark."""
        return start_us + self.closes_after_us <= watermark_us

    def is_forgotten(self, start_us: int, watermark_us: int) -> bool:
        """Tell whether the window has expired: what is added to it now would start from nothing."""
        return self.is_late(start_us, watermark_us - self._ttl_us)

    def get(self, view: StateView, start_us: int, key: bytes) -> bytes | None:
        """Return the value of a window, None when nothing was added."""
        return view.get(self._data + pack_time(start_us) + key)

    def get_many(self, view: StateView, starts_us: Iterable[int], key: bytes) -> list[bytes | None]:
        """Return the values of a key's windows by their starts, in their order."""
        return view.multi_get([self._data + pack_time(start_us) + key for start_us in starts_us])

    def put(self, view: StateView, start_us: int, key: bytes, value: bytes) -> None:
        """Set the value of a window; whether it is late is the caller's to ask first."""
        view.put(self._data + pack_time(start_us) + key, value)

    def add(
        self,
        view: StateView,
        time_us: int,
        key: bytes,
        watermark_us: int,
        fold: Callable[[bytes | None], bytes],
    ) -> list[int]:
        """Fold an event into its windows that are still open; return their starts, none when it came late.

        ``fold`` is given a window's value (None = there is none yet) and returns the new one.
        """
        taken = [start for start in self.starts_us(time_us) if not self.is_late(start, watermark_us)]
        stored = [self._data + pack_time(start) + key for start in taken]
        for name, value in zip(stored, view.multi_get(stored), strict=True):
            view.put(name, fold(value))
        return taken

    def add_batch(
        self,
        view: StateView,
        starts_us: Sequence[int],
        keys: Sequence[bytes],
        watermark_us: int,
        fold: Callable[[Sequence[int], list[bytes | None]], Sequence[bytes]],
    ) -> list[int]:
        """Fold many partial results into their windows with one read and one write.

        Each row is one window, by its start and key: sum a batch's events up by them first, as no two rows
        may name the same. ``fold`` is given the rows whose windows are open, and the windows' values (None =
        there is none yet), and returns the new values. Returns the rows that came late.
        """
        bound_us = self.bound_us(watermark_us)
        late = [row for row, start_us in enumerate(starts_us) if start_us < bound_us]
        rows: Sequence[int] = range(len(starts_us))
        if late:
            rows = [row for row in rows if starts_us[row] >= bound_us]
        prefixes = {start_us: self._data + pack_time(start_us) for start_us in set(starts_us)}
        stored = [prefixes[starts_us[row]] + keys[row] for row in rows]
        view.put_many(stored, fold(rows, view.multi_get(stored)))
        return late

    def of(self, view: StateView, start_us: int, prefix: bytes, limit: int) -> list[Window]:
        """Return at most ``limit`` windows of one start whose key begins with ``prefix``, in key order."""
        begin = self._data + pack_time(start_us) + prefix
        return [self._window(*pair) for pair in view.scan(begin, after(begin), limit)]

    def closed(self, view: StateView, watermark_us: int, limit: int) -> list[Window]:
        """Return the next windows, at most ``limit``, that the watermark closed; each is given once."""
        return self._pass(view, self._closed_key, watermark_us, limit)

    def next_close_us(self, view: StateView) -> int | None:
        """Return the watermark at which the next window closes, None when none is open."""
        begin = view.get(self._closed_key) or self._data
        for key, _ in view.scan(begin, self._data + b"\xff" * 8, 1):
            return unpack_time(key, len(self._data)) + self.size_us + self._grace_us
        return None

    def bound_us(self, watermark_us: int) -> int:
        """Return the start below which all windows are closed; it moves once a step."""
        return max(self.start_us(watermark_us - self._grace_us - self.size_us) + self.step_us, 0)

    def expire(self, view: StateView, watermark_us: int, limit: int) -> int:
        """Delete at most ``limit`` windows whose TTL is over; return how many.

        Where ``closed`` is used, none that it has not given yet, whatever the limits and the order of both.
        """
        given = view.get(self._closed_key)
        gone = self._pass(view, self._expired_key, watermark_us - self._ttl_us, limit, given)
        for window in gone:
            view.delete(self._data + pack_time(window.start_us) + window.key)
        return len(gone)

    def _pass(
        self,
        view: StateView,
        cursor_key: bytes,
        watermark_us: int,
        limit: int,
        before: bytes | None = None,
    ) -> list[Window]:
        """Return the windows between the cursor and what is late at ``watermark_us``; move the cursor.

        Nothing is added behind the cursor any more: whatever is behind it is late. ``before`` is another one,
        which this one does not overtake; None = there is none.
        """
        bound_us = self.bound_us(watermark_us)
        begin, end = view.get(cursor_key) or self._data, self._data + pack_time(bound_us)
        if before is not None:
            end = min(end, before)
        if begin >= end:
            return []
        pairs = list(view.scan(begin, end, limit))
        view.put(cursor_key, pairs[-1][0] + b"\x00" if len(pairs) == limit else end)
        return [self._window(*pair) for pair in pairs]

    def _window(self, key: bytes, value: bytes) -> Window:
        at = len(self._data)
        return Window(unpack_time(key, at), key[at + 8 :], value)
