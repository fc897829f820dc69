"""All streams of this edge: frames go in by the batch, each stream's followers are woken once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge.channel import Channel
from edge.wheel import Slots
from schemas.envelope import split_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edge.flush import Flusher
    from edge.frame import Frame
    from edge.index import IndexEntry
    from edge.subscriber import Subscriber

SWEEP_STEPS: Final = 500
"""Frames let go of, and streams looked at, in one turn of the loop: some 2 ms."""
_SLOT_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class HubBounds:
    """How much of the recent past all streams together may hold."""

    ring_events_max: int
    ring_bytes_max: int
    ring_age_ms_max: int
    rings_bytes_max: int


class Hub:
    """The channels; those that hold events are let go of them from the one on that was silent longest."""

    def __init__(self, bounds: HubBounds, flusher: Flusher) -> None:
        self._bounds = bounds
        self._flusher = flusher
        self._channels: dict[bytes, Channel] = {}
        self._holding: OrderedDict[bytes, Channel] = OrderedDict()
        """Those whose ring is not empty, the one that was silent longest first."""
        self._ageing = Slots[Channel]()
        """The same, by the second in which their oldest frame was too old when they were put here."""
        self._asked_for: list[bytes] = []
        """Made for somebody since the last sweep, who may not have come after all."""
        self.bytes = 0
        self.evicted_events = 0
        self.followers = 0
        self.look: Callable[[Channel], None] | None = None
        """Called when a stream came as far as the bound of somebody who is behind."""

    def __len__(self) -> int:
        return len(self._channels)

    def get(self, key: bytes) -> Channel | None:
        """The channel of a stream that has recent events or followers."""
        return self._channels.get(key)

    @property
    def subscribers(self) -> list[Subscriber]:
        """Everybody who follows a stream now."""
        return [one for channel in self._channels.values() for one in channel.subscribers]

    def publish(self, frames: Iterable[tuple[bytes, Frame]]) -> None:
        """Take a batch of (stream key, frame) in the order of the log, and have followers written to."""
        touched: dict[bytes, Channel] = {}
        for key, frame in frames:
            channel = touched.get(key)
            if channel is None:
                channel = touched[key] = self._channel(key)
            self._append(channel, frame)
        for key, channel in touched.items():
            if len(channel.ring):  # else it was held before, and has left the ring
                self._holding[key] = channel
                self._holding.move_to_end(key)
                if channel.due_slot < 0:
                    self._let_age(channel)
        self._shrink()
        for channel in touched.values():
            if channel.kind_due:
                channel.tell_kind()
            self._flusher.touch(channel)
            if self.look is not None and channel.look_due:
                self.look(channel)

    def forget(self, key: bytes, over: IndexEntry | None = None, read_to: int = -1) -> None:
        """A stream's history is over: tell whoever has a place in it, and keep nothing of it.

        Not where the tail has not come to its end, or has come to another stream of its name already.
        ``over``: what the index had of it; ``read_to``: the offset that the tail reads next of its partition.
        An end that could not be read is known by them alone.
        """
        channel = self._channels.get(key)
        if channel is None or (over is not None and over.open_offset < channel.open_offset):
            return
        if channel.ring.next_seq >= 0 > channel.end_seq:
            if over is None or not channel.ring.last_offset < over.end_offset < read_to:
                return
            channel.end_offset = over.end_offset
        self._flusher.flush(channel)
        self.bytes -= channel.ring.bytes
        channel.forget()
        self._holds_nothing(channel)
        self._flusher.touch(channel)
        self._drop_if_unused(channel)

    def listed(self, key: bytes, entry: IndexEntry, read_to: int) -> None:
        """An entry came into the index: if its stream's first events passed by unknown, have them looked for.

        ``read_to``: the offset that the tail reads next of its partition. What comes from there on comes by
        the ring, and of a stream that has any event there the rest is found from it.
        """
        channel = self._channels.get(key)
        if channel is None or channel.ring.next_seq >= 0 or not 0 <= entry.open_offset < read_to:
            return
        if not channel.kind:
            channel.kind = entry.kind
            channel.tell_kind()
        channel.past_known(entry.last_seq)

    def attach(self, subscriber: Subscriber) -> None:
        """Have a subscriber follow its channel; from here on nothing that comes is missed unnoticed."""
        subscriber.channel.subscribers.add(subscriber)
        self.followers += 1

    def detach(self, subscriber: Subscriber) -> None:
        """Let a subscriber go."""
        channel = subscriber.channel
        channel.subscribers.remove(subscriber)
        self.followers -= 1
        channel.waiting.discard(subscriber)
        self._drop_if_unused(channel)

    def channel(self, key: bytes) -> Channel:
        """The channel of a stream, made if there is none; attach to it at once or it may go again."""
        if key not in self._channels:
            self._asked_for.append(key)
        return self._channel(key)

    def sweep(self, now_ms: int) -> bool:
        """Let go of frames that are too old, and of channels that nobody needs; to be called every second.

        Gives whether there are more of them than one turn of the loop should take: then it is to be called
        again in the next. Streams whose oldest frame is not due are not looked at, however many they are.
        """
        oldest_ms, left = now_ms - self._bounds.ring_age_ms_max, SWEEP_STEPS
        while self._asked_for and left:
            left -= 1
            if (channel := self._channels.get(self._asked_for.pop())) is not None:
                self._drop_if_unused(channel)
        due = self._ageing.due(now_ms // _SLOT_MS)
        while left and (channel := next(due, None)) is not None:
            left -= 1
            while left and (frame := channel.ring.oldest) is not None and frame.read_ms < oldest_ms:
                left -= 1
                self._evict(channel)
            if len(channel.ring):
                self._let_age(channel)
            else:
                self._drop_if_unused(channel)
        return not left

    def _channel(self, key: bytes) -> Channel:
        channel = self._channels.get(key)
        if channel is None:
            tenant, stream_id = split_key(key)
            channel = Channel(tenant, stream_id, key)
            self._channels[key] = channel
        return channel

    def _append(self, channel: Channel, frame: Frame) -> None:
        ring, bounds = channel.ring, self._bounds
        if len(ring) and frame.seq < ring.next_seq:
            self._flusher.flush(channel)  # the end of an earlier stream of this name, before its ring goes
        before = ring.bytes
        channel.append(frame)
        self.bytes += ring.bytes - before
        while len(ring) > 1 and (len(ring) > bounds.ring_events_max or ring.bytes > bounds.ring_bytes_max):
            if channel.is_unwritten(ring.first_seq):
                self._flusher.flush(channel)  # a burst larger than the ring, within one tick
            self._evict(channel)

    def _shrink(self) -> None:
        """Bring all rings under their common bound, from the stream that was silent longest on.

        Whoever holds nothing is not looked at: those who wait for a stream are many, and a batch is small.
        """
        while self._holding and self.bytes > self._bounds.rings_bytes_max:
            channel = next(iter(self._holding.values()))
            if channel.is_unwritten(channel.ring.first_seq):
                self._flusher.flush(channel)
            self._evict(channel)
            self._drop_if_unused(channel)

    def _evict(self, channel: Channel) -> None:
        self.bytes -= channel.ring.evict_oldest()
        self.evicted_events += 1
        if not len(channel.ring):
            self._holds_nothing(channel)

    def _let_age(self, channel: Channel) -> None:
        """Have a sweep look at a channel once its oldest frame is too old."""
        oldest = channel.ring.oldest
        assert oldest is not None
        self._ageing.put(channel, (oldest.read_ms + self._bounds.ring_age_ms_max) // _SLOT_MS + 1)

    def _holds_nothing(self, channel: Channel) -> None:
        self._holding.pop(channel.key, None)
        self._ageing.take_out(channel)
        for group in channel.all_groups():
            group.forget_bytes()

    def _drop_if_unused(self, channel: Channel) -> None:
        if not channel.subscribers and not len(channel.ring):
            self._channels.pop(channel.key, None)
