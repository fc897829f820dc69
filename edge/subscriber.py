"""A connection as a position in a stream: no queue, no task, and no transport in here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edge.channel import Channel
    from edge.delivery import Delivery
    from edge.frame import Frame
    from schemas.kinds import Pressure

_NOTHING: Final[Mapping[Pressure, int]] = MappingProxyType({})
"""One for all: most are never slow, and a dict of their own would take 64 bytes of each."""


@dataclass(slots=True)
class Beyond:
    """What is read of a stream's past and yet not given, for it is more bytes than its kind keeps."""

    from_seq: int
    """What is counted next; at first a place of which it is known what came before."""
    bytes: int
    """Of payloads from there on that are beyond."""
    oldest_seq: int
    """What is before it is beyond whatever it weighs."""
    last_seq: int
    """The stream's latest event, which is given always."""


class Place(NamedTuple):
    """Where somebody stands in a stream, and in what is read of its past before the first event is given."""

    expect: int
    next_offset: int
    from_time_us: int = 0
    beyond: Beyond | None = None
    aged: bool = False
    truncated: bool = False


class Subscriber:
    """Follows one channel from ``expect`` on; what it is given is contiguous, or a declared gap stands in it.

    It reads the ring while it can. When the ring has passed it by (it was slow, or comes from the past) it
    is ``behind``, and ``edge/replay.py`` brings it forward again.
    """

    __slots__ = (
        "_wake",
        "aged",
        "beyond",
        "channel",
        "delivered",
        "delivery",
        "drop_from",
        "dropped",
        "expect",
        "finished",
        "former",
        "from_time_us",
        "gaps",
        "given_up",
        "live",
        "name",
        "next_offset",
        "reading",
        "replaying",
        "resumable",
        "resumed",
        "settled",
        "stop_offset",
        "truncated",
    )

    def __init__(self, channel: Channel, *, expect: int, next_offset: int, name: str) -> None:
        self.channel = channel
        self.expect = expect
        """Seq of the frame that comes next."""
        self.next_offset = next_offset
        """Where in the output topic its history goes on; -1 = not known."""
        self.stop_offset = -1
        """Where its history ends, if the stream has ended: the offset after ``end``."""
        self.resumable = True
        """Its kind has a history; else what the ring has passed by is gone."""
        self.replaying = False
        """Its first span was read: it goes on from there, no longer from a mark."""
        self.reading = False
        """A span of its history is being read."""
        self.settled = False
        """Its history was read to where this edge's tail then stood: all that follows comes by the ring."""
        self.from_time_us = 0
        """What is dated before it is beyond the history of the stream's kind; 0 from its first event on: what
        follows is given whatever its date, as it is to all who are live."""
        self.beyond: Beyond | None = None
        """Its history is counted out as it is read; None from its first event on."""
        self.former: Literal["", "history", "reopened"] = ""
        """Its stream is over for good, and its name perhaps another's by now: its place is of the former one,
        and what comes by the ring is not for it until it was told (``Replay``). Why, if so."""
        self.aged = False
        """Events were passed over as beyond the history of the kind since the last that was given."""
        self.truncated = False
        """The topic no longer holds what it asked for first."""
        self.finished = False
        """``end`` was given: the connection is to close."""
        self.name = name
        self.delivery: Delivery | None = None
        """What gives it to its connection, once there is one."""
        self.delivered = 0
        """Events of the stream that it was written; not those of a group that it stands in."""
        self.gaps = 0
        """Gaps that it was told of; not those of a group that it stands in."""
        self.dropped: Mapping[Pressure, int] = _NOTHING
        """Events that it missed for being behind its bound, by policy."""
        self.resumed = False
        """It came with a cursor."""
        self.live = False
        """It had all that there was at some time: from then on it is held to the bound of its kind."""
        self.given_up = False
        """Its producer was held back for it for long enough."""
        self.drop_from = -1
        """It fell behind, and what comes from here on it is not given; -1 = all is."""
        self._wake: Callable[[], None] | None = None

    @property
    def at_bound(self) -> bool:
        """Whether it was given all that it may be owed, and misses what came after it."""
        return 0 <= self.drop_from <= self.expect

    @property
    def place(self) -> Place:
        """Where it stands now."""
        beyond = replace(self.beyond) if self.beyond is not None else None
        return Place(self.expect, self.next_offset, self.from_time_us, beyond, self.aged, self.truncated)

    def go_back(self, place: Place) -> None:
        """Stand again where it stood: what was taken since is not given."""
        self.expect, self.next_offset, self.from_time_us, self.beyond, self.aged, self.truncated = place
        self.finished = False

    @property
    def behind(self) -> bool:
        """Whether what it needs next is older than the ring."""
        ring = self.channel.ring
        if self.former:
            return True
        if ring.next_seq < 0:
            return not self.settled
        return self.expect < ring.first_seq

    def outlive(self, reason: Literal["history", "reopened"]) -> None:
        """Note that its stream is over for good; also for one that has its ``end``, and may yet go back."""
        self.former, self.drop_from = reason, -1
        if self.stop_offset < 0 <= self.channel.end_offset:  # it came before the end
            self.stop_offset = self.channel.end_offset + 1

    def begin(self, offset: int) -> None:
        """Follow what its stream's name stands for now, from the first event on; -1 = not opened yet."""
        self.former, self.expect, self.next_offset, self.stop_offset = "", 0, offset, -1
        self.from_time_us, self.beyond, self.drop_from = 0, None, -1
        self.replaying = self.aged = self.truncated = self.live = self.given_up = False
        self.settled = True

    def drop(self, policy: Pressure, count: int) -> None:
        """Note that it misses events."""
        self.dropped = {**self.dropped, policy: self.dropped.get(policy, 0) + count}

    def take(self, bytes_max: int, limit_seq: int | None = None) -> Sequence[Frame]:
        """Give the next frames out of the ring and move on past them; none if it has all, or is behind.

        None from ``limit_seq`` on, if there is a limit.
        """
        frames = () if self.former else self.channel.ring.span(self.expect, bytes_max, limit_seq)
        if frames:
            self.passed(frames[-1])
            self.delivered += len(frames)
        return frames

    def is_beyond(self, frame: Frame) -> bool:
        """Whether a frame of the past is more than the kind keeps in bytes; to be asked of each, once."""
        beyond = self.beyond
        if beyond is None:
            return False
        if frame.seq > beyond.from_seq:  # some are gone, and what they weighed: rather give too much
            beyond.bytes = 0
        if frame.seq >= beyond.last_seq or (beyond.bytes <= 0 and frame.seq >= beyond.oldest_seq):
            self.beyond = None
            return False
        if frame.seq == beyond.from_seq:
            beyond.from_seq += 1
            beyond.bytes -= len(frame.event.payload) if frame.event is not None else 0
        return True

    def passed(self, frame: Frame) -> None:
        """Note that a frame was given."""
        self.expect = frame.seq + 1
        self.next_offset = frame.offset + 1
        self.from_time_us, self.beyond = 0, None
        self.finished = frame.type == "end"

    def on_next(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called once when new frames came."""
        self._wake = wake
        self.channel.waiting.add(self)

    def give_up_waiting(self) -> None:
        """Take back ``on_next``; the wait was over before anything came."""
        self._wake = None
        self.channel.waiting.discard(self)

    def wake(self) -> None:
        """Call what ``on_next`` asked for."""
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake()
