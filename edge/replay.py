"""From the past to the present: brings who is behind up to the ring, without a hole or a double.

1. It is attached first: from then on every live frame passes through its channel's ring.
2. The tail's position is read: frames before it are in the log, frames from it on come by the ring.
3. The log is read from the subscriber's place to that position, a span at a time.
4. As soon as the ring holds the seq that comes next, the subscriber is no longer behind. The hand-over is
   by seq alone, so it cannot lose or double an event.
5. What neither the log nor the ring holds any more is declared as a gap.
6. Of a stream that is over for good no more is read than was to be read when its client came. One that still
   does not have its end is told of a gap then, and begins with what the name stands for now.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from edge.errors import HistoryUnavailable
from edge.frame import declared
from edge.history import SPAN_EVENTS, History, SpanAsked
from schemas.cursor import Cursor
from schemas.published import time_text
from schemas.topics import partition_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.channel import Channel
    from edge.frame import Frame
    from edge.history import Frames, Span
    from edge.index import IndexEntry, StreamIndex
    from edge.subscriber import Place, Subscriber

# How far before its cursor a client may be started so that it shares a span with others: a mark is at most
# a thousand events of the stream away, and this many records of all streams cost about 50 ms to pass over.
_SHARE_RECORDS_MAX = 20_000


class Position(Protocol):
    """How far this edge has read the output topic, and the index of it."""

    def position(self, partition: int) -> int:
        """The offset that is read next; -1 while the partition is not known yet."""
        ...

    def index_is_read(self, partition: int) -> bool:
        """Whether a partition of the index was read to where it ended a moment ago."""
        ...


class Replay:
    """See the module's docstring."""

    def __init__(
        self, history: History, index: StreamIndex, tail: Position, *, topic_version: int, partitions: int
    ) -> None:
        self._history = history
        self._index = index
        self._tail = tail
        self.topic_version = topic_version
        self._partitions = partitions

    async def next_frames(self, subscriber: Subscriber, partition: int) -> Sequence[Frame]:
        """Give the next frames of the past and move the subscriber on; may give none and have moved it on.

        Where it is given all of a span these are ``Frames``, which others are given, too.

        Raises:
            HistoryUnavailable: Kafka cannot be read now; ask again later.
        """
        if subscriber.former and (subscriber.stop_offset < 0 or not subscriber.resumable):
            return [self._begin_anew(subscriber, partition)]
        if not subscriber.resumable:
            return self._jump(subscriber, partition)
        present = self._tail.position(partition)
        if present < 0:
            raise HistoryUnavailable("the output topic has not been read yet")
        stop = present if subscriber.stop_offset < 0 else min(present, subscriber.stop_offset)
        seq, start = self._start(subscriber)
        if start < 0 or start >= stop:
            return self._arrive(subscriber, partition, stop)
        # To where others' spans end, too: from there on they are read, and written, once for all.
        events_max = SPAN_EVENTS - max(seq, 0) % SPAN_EVENTS
        subscriber.reading = True
        try:
            span = await self._history.read(
                SpanAsked(subscriber.channel.key, partition, start, stop, events_max)
            )
        finally:
            subscriber.reading = False
        frames = self._fit(subscriber, span, partition)
        if subscriber.at_bound:
            return frames  # the rest of the span is its yet, if it is owed more in the end
        subscriber.next_offset = max(span.next_offset, subscriber.next_offset)
        if not frames and span.next_offset >= stop:
            return self._arrive(subscriber, partition, stop)
        return frames

    def gap(self, subscriber: Subscriber, to_seq: int, reason: str, partition: int, offset: int) -> Frame:
        """Declare that a subscriber misses what is before ``to_seq`` + 1, and move it past that."""
        channel = subscriber.channel
        cursor = Cursor(self.topic_version, partition, max(offset, 0), to_seq)
        frame = declared(
            "gap",
            {
                "seq": to_seq,
                "time": _now_text(),
                "from_seq": subscriber.expect,
                "to_seq": to_seq,
                "count": to_seq + 1 - subscriber.expect,
                "reason": reason,
            },
            cursor=cursor.encode(channel.tenant, channel.stream_id),
            seq=to_seq,
            offset=offset,
        )
        subscriber.expect = to_seq + 1
        return frame

    def cursor(self, channel: Channel, place: Place, partition: int) -> str:
        """Give a place in a stream as its client keeps it; empty before the first event."""
        offset, seq = place.next_offset - 1, place.expect - 1
        if offset < 0 or seq < 0:
            return ""
        return Cursor(self.topic_version, partition, offset, seq).encode(channel.tenant, channel.stream_id)

    def entry(self, key: bytes, channel: Channel | None) -> IndexEntry | None:
        """Give what the index has of the stream that a name stands for now, and not of an earlier one.

        Index and output are written at once and read in two: an entry may still be of a stream that is over
        when the output has come to the next one of its name. It may lag so far that it lacks the end, too: a
        stream is opened once, so one that was opened before is another.
        """
        entry = self._index.get(key)
        if entry is not None and channel is not None:
            last_offset = entry.end_offset if entry.ended else entry.open_offset
            if 0 <= last_offset < channel.open_offset:
                return None
        return entry

    def offset_before(self, subscriber: Subscriber, seq: int) -> int:
        """Give an offset after which a seq is found: right before it, or a mark of the index."""
        ring = subscriber.channel.ring
        if seq == ring.next_seq:
            return ring.last_offset
        if (frame := ring.get(seq)) is not None:
            return frame.offset - 1
        entry = self._entry_of(subscriber)
        return max(entry.start_for(seq)[1] if entry is not None else 0, subscriber.next_offset) - 1

    def _jump(self, subscriber: Subscriber, partition: int) -> list[Frame]:
        """An ephemeral stream has no past: who is behind goes on with what is in memory, or with its end."""
        if not subscriber.behind:
            return []
        subscriber.settled = True
        ring, entry = subscriber.channel.ring, self._entry_of(subscriber)
        present = self._tail.position(partition)
        if (
            entry is not None
            and subscriber.expect <= entry.end_seq
            and ring.get(entry.end_seq) is None
            and entry.end_offset < present  # else it is about to come
        ):
            return self._end_from_index(subscriber, entry)
        if ring.next_seq >= 0:
            oldest, offset = ring.first_seq, self.offset_before(subscriber, ring.first_seq)
        else:
            oldest, offset = entry.last_seq + 1 if entry is not None else 0, present - 1
        if subscriber.expect >= oldest:
            return []
        return [self.gap(subscriber, oldest - 1, "ephemeral", partition, offset)]

    def unknown_gap(self, subscriber: Subscriber, reason: str, partition: int, offset: int) -> Frame:
        """Declare that what followed a client's place is gone, and nobody can say how much it was."""
        channel = subscriber.channel
        return declared(
            "gap",
            {
                "seq": -1,
                "time": _now_text(),
                "from_seq": subscriber.expect,
                "to_seq": -1,
                "count": -1,
                "reason": reason,
            },
            cursor=Cursor(self.topic_version, partition, max(offset - 1, 0), -1).encode(
                channel.tenant, channel.stream_id
            ),
            seq=-1,
            offset=-1,
        )

    def _entry_of(self, subscriber: Subscriber) -> IndexEntry | None:
        return self.entry(subscriber.channel.key, subscriber.channel)

    def _begin_anew(self, subscriber: Subscriber, partition: int) -> Frame:
        """The stream that it follows is over for good: say so, and go on with the name's present one."""
        assert subscriber.former
        opened = subscriber.channel.open_offset
        offset = opened if opened >= 0 else self._tail.position(partition)
        gap = self.unknown_gap(subscriber, subscriber.former, partition, offset)
        subscriber.begin(opened)
        return gap

    def partition_of(self, key: bytes) -> int:
        """The partition that a stream is on."""
        return partition_of(key, self._partitions)

    def index_is_read(self, partition: int) -> bool:
        """See Position."""
        return self._tail.index_is_read(partition)

    def present(self, partition: int) -> int:
        """Where the tail stands: the offset that is read next."""
        return self._tail.position(partition)

    def _start(self, subscriber: Subscriber) -> tuple[int, int]:
        """Where to read on: seq and offset; the offset is -1 if nothing is known of the stream's past.

        The first time a mark before that is taken if one is near: others start there too, and share a read.
        """
        first, subscriber.replaying = not subscriber.replaying, True
        # What is counted out is counted from its beginning, and not from where its client was.
        seq = subscriber.expect if subscriber.beyond is None else subscriber.beyond.from_seq
        own = seq, subscriber.next_offset
        if own[1] < 0 and subscriber.behind:  # it came before the first event, and the ring has passed it by
            own = seq, subscriber.channel.open_offset
        entry = None if subscriber.former else self._entry_of(subscriber)
        if entry is None:
            return own
        mark = entry.start_for(seq)
        if own[1] < mark[1] or (first and own[1] - mark[1] <= _SHARE_RECORDS_MAX):
            return mark
        return own

    def _fit(self, subscriber: Subscriber, span: Span, partition: int) -> Sequence[Frame]:
        """Take from a span what the subscriber does not have, with a gap before what does not follow on."""
        if _fits_whole(subscriber, span.frames):
            subscriber.passed(span.frames[-1])
            subscriber.truncated = subscriber.aged = False
            return span.frames
        subscriber.truncated = subscriber.truncated or span.truncated
        frames: list[Frame] = []
        for frame in span.frames:
            beyond = subscriber.is_beyond(frame)
            if frame.seq < subscriber.expect:
                continue
            if subscriber.at_bound:
                break
            if beyond or frame.is_older(subscriber.from_time_us):
                subscriber.aged = True
                continue
            if frame.seq > subscriber.expect:
                reason = self._reason(subscriber)
                frames.append(self.gap(subscriber, frame.seq - 1, reason, partition, frame.offset - 1))
            subscriber.passed(frame)
            subscriber.truncated = subscriber.aged = False
            frames.append(frame)
            if subscriber.finished:
                break
        return frames

    def _arrive(self, subscriber: Subscriber, partition: int, stop: int) -> list[Frame]:
        """The log was read to ``stop``: what is missing now is in the ring, or nowhere."""
        if not subscriber.behind:
            return []
        if subscriber.former:
            return [self._begin_anew(subscriber, partition)]
        entry = self._entry_of(subscriber)
        if entry is not None and subscriber.expect <= entry.end_seq and 0 <= entry.end_offset < stop:
            return self._end_from_index(subscriber, entry)
        ring = subscriber.channel.ring
        if ring.next_seq < 0:
            subscriber.settled = True
            return []
        oldest = ring.oldest
        held_from = oldest.offset if oldest is not None else ring.last_offset
        if subscriber.expect < ring.first_seq and held_from < stop:
            # All that the log had may have been too old, and what is held may begin so, too.
            seq = ring.since(ring.first_seq, subscriber.from_time_us)
            offset = self.offset_before(subscriber, seq)
            subscriber.aged = subscriber.aged or seq > ring.first_seq
            return [self.gap(subscriber, seq - 1, self._reason(subscriber), partition, offset)]
        return []

    def _end_from_index(self, subscriber: Subscriber, entry: IndexEntry) -> list[Frame]:
        """The stream ended and its end is no longer in the log: the index still says how."""
        frames = []
        if subscriber.expect < entry.end_seq:
            reason = self._reason(subscriber)
            frames.append(
                self.gap(subscriber, entry.end_seq - 1, reason, entry.partition, entry.end_offset - 1)
            )
        cursor = Cursor(entry.topic_version, entry.partition, entry.end_offset, entry.end_seq, ended=True)
        end = declared(
            "end",
            {
                "seq": entry.end_seq,
                "time": time_text(entry.ended_us),
                "reason": entry.end_reason,
                "from_index": True,
            },
            cursor=cursor.encode(entry.tenant, entry.stream_id),
            seq=entry.end_seq,
            offset=entry.end_offset,
        )
        subscriber.passed(end)
        return [*frames, end]

    @staticmethod
    def _reason(subscriber: Subscriber) -> str:
        if not subscriber.resumable:
            return "ephemeral"
        if subscriber.truncated:
            return "retention"
        return "history" if subscriber.aged else "lost"


def _fits_whole(subscriber: Subscriber, frames: Frames) -> bool:
    """Whether the subscriber may be given all of a span as it is."""
    return (
        bool(frames)
        and frames.whole
        and frames[0].seq == subscriber.expect
        and subscriber.beyond is None
        and not 0 <= subscriber.drop_from <= frames[-1].seq
        and not frames[0].is_older(subscriber.from_time_us)
    )


def _now_text() -> str:
    return time_text(time.time_ns() // 1_000)
