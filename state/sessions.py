"""Session windows over a store: events of a key with no gap between them, closed once, kept for a TTL."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from state.binary import after, pack_time, unpack_time
from state.ttl import ExpiryIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from state.store import StateView

_LENGTH = struct.Struct(">H")
_END = struct.Struct(">q")
_NEAR_MAX = 2
"""Sessions of a key that one event can join: they stand more than a gap apart, it reaches one each way."""
_SHOWN_MAX = 10_000
"""Open sessions of one key that are read at a time."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What ends a session, how long it waits for the late, and how long it is kept; all in event time."""

    gap_ms: int = 30_000
    """Silence that ends a session: an event within it of the first or last one belongs to it."""
    grace_ms: int = 60_000
    """A session takes in events until the watermark passes its end, gap included, by this much."""
    ttl_ms: int = 3_600_000
    """A closed session can be read for this long after it closed."""

    def __post_init__(self) -> None:
        if self.gap_ms <= 0 or self.grace_ms < 0 or self.ttl_ms < 0:
            raise ValueError(f"gap_ms must be positive, grace_ms and ttl_ms not negative: {self}")


@dataclass(frozen=True, slots=True)
class Session:
    """One session of one key, from its first to its last event, with its stored value."""

    key: bytes
    start_us: int
    end_us: int
    value: bytes


class SessionWindows:
    """Values by (key, start), open ones and closed ones apart; what is due stands in an index of each.

    A session that has closed is never opened again, as its result is out: what comes within a gap of it
    begins another one. Sessions of a key do not overlap: what would fall into a closed one is late.
    """

    def __init__(self, prefix: bytes, options: SessionOptions) -> None:
        self._open, self._closed = prefix + b"o", prefix + b"s"
        self._closing, self._expiring = ExpiryIndex(prefix + b"c"), ExpiryIndex(prefix + b"x")
        self._gap_us = options.gap_ms * 1000
        self._wait_us = (options.gap_ms + options.grace_ms) * 1000
        self._ttl_us = options.ttl_ms * 1000

    def add(
        self,
        view: StateView,
        time_us: int,
        key: bytes,
        watermark_us: int,
        fold: Callable[[Sequence[bytes]], bytes],
    ) -> tuple[Session, list[Session]] | None:
        """Put an event into its session; ``fold`` is given the values of the open ones that it joins.

        Returns the session, and those that are part of it now and stood under another start (whose results,
        if any were said, are void); None when the event came late: alone it would have closed.
        """
        if time_us + self._wait_us <= watermark_us:
            return None
        joined = self._near(view, key, time_us)
        for session in joined:
            view.delete(self._open + _name(session))
            self._closing.remove(view, session.end_us + self._wait_us, _name(session))
        start_us = min([time_us, *(session.start_us for session in joined)])
        end_us = max([time_us, *(session.end_us for session in joined)])
        made = Session(key, start_us, end_us, fold([session.value for session in joined]))
        view.put(self._open + _name(made), _END.pack(end_us) + made.value)
        self._closing.put(view, end_us + self._wait_us, _name(made))
        return made, [session for session in joined if session.start_us != start_us]

    def open(self, view: StateView, key: bytes) -> list[Session]:
        """Return the open sessions of ``key``, earliest first, at most 10,000."""
        return self._of(view, self._open, key, _SHOWN_MAX)

    def kept(self, view: StateView, key: bytes, limit: int) -> list[Session]:
        """Return at most ``limit`` closed sessions of ``key`` that have not expired, earliest first."""
        return self._of(view, self._closed, key, limit)

    def closed(self, view: StateView, watermark_us: int, limit: int) -> list[Session]:
        """Return the next sessions, at most ``limit``, that the watermark closed; each is given once."""
        closed: list[Session] = []
        while due := self._closing.due(view, watermark_us, limit - len(closed)):
            for due_us, name in due:
                self._closing.remove(view, due_us, name)
                value = view.get(self._open + name)
                if value is None:
                    continue  # the changelog was cleaned up of it, and not yet of its entry
                view.delete(self._open + name)
                view.put(self._closed + name, value)
                self._expiring.put(view, due_us + self._ttl_us, name)
                closed.append(_session(name, value))
        return closed

    def next_close_us(self, view: StateView) -> int | None:
        """Return the watermark at which the next session closes, None when none is open."""
        return self._closing.earliest_us(view)

    def expire(self, view: StateView, watermark_us: int, limit: int) -> int:
        """Delete at most ``limit`` sessions whose TTL is over; return how many."""
        due = self._expiring.due(view, watermark_us, limit)
        for due_us, name in due:
            self._expiring.remove(view, due_us, name)
            view.delete(self._closed + name)
        return len(due)

    def _near(self, view: StateView, key: bytes, time_us: int) -> list[Session]:
        """Return the open sessions that an event joins, earliest first, however many the key has.

        As they do not overlap, they end in the order in which they start: the last that start in time do.
        """
        stem = self._open + _named(key)
        pairs = view.last(stem, stem + pack_time(time_us + self._gap_us + 1), _NEAR_MAX)
        found = [_session(stored[len(self._open) :], value) for stored, value in reversed(pairs)]
        return [session for session in found if time_us <= session.end_us + self._gap_us]

    def _of(self, view: StateView, prefix: bytes, key: bytes, limit: int) -> list[Session]:
        stem = prefix + _named(key)
        return [
            _session(stored[len(prefix) :], value) for stored, value in view.scan(stem, after(stem), limit)
        ]


def _named(key: bytes) -> bytes:
    """Return the key behind its length, so that no key's sessions stand among another's."""
    return _LENGTH.pack(len(key)) + key


def _name(session: Session) -> bytes:
    return _named(session.key) + pack_time(session.start_us)


def _session(name: bytes, value: bytes) -> Session:
    key_end = _LENGTH.size + _LENGTH.unpack_from(name)[0]
    (end_us,) = _END.unpack_from(value)
    return Session(name[_LENGTH.size : key_end], unpack_time(name, key_end), end_us, value[_END.size :])
