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
    from schemas.kinds import Kind, KindTable


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
        self._hub.attach(subscriber)
        if entry is not None:
            channel.kind = channel.kind or entry.kind
            subscriber.stop_offset = entry.end_offset + 1 if entry.end_offset >= 0 else -1
        if cursor is not None and former:
            first = [self._unknown_gap(subscriber, cursor, partition)]
            subscriber.expect, subscriber.next_offset = 0, -1
        else:
            first = self._first(subscriber, entry, partition)
        return Joined(subscriber, partition, tuple(first))

    def _is_over(self, cursor: Cursor, channel: Channel | None, entry: IndexEntry | None) -> bool:
        if channel is not None and channel.end_seq >= 0:
            return cursor.seq >= channel.end_seq and cursor.offset >= channel.end_offset
        if entry is not None and entry.ended:
            return cursor.seq >= entry.end_seq and cursor.offset >= entry.end_offset
        return False

    def _first(self, subscriber: Subscriber, entry: IndexEntry | None, partition: int) -> list[Frame]:
        """Settle what place and kind decide before anything is read; give gaps to be told at once."""
        kind = self.kind_of(subscriber.channel.key)
        subscriber.resumable = kind is None or kind.replay.resumable
        if kind is not None and kind.replay.history_ms > 0:
            subscriber.from_time_us = time.time_ns() // 1_000 - kind.replay.history_ms * 1_000
        if entry is not None and entry.tailed and subscriber.expect > entry.last_seq:
            subscriber.settled = True  # nothing was missed: there is no past to read
        elif kind is not None and subscriber.behind:
            return self._shortened(subscriber, kind, entry, partition)
        return []

    def _shortened(
        self, subscriber: Subscriber, kind: Kind, entry: IndexEntry | None, partition: int
    ) -> list[Frame]:
        """Keep to the history that the kind declares; what lies before it is a gap."""
        ring_seq = subscriber.channel.ring.next_seq - 1
        last_seq = max(ring_seq, entry.last_seq if entry is not None else -1)
        if not kind.replay.resumable:
            oldest = max(last_seq + 1, 0) if ring_seq < 0 else subscriber.channel.ring.first_seq
            subscriber.settled = True
            reason, offset = "ephemeral", self._present(partition) - 1
        else:
            oldest = last_seq + 1 - kind.replay.history_events
            reason = "history"
            offset = entry.start_for(oldest)[1] - 1 if entry is not None else subscriber.next_offset
        if subscriber.expect >= oldest:
            return []
        subscriber.next_offset = offset + 1
        return [self._replay.gap(subscriber, oldest - 1, reason, partition, offset)]

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
