"""Where a client that comes is to start: its cursor against what is known of the stream."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from edge.access.identity import ANYBODY
from edge.subscriber import Beyond, Subscriber
from schemas.cursor import Cursor, decode_cursor
from schemas.envelope import stream_key
from schemas.errors import UnknownKind

if TYPE_CHECKING:
    from edge.access.identity import Identity
    from edge.channel import Channel
    from edge.frame import Frame
    from edge.hub import Hub
    from edge.index import IndexEntry, StreamIndex
    from edge.replay import Replay
    from edge.ring import Ring
    from schemas.kinds import Kind, KindTable, ReplayPolicy


@dataclass(frozen=True, slots=True)
class Joined:
    """A subscriber that is attached, and what it is to be told first."""

    subscriber: Subscriber
    partition: int
    first: tuple[Frame, ...] = ()
    identity: Identity = ANYBODY
    """For whom; ``Admission`` puts it in."""


@dataclass(frozen=True, slots=True)
class Over:
    """The stream has ended and the client has its end: there is nothing more, ever."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What follows the cursor is provably gone; only a client that asked by query is told so by status."""

    reason: Literal["topic_version", "retention", "history"]
    detail: str


class Joiner:
    """Decides by cursor, index and kind; never waits for anything but the index."""

    def __init__(self, hub: Hub, index: StreamIndex, replay: Replay, kinds: KindTable) -> None:
        self._hub = hub
        self._index = index
        self._replay = replay
        self._kinds = kinds

    def kind_name(self, key: bytes) -> str:
        """What kind a stream is of; empty if nothing is known of it here."""
        channel = self._hub.get(key)
        entry = self._replay.entry(key, channel)
        return (channel.kind if channel is not None else "") or (entry.kind if entry is not None else "")

    def kind_of(self, key: bytes) -> Kind | None:
        """The declared kind of a stream; None if the stream or its kind is not known here."""
        try:
            return self._kinds.named(self.kind_name(key))
        except UnknownKind:
            return None

    def is_resumable(self, key: bytes) -> bool:
        """Whether a stream has a history; of one whose kind is not known it is taken that it has."""
        kind = self.kind_of(key)
        return kind is None or kind.replay.resumable

    def cursor(self, text: str, tenant: str, stream_id: str) -> Cursor:
        """Read a cursor. Raises MalformedCursor or ForeignCursor."""
        return decode_cursor(text, tenant, stream_id)

    def lost(self, key: bytes, cursor: Cursor, low_offset: int) -> Lost | None:
        """Say whether what follows a cursor is provably gone; ``low_offset`` is the oldest that Kafka has."""
        current = self._replay.topic_version
        if cursor.topic_version != current:
            return Lost(
                "topic_version", f"the cursor is of topic version {cursor.topic_version}, now {current}"
            )
        entry = self._replay.entry(key, self._hub.get(key))
        if entry is None:
            return self._lost_with_all(key, cursor)
        if cursor.offset + 1 >= low_offset:
            return None
        after = [o for s, o in zip(entry.mark_seqs, entry.mark_offsets, strict=True) if s > cursor.seq]
        if any(offset < low_offset for offset in after):
            return Lost("retention", f"events after seq {cursor.seq} are older than what the topic keeps")
        return None

    def _lost_with_all(self, key: bytes, cursor: Cursor) -> Lost | None:
        """The same of a stream that the index does not know; not while it may only not have come here yet."""
        here = self._replay.present(cursor.partition) > cursor.offset
        if cursor.ended or not (here and self._index.complete and self._is_gone(cursor, self._hub.get(key))):
            return None
        return Lost("history", "the history of the stream is over, and nothing is kept of it")

    def join(
        self, tenant: str, stream_id: str, cursor: Cursor | None, name: str, *, beyond: bool = False
    ) -> Joined | Over:
        """Attach a client at its place. The caller detaches ``subscriber`` from the hub in the end.

        ``beyond``: the cursor names a place that the log has not come to.
        """
        key = stream_key(tenant, stream_id)
        known = self._hub.get(key)
        entry = self._replay.entry(key, known)
        former = cursor is not None and (beyond or self._of_former_life(cursor, known, entry))
        if cursor is not None and not former and self._is_over(cursor, known, entry):
            return Over()
        gone = cursor is not None and not former and entry is None and self._is_gone(cursor, known)
        channel = self._hub.channel(key)
        partition = entry.partition if entry is not None else self._replay.partition_of(key)
        subscriber = Subscriber(
            channel,
            expect=0 if cursor is None else cursor.seq + 1,
            # Without a place in it a stream is read from its beginning; where that is not known, not at all.
            next_offset=channel.open_offset if cursor is None or cursor.seq < 0 else cursor.offset + 1,
            name=name,
        )
        subscriber.resumed = cursor is not None
        subscriber.resumable = self.is_resumable(key)
        self._hub.attach(subscriber)
        if entry is not None:
            if not channel.kind:
                channel.kind = entry.kind
                channel.tell_kind()
            subscriber.stop_offset = entry.end_offset + 1 if entry.end_offset >= 0 else -1
        first: list[Frame] = []
        if cursor is not None and (former or gone):
            first.append(self._unknown_gap(subscriber, cursor, entry, partition, gone=gone))
            subscriber.expect, subscriber.next_offset = 0, channel.open_offset
            subscriber.settled = gone
        first += self._first(subscriber, entry, partition)
        return Joined(subscriber, partition, tuple(first))

    def _is_gone(self, cursor: Cursor, channel: Channel | None) -> bool:
        """Whether a stream that the index does not know had a history, and it is over.

        An event that was read before its stream came into the index here is in its channel: index and output
        are written at once, and read in two.
        """
        if cursor.seq < 0 or (channel is not None and channel.ring.next_seq >= 0):
            return False
        # Channels that nobody follows give way to others.
        return self._replay.index_is_read(cursor.partition)

    def _is_over(self, cursor: Cursor, channel: Channel | None, entry: IndexEntry | None) -> bool:
        if cursor.ended:
            return True
        if channel is not None and channel.end_seq >= 0:
            return cursor.seq >= channel.end_seq and cursor.offset >= channel.end_offset
        if entry is not None and entry.ended:
            return cursor.seq >= entry.end_seq and cursor.offset >= entry.end_offset
        return False

    def _first(self, subscriber: Subscriber, entry: IndexEntry | None, partition: int) -> list[Frame]:
        """Settle what place and kind decide before anything is read; give gaps to be told at once."""
        if entry is not None and entry.tailed and subscriber.expect > entry.last_seq:
            subscriber.settled = True  # nothing was missed: there is no past to read
            return []
        kind = self.kind_of(subscriber.channel.key)
        if kind is None or not kind.replay.resumable:
            return []  # of an ephemeral one nothing is read: ``Replay`` tells what is missing
        return self._shortened(subscriber, kind.replay, entry, partition)

    def _shortened(
        self, subscriber: Subscriber, policy: ReplayPolicy, entry: IndexEntry | None, partition: int
    ) -> list[Frame]:
        """Keep to the history that the kind declares, wherever it is read; what lies before it is a gap.

        What is too old, or too much, and in the log is found when it is read: no mark has a time, and between
        two of them it is not known what an event weighs.
        """
        ring = subscriber.channel.ring
        last_seq = max(ring.next_seq - 1, entry.last_seq if entry is not None else -1)
        subscriber.from_time_us = time.time_ns() // 1_000 - policy.history_ms * 1_000
        within = _newest_within(policy.history_bytes, ring, entry, last_seq)
        oldest = max(last_seq + 1 - policy.history_events, within.seq)
        if entry is not None and max(oldest, subscriber.expect) < within.known_seq:
            subscriber.beyond = Beyond(within.seq, within.beyond_bytes, oldest, last_seq)
            subscriber.next_offset = entry.start_for(within.seq)[1]
            return []
        if oldest >= ring.first_seq or subscriber.expect >= ring.first_seq:
            oldest = ring.since(max(oldest, subscriber.expect), subscriber.from_time_us)
        if subscriber.expect >= oldest:
            return []
        offset = self._replay.offset_before(subscriber, oldest)
        subscriber.next_offset = offset + 1
        return [self._replay.gap(subscriber, oldest - 1, "history", partition, offset)]

    def _of_former_life(self, cursor: Cursor, channel: Channel | None, entry: IndexEntry | None) -> bool:
        """The name's history is over and it was opened again, or there is a newer topic version."""
        if cursor.topic_version != self._replay.topic_version:
            return True
        opened = max(
            entry.open_offset if entry is not None else -1, channel.open_offset if channel is not None else -1
        )
        return cursor.seq >= 0 and cursor.offset < opened

    def _unknown_gap(
        self, subscriber: Subscriber, cursor: Cursor, entry: IndexEntry | None, partition: int, *, gone: bool
    ) -> Frame:
        reason = "history" if gone else "reopened"
        if cursor.topic_version != self._replay.topic_version:
            reason = "topic_version"
        opened = entry.open_offset if entry is not None else subscriber.channel.open_offset
        offset = opened if opened >= 0 else self._present(partition)
        return self._replay.unknown_gap(subscriber, reason, partition, offset)

    def _present(self, partition: int) -> int:
        return self._replay.present(partition)


class _Within(NamedTuple):
    """Where a history that is bounded in bytes begins."""

    seq: int
    beyond_bytes: int = 0
    """If it begins behind that: by so many bytes, and at ``known_seq`` at the latest. The log tells where."""
    known_seq: int = -1


def _newest_within(bytes_max: int, ring: Ring, entry: IndexEntry | None, last_seq: int) -> _Within:
    """Find it by the ring, then by the index: from there on a stream has no more payload bytes."""
    if ring.held_bytes >= bytes_max or entry is None or not entry.sized_seqs:
        return _Within(ring.newest_within(bytes_max))
    sized_seq, total_bytes = entry.sized_seqs[-1], entry.sized_bytes[-1]
    if (came_before := ring.came_before(sized_seq)) is not None:
        # The ring counts from when it began, the index from when the stream did: a place that both have.
        total_bytes += ring.came_bytes - came_before
    elif sized_seq <= last_seq:  # what came behind the last mark is not known: as large as the average
        stop_seq = ring.first_seq if len(ring) else last_seq + 1
        total_bytes = entry.bytes_before(stop_seq) + ring.held_bytes
        return _Within(min(entry.seq_at(total_bytes - bytes_max), entry.last_seq))
    before_bytes = total_bytes - bytes_max
    if before_bytes <= 0:
        return _Within(0)
    seq, seq_bytes, known_seq = entry.around(before_bytes)
    if len(ring):
        known_seq = min(known_seq, ring.first_seq)
    return _Within(seq, before_bytes - seq_bytes, known_seq)
