"""Where a client that comes is to start: its cursor against what is known of the stream."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edge.access.identity import ANYBODY
from edge.subscriber import Subscriber
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

    reason: Literal["topic_version", "retention"]
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
        channel, entry = self._hub.get(key), self._index.get(key)
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
        entry = self._index.get(key)
        if entry is None or cursor.offset + 1 >= low_offset:
            return None
        after = [o for s, o in zip(entry.mark_seqs, entry.mark_offsets, strict=True) if s > cursor.seq]
        if any(offset < low_offset for offset in after):
            return Lost("retention", f"events after seq {cursor.seq} are older than what the topic keeps")
        return None

    def join(
        self, tenant: str, stream_id: str, cursor: Cursor | None, name: str, *, beyond: bool = False
    ) -> Joined | Over:
        """Attach a client at its place. The caller detaches ``subscriber`` from the hub in the end.

        ``beyond``: the cursor names a place that the log has not come to.
        """
        key = stream_key(tenant, stream_id)
        entry = self._index.get(key)
        known = self._hub.get(key)
        former = cursor is not None and (beyond or self._of_former_life(cursor, entry))
        if cursor is not None and not former and self._is_over(cursor, known, entry):
            return Over()
        channel = self._hub.channel(key)
        partition = entry.partition if entry is not None else self._replay.partition_of(key)
        subscriber = Subscriber(
            channel,
            expect=0 if cursor is None else cursor.seq + 1,
            next_offset=-1 if cursor is None else cursor.offset + 1,
            name=name,
        )
        subscriber.resumed = cursor is not None
        subscriber.resumable = self.is_resumable(key)
        self._hub.attach(subscriber)
        if entry is not None:
            channel.kind = channel.kind or entry.kind
            subscriber.stop_offset = entry.end_offset + 1 if entry.end_offset >= 0 else -1
        first: list[Frame] = []
        if cursor is not None and former:
            first.append(self._unknown_gap(subscriber, cursor, partition))
            subscriber.expect, subscriber.next_offset = 0, -1
        first += self._first(subscriber, entry, partition)
        return Joined(subscriber, partition, tuple(first))

    def _is_over(self, cursor: Cursor, channel: Channel | None, entry: IndexEntry | None) -> bool:
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

        What is too old and in the log is found when it is read: no mark has a time.
        """
        ring = subscriber.channel.ring
        last_seq = max(ring.next_seq - 1, entry.last_seq if entry is not None else -1)
        subscriber.from_time_us = time.time_ns() // 1_000 - policy.history_ms * 1_000
        oldest = max(
            last_seq + 1 - policy.history_events,
            _newest_within(policy.history_bytes, ring, entry),
        )
        if oldest >= ring.first_seq or subscriber.expect >= ring.first_seq:
            oldest = ring.since(max(oldest, subscriber.expect), subscriber.from_time_us)
        if subscriber.expect >= oldest:
            return []
        offset = self._replay.offset_before(subscriber, oldest)
        subscriber.next_offset = offset + 1
        return [self._replay.gap(subscriber, oldest - 1, "history", partition, offset)]

    def _of_former_life(self, cursor: Cursor, entry: IndexEntry | None) -> bool:
        """The name's history is over and it was opened again, or there is a newer topic version."""
        if cursor.topic_version != self._replay.topic_version:
            return True
        return entry is not None and cursor.seq >= 0 and cursor.offset < entry.open_offset

    def _unknown_gap(self, subscriber: Subscriber, cursor: Cursor, partition: int) -> Frame:
        old_topic = cursor.topic_version != self._replay.topic_version
        entry = self._index.get(subscriber.channel.key)
        offset = entry.open_offset if entry is not None else self._present(partition)
        return self._replay.unknown_gap(
            subscriber, "topic_version" if old_topic else "reopened", partition, offset
        )

    def _present(self, partition: int) -> int:
        return self._replay.present(partition)


def _newest_within(bytes_max: int, ring: Ring, entry: IndexEntry | None) -> int:
    """Give the seq from which on a stream has no more payload bytes: by the ring, then by the index."""
    held_bytes = ring.held_bytes
    if held_bytes >= bytes_max or entry is None or not entry.sized_seqs:
        return ring.newest_within(bytes_max)
    if (came_before := ring.came_before(entry.sized_seqs[-1])) is not None:
        # The ring counts from when it began, the index from when the stream did: a place that both have.
        total_bytes = entry.sized_bytes[-1] + ring.came_bytes - came_before
    else:
        stop_seq = ring.first_seq if len(ring) else entry.last_seq + 1
        total_bytes = entry.bytes_before(stop_seq) + held_bytes
    return min(entry.seq_at(total_bytes - bytes_max), entry.last_seq)
