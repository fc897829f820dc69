"""One stream as this edge sees it: its ring, who follows it, and what they were last written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.frame import Frame
    from edge.subscriber import Subscriber


class Channel:
    """A stream that somebody follows, or that had events not long ago."""

    __slots__ = (
        "_joined",
        "_joined_span",
        "end_offset",
        "end_seq",
        "key",
        "kind",
        "ring",
        "stream_id",
        "subscribers",
        "tenant",
        "waiting",
    )

    def __init__(self, tenant: str, stream_id: str, key: bytes) -> None:
        self.tenant = tenant
        self.stream_id = stream_id
        self.key = key
        self.kind = ""
        """Empty until an event or an index entry tells it."""
        self.ring = Ring()
        self.subscribers: set[Subscriber] = set()
        self.waiting: set[Subscriber] = set()
        """Who has everything and waits for the next; woken together, once a batch."""
        self.end_seq = -1
        self.end_offset = -1
        self._joined_span = (-1, -1)
        self._joined = b""

    def append(self, frame: Frame) -> bool:
        """Take a frame of the output topic; give whether it was new."""
        if not self.ring.append(frame):
            return False
        if frame.event is not None:
            self.kind = frame.event.kind
        # A name may be opened again once its history is over: then the old end is no longer the end.
        ended = frame.type == "end"
        self.end_seq, self.end_offset = (frame.seq, frame.offset) if ended else (-1, -1)
        return True

    def wake(self) -> None:
        """Tell all who wait that something came."""
        waiting, self.waiting = self.waiting, set()
        for subscriber in waiting:
            subscriber.wake()

    def joined(self, frames: Sequence[Frame]) -> bytes:
        """Join encoded frames of the ring into one write, shared by all who stand at the same place."""
        if len(frames) == 1:
            return frames[0].sse or b""
        span = (frames[0].offset, frames[-1].offset)
        if span != self._joined_span:
            self._joined = b"".join(frame.sse or b"" for frame in frames)
            self._joined_span = span
        return self._joined
