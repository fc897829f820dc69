"""One stream to one connection: out of the past, out of the ring, and then along with all who are abreast.

    in the past ──► in the ring ──► abreast (in a group, written to by the flusher)
         ▲               ▲               │
         └───────────────┴── it takes no more, or the ring has passed it by

It has a task only while it reads the past. It is never written to while its connection takes nothing: when
it does again, it goes on from its own place.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from edge.errors import HistoryUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge.access.identity import Identity
    from edge.connection import Leaving
    from edge.core import EdgeCore
    from edge.errors import Forbidden
    from edge.frame import Frame
    from edge.group import Encoder, Group
    from edge.join import Joined
    from edge.subscriber import Subscriber

log = structlog.get_logger(__name__)
_AGAIN_S = 0.5
"""Pause before the past is asked for again, when Kafka did not give it."""


class Outlet(Protocol):
    """The connection that a delivery writes to."""

    @property
    def paused(self) -> bool:
        """Whether it takes nothing now; ``advance`` of its deliveries is to be called when it does again."""
        ...

    @property
    def write(self) -> Callable[[bytes], None]:
        """Write; never waits."""
        ...

    @property
    def turn(self) -> asyncio.Lock | None:
        """Held while a span of the past is read and not written yet: of all its deliveries, one at a time."""
        ...

    def had_turn(self, delivery: Delivery) -> None:
        """A delivery was written by itself: after a pause, others of the connection go first."""
        ...

    def send_away(self, reason: Leaving) -> None:
        """Have the client come back with its cursor."""
        ...

    def delivered_end(self, delivery: Delivery) -> None:
        """All of a stream was written."""
        ...

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """Stop a delivery, and say for good that its client may not have the stream."""
        ...


class Delivery:
    """A subscriber and the connection that it is written to."""

    __slots__ = (
        "_core",
        "_encoder",
        "_first",
        "_group",
        "_outlet",
        "_partition",
        "_task",
        "_turn",
        "_unjudged",
        "over",
        "subscriber",
    )

    def __init__(self, core: EdgeCore, joined: Joined, encoder: Encoder, outlet: Outlet) -> None:
        self._core = core
        self._encoder = encoder
        self._outlet = outlet
        self._partition = joined.partition
        self._first: Sequence[Frame] = joined.first
        """What is to be written before all else."""
        self._group: Group | None = None
        self._task: asyncio.Task[None] | None = None
        self._turn: asyncio.Lock | None = None
        self.subscriber: Subscriber = joined.subscriber
        self.over = False
        """Nothing more is written."""
        # Nothing was known of the stream when its client came: its kind is judged before its first event.
        known = self.subscriber.channel.kind or joined.identity.kinds.all
        self._unjudged: Identity | None = None if known else joined.identity

    def start(self) -> None:
        """Begin: write what is to be told first, and what there is."""
        self.advance()

    def advance(self) -> None:
        """Go on from its place, as far as the connection takes it."""
        subscriber, channel = self.subscriber, self.subscriber.channel
        group = channel.group(self._encoder)
        if self._first and not (self.over or self._outlet.paused):
            first, self._first = self._first, ()
            self._write(first, from_ring=False)
            self._end_turn()
        while not (self.over or self._outlet.paused or self._task or self._group):
            if subscriber.finished:
                self._outlet.delivered_end(self)
                return
            limit = group.position if group.members else channel.ring.next_seq
            frames = subscriber.take(self._core.options.write_bytes_max, limit)
            if frames:
                if self._unjudged and not self._may_have(frames):
                    return
                data = group.encoded(frames)
                self._outlet.write(data)
                self._outlet.had_turn(self)
                self._core.metrics.delivered(frames, len(data), from_ring=True)
            elif subscriber.behind:
                self._task = asyncio.get_running_loop().create_task(self._read_the_past())
            elif group.can_take(subscriber.expect) and self._unjudged is None:
                self._group = group
                group.add(self, self._outlet.write, subscriber.expect, subscriber.next_offset)
            else:  # ahead of the others, or of this edge, or not to be written to unseen
                subscriber.on_next(self.advance)
                return

    def pause(self) -> None:
        """The connection takes no more: it keeps its own place from here on."""
        if self._group is not None:
            self._leave(self._group)
            self.subscriber.channel.laggards.add(self)
        self.subscriber.give_up_waiting()

    def resume(self) -> None:
        """The connection takes more."""
        self.subscriber.channel.laggards.discard(self)
        self.advance()

    def is_passed(self) -> None:
        """See Member."""
        if self._group is not None:
            self._leave(self._group)
        self.advance()

    def stop(self) -> None:
        """Write nothing more, and let the stream go; once."""
        if self.over:
            return
        self.over = True
        if self._group is not None:
            self._leave(self._group)
        if self._task is not None:
            self._task.cancel()
        self._end_turn()
        self.subscriber.channel.laggards.discard(self)
        self._core.hub.detach(self.subscriber)

    def denied(self, identity: Identity) -> Forbidden | None:
        """Say why somebody may not be given this stream any more, if so."""
        channel = self.subscriber.channel
        if not (channel.kind or identity.kinds.all):
            self._unjudged = identity
            if self._group is not None:  # a group is written to without a look at each
                self.is_passed()
        return identity.may_subscribe(channel.tenant, channel.stream_id, channel.kind)

    @property
    def flushed_s(self) -> float:
        """When the group that it stands in was written to last; 0 if it stands in none."""
        return self._group.flushed_s if self._group is not None else 0.0

    def _leave(self, group: Group) -> None:
        """Take its place with it: what the group was given, it was given."""
        subscriber = self.subscriber
        del group.members[self]
        self._group = None
        subscriber.delivered += max(group.position - subscriber.expect, 0)
        subscriber.expect, subscriber.next_offset = group.position, group.next_offset
        subscriber.finished = subscriber.channel.end_seq >= 0 and group.position > subscriber.channel.end_seq

    def _may_have(self, frames: Sequence[Frame]) -> bool:
        """Judge a stream whose kind is told by its events; gaps alone tell none, and are let pass."""
        assert self._unjudged is not None
        channel = self.subscriber.channel
        kind = channel.kind or next((frame.event.kind for frame in frames if frame.event is not None), "")
        if not kind:
            return True
        denied = self._unjudged.may_subscribe(channel.tenant, channel.stream_id, kind)
        self._unjudged = None
        if denied is not None:
            self._core.gate.denied(denied)
            self._outlet.refuse(self, denied)
        return denied is None

    def _write(self, frames: Sequence[Frame], *, from_ring: bool) -> None:
        data = self._encoder.encode(frames)
        self._outlet.write(data)
        self._outlet.had_turn(self)
        self._core.metrics.delivered(frames, len(data), from_ring=from_ring)

    @property
    def _goes_on(self) -> bool:
        """Whether the next span is to be read at once."""
        subscriber = self.subscriber
        return subscriber.behind and not (self.over or self._outlet.paused or subscriber.finished)

    async def _write_a_span(self) -> None:
        """Read one span, and write it; or keep it, and the turn, until the connection takes more."""
        if (turn := self._outlet.turn) is not None:
            await turn.acquire()
            self._turn = turn
        try:
            frames = await self._core.replay.next_frames(self.subscriber, self._partition)
            if self._unjudged and frames and not self._may_have(frames):
                return
            if self._outlet.paused:
                self._first = frames
            elif frames and not self.over:
                self._write(frames, from_ring=False)
        finally:
            if not self._first:
                self._end_turn()

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    async def _read_the_past(self) -> None:
        try:
            while True:
                try:
                    await self._write_a_span()
                except HistoryUnavailable:
                    await asyncio.sleep(_AGAIN_S)
                if not self._goes_on:
                    break
        except Exception as error:
            # Whatever it was: this client must not wait for ever for events that it was never written.
            log.exception("replay_broke", stream=self.subscriber.channel.key.decode(), cause=str(error))
            self._outlet.send_away("overload")
            return
        finally:
            self._task = None
        self.advance()
