"""The recent events of one stream, contiguous in seq; the hub keeps them within their bounds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.frame import Frame

_SLACK = 256  # evicted places at the head of the list before they are given back


class Behind(NamedTuple):
    """What came to a stream since somebody's place in it."""

    events: int
    bytes: int
    """Of their payloads; where the ring no longer holds them, at the stream's average."""


class Ring:
    """Frames ``first_seq … next_seq - 1``; ``next_seq`` is -1 until a frame was seen.

    Old frames leave at the head and are never waited for: whoever stood there reads Kafka instead.
    """

    __slots__ = (
        "_aged",
        "_frames",
        "_head",
        "bytes",
        "came_bytes",
        "came_events",
        "last_offset",
        "next_seq",
    )

    def __init__(self) -> None:
        self._frames: list[Frame | None] = []
        self._head = 0
        self._aged = (0, 0)
        self.bytes = 0
        self.next_seq = -1
        self.last_offset = -1
        self.came_events = 0
        self.came_bytes = 0
        """Of the payloads of all that came, held or not."""

    def __len__(self) -> int:
        return len(self._frames) - self._head

    @property
    def first_seq(self) -> int:
        """Seq of the oldest frame held; ``next_seq`` if none is."""
        return self.next_seq - len(self)

    @property
    def oldest(self) -> Frame | None:
        """The next frame to leave."""
        return self._frames[self._head] if len(self) else None

    @property
    def newest(self) -> Frame | None:
        """The last frame that came."""
        return self._frames[-1] if len(self) else None

    def append(self, frame: Frame) -> bool:
        """Take a frame; give False for one that is held or was held already.

        A frame that does not follow on starts the ring anew: what is in it is always without a hole.
        """
        if frame.offset <= self.last_offset:
            return False
        if frame.seq != self.next_seq:
            self.clear()
        self._frames.append(frame)
        self.bytes += frame.size_bytes
        self.next_seq = frame.seq + 1
        self.last_offset = frame.offset
        frame.came_before = self.came_bytes
        self.came_events += 1
        self.came_bytes += len(frame.event.payload) if frame.event is not None else 0
        return True

    def evict_oldest(self) -> int:
        """Let the oldest frame go; give the bytes that it held (0 if there is none)."""
        frame = self.oldest
        if frame is None:
            return 0
        self._frames[self._head] = None
        self._head += 1
        self.bytes -= frame.size_bytes
        if self._head >= _SLACK and self._head * 2 >= len(self._frames):
            del self._frames[: self._head]
            self._head = 0
        return frame.size_bytes

    def clear(self) -> None:
        """Let all frames go; what was seen last stays known."""
        self._frames.clear()
        self._head = 0
        self._aged = (0, 0)
        self.bytes = 0

    def restart(self) -> None:
        """Forget the stream, but for where its last frame stood: no older one is taken again."""
        self.clear()
        self.next_seq = -1
        self.came_events = self.came_bytes = 0

    def span(self, seq: int, bytes_max: int, limit_seq: int | None = None) -> Sequence[Frame]:
        """Give the frames from ``seq`` on, at least one and then up to ``bytes_max``; none if not held.

        None of ``limit_seq`` or after it.
        """
        limit = self.next_seq if limit_seq is None else min(limit_seq, self.next_seq)
        first_seq = self.first_seq
        if not first_seq <= seq < limit:
            return ()
        start = self._head + seq - first_seq
        frames: list[Frame] = []
        total = 0
        for index in range(start, start + limit - seq):
            frame = self._frames[index]
            assert frame is not None  # only places before the head are empty
            total += frame.size_bytes
            if frames and total > bytes_max:
                break
            frames.append(frame)
        return frames

    def get(self, seq: int) -> Frame | None:
        """Give the frame of a seq, if it is held."""
        if not self.first_seq <= seq < self.next_seq:
            return None
        return self._frames[self._head + seq - self.first_seq]

    # -- how much it is from one place to another -------------------------------------------------------

    def behind(self, seq: int) -> Behind:
        """Say what came from a seq on."""
        events = max(self.next_seq - seq, 0)
        held = min(events, len(self))
        first = self.get(self.next_seq - held)
        held_bytes = self.came_bytes - first.came_before if first is not None else 0
        return Behind(events, held_bytes + int((events - held) * self._average_bytes))

    def newest_within(self, bytes_max: int) -> int:
        """Give the seq from which on there are no more bytes than that, though one event at least."""
        beyond = bytes_max - self.held_bytes
        if beyond > 0:
            if not self._average_bytes:
                return 0
            seq = self.first_seq - int(beyond / self._average_bytes)
        else:
            start = self.came_bytes - bytes_max
            place = bisect_left(self._frames, start, lo=self._head, key=_came_before)
            seq = self.first_seq + place - self._head
        return min(seq, self.next_seq - 1)

    def since(self, seq: int, time_us: int) -> int:
        """Give the first seq from one on whose event is not dated before a time.

        The times that are asked for grow: what was found too old last is not looked at again.
        """
        first, after = self._aged
        if first <= seq < after:
            start, seq = first, after
        else:
            start = seq
        while (frame := self.get(seq)) is not None and frame.is_older(time_us):
            seq += 1
        if seq > start:
            self._aged = (start, seq)
        return seq

    def seq_after(self, seq: int, bytes_max: int) -> int:
        """Give the seq before which there are no more bytes from ``seq`` on, though one event at least."""
        first = self.get(seq)
        if first is None:
            return seq + max(int(bytes_max / max(self._average_bytes, 1)), 1)
        limit = first.came_before + bytes_max
        if self.came_bytes <= limit:
            return self.next_seq
        place = bisect_right(self._frames, limit, lo=self._head, key=_came_before) - 1
        return max(self.first_seq + place - self._head, seq + 1)

    def came_before(self, seq: int) -> int | None:
        """Give what ``came_bytes`` was before a seq; None if it is neither held nor the next."""
        if seq == self.next_seq:
            return self.came_bytes
        frame = self.get(seq)
        return frame.came_before if frame is not None else None

    @property
    def held_bytes(self) -> int:
        """Payload bytes of the frames held."""
        oldest = self.oldest
        return self.came_bytes - oldest.came_before if oldest is not None else 0

    @property
    def _average_bytes(self) -> float:
        return self.came_bytes / self.came_events if self.came_events else 0.0


def _came_before(frame: Frame | None) -> int:
    assert frame is not None  # only places before the head are empty
    return frame.came_before
