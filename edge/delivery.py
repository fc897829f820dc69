"""One stream to one connection: out of the past, out of the ring, and then along with all who are abreast.

    in the past ──► in the ring ──► abreast (in a group, written to by the flusher)
         ▲               ▲               │
         └───────────────┴── it takes no more, or the ring has passed it by

Who was abreast once and is no more is one of the channel's laggards, and held to what its kind allows
(``edge/pressure.py``). It has a task only while it reads the past. It is never written to while its
connection takes nothing: when it does again, it goes on from its own place.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import structlog

from edge.connection import ConnectionLimits
from edge.errors import HistoryUnavailable
from edge.history import Frames, first_of, writes_of
from edge.subscriber import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge.access.identity import Identity
    from edge.core import EdgeCore
    from edge.errors import Forbidden
    from edge.frame import Frame
    from edge.group import Encoder, Group
    from edge.history import Write
    from edge.join import Joined
    from edge.outlet import Outlet
    from edge.subscriber import Subscriber

log = structlog.get_logger(__name__)
_AGAIN_S, _AGAIN_S_MAX = 0.5, 4.0
"""Pause before the past is asked for again, when it was not given: the first, and the longest."""
_UNKNOWN = Place(0, -1)
"""Of a client that is owed the gap that it is to begin with: it keeps the cursor that it came with."""


class Delivery:
    """A subscriber and the connection that it is written to."""

    __slots__ = (
        "_core",
        "_encoder",
        "_first",
        "_group",
        "_group_bytes",
        "_group_gaps",
        "_held",
        "_outlet",
        "_own_bytes",
        "_place",
        "_rest",
        "_task",
        "_turn",
        "_unjudged",
        "number",
        "opened_us",
        "over",
        "partition",
        "started_s",
        "subscriber",
        "told",
        "too_slow",
    )

    def __init__(self, core: EdgeCore, joined: Joined, encoder: Encoder, outlet: Outlet) -> None:
        self._core = core
        self._encoder = encoder
        self._outlet = outlet
        self.partition = joined.partition
        self._first: Sequence[Frame] = joined.first
        """What is to be written before all else, but for the rest of what was begun."""
        self._held: deque[Write] = deque()
        self._rest: Sequence[Frame] = ()
        """What comes after that, encoded when the connection takes it: nobody else has its bytes."""
        self._place = _UNKNOWN
        """Where its client is while something that was read is not written yet."""
        self._group: Group | None = None
        self._group_bytes = self._group_gaps = self._own_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._turn: asyncio.Lock | None = None
        self.subscriber: Subscriber = joined.subscriber
        self.subscriber.delivery = self
        self.number = 0
        """Which of this edge's deliveries it is, from its start on."""
        self.opened_us = 0
        self.told = 0
        """How often the journal told of it."""
        self.started_s = 0.0
        self.over = False
        """Nothing more is written."""
        self.too_slow = False
        """It was let go for being behind; its client may not have been told yet."""
        # The stream's kind is judged when it begins; before its first event, if nothing is known of it then.
        self._unjudged: Identity | None = None if joined.identity.kinds.all else joined.identity

    def start(self) -> None:
        """Begin: write what is to be told first, and what there is."""
        self.started_s = self._core.now_s()
        self._core.journal.opened(self)
        if self._unjudged is None or self._may_have(()):
            self.advance()

    def advance(self) -> None:
        """Go on from its place, as far as the connection takes it."""
        subscriber, channel = self.subscriber, self.subscriber.channel
        group = channel.group(self._encoder, subscriber.expect)
        self._write_first()
        while not (self.over or self._outlet.paused or self._task or self._group):
            if subscriber.finished:
                self._outlet.delivered_end(self)
                return
            if subscriber.at_bound:
                self._tell(self._core.pressure.missed(self))
                continue
            limit = group.position if group.members else channel.ring.next_seq
            if subscriber.drop_from >= 0:
                limit = min(limit, subscriber.drop_from)
            frames = subscriber.take(self._core.options.write_bytes_max, limit)
            if frames:
                if self._unjudged and not self._may_have(frames):
                    return
                data = group.encoded(frames)
                self._outlet.write(data)
                gaps = self._core.json.gaps_in(frames)
                self._own_bytes += len(data)
                subscriber.gaps += gaps
                self._outlet.had_turn(self)
                self._core.metrics.delivered(len(frames), len(data), gaps=gaps)
            elif subscriber.behind:
                self._task = asyncio.get_running_loop().create_task(self._read_the_past())
            elif group.can_take(subscriber.expect) and self._unjudged is None:
                self._join(group)
            else:  # ahead of the others, or of this edge, or not to be written to unseen
                subscriber.on_next(self._on_next)
                return

    def kind_known(self) -> None:
        """What its stream is of is known now, or is another kind: its connection keeps to what that says."""
        kind = self._core.joiner.kind_of(self.subscriber.channel.key)
        if kind is not None and self.started_s and not self.over:
            self._outlet.keep_to(ConnectionLimits.of(kind), self.started_s)

    def pause(self) -> None:
        """The connection takes no more: it keeps its own place from here on."""
        if self._group is not None:
            self._leave(self._group)
        self.subscriber.give_up_waiting()
        self._core.pressure.paused(self)

    def resume(self) -> None:
        """The connection takes more."""
        if self.too_slow:
            self._outlet.let_go(self)
            return
        self._write_first()  # it was read before what the gap may stand for
        if not self._outlet.paused:
            self._tell(self._core.pressure.resumed(self))
            self.advance()

    def give_back(self) -> None:
        """Hold no events for a connection that takes nothing: they are read again once it takes more.

        What the edge declares by itself is little, and cannot be read again.
        """
        unwritten = self._first or self._rest
        if not self.over and (self._held or (unwritten and unwritten[-1].event is not None)):
            self._drop_unwritten()
            self._core.pressure.paused(self)

    def _drop_unwritten(self) -> None:
        self.subscriber.go_back(self._place)
        self._first = self._rest = ()
        self._held.clear()

    def let_go(self) -> None:
        """Its client is too slow: give it nothing more, and have it come back."""
        self.stop("slow")
        self.too_slow = True
        self._outlet.let_go(self)

    def stand_aside(self) -> None:
        """See Member."""
        if self._group is not None:
            self._leave(self._group)
        self.subscriber.on_next(self._on_next)

    def is_passed(self) -> None:
        """See Member."""
        if self._group is not None:
            self._leave(self._group)
        self._on_next()

    def broke(self) -> None:
        """See Member."""
        self.stop("broke")
        self._outlet.abort("broke")

    def _on_next(self) -> None:
        """Something came for it, and for others who are told behind it: it may break alone."""
        try:
            self.advance()
        except Exception as error:
            log.exception("write_broke", stream=self.subscriber.channel.key.decode(), cause=str(error))
            self.broke()

    def stop(self, reason: str = "") -> None:
        """Write nothing more, and let the stream go; once. ``reason``: the end, or the client has left."""
        if self.over:
            return
        self.over = True
        if self._group is not None:
            self._leave(self._group)
        if self._task is not None:
            self._task.cancel()
        self._end_turn()
        if self._owes:
            self._drop_unwritten()
        self.subscriber.channel.laggards.discard(self)
        self._core.hub.detach(self.subscriber)
        self.subscriber.delivery = None
        self._core.journal.closed(self, reason or ("end" if self.subscriber.finished else "gone"))

    @property
    def state(self) -> Literal["paused", "catching_up", "history", "abreast"]:
        """How it stands to its stream."""
        if self.paused:
            return "paused"
        if self in self.subscriber.channel.laggards:
            return "catching_up"
        return "history" if self._task is not None else "abreast"

    @property
    def paused(self) -> bool:
        """Whether the connection takes nothing now."""
        return self._outlet.paused

    @property
    def transport_name(self) -> str:
        """How it is written to."""
        return self._outlet.transport_name

    @property
    def subject(self) -> str:
        """Whose token its client brought."""
        return self._outlet.identity.shown

    @property
    def events(self) -> int:
        """Of the stream, given so far."""
        with_group = self._group.position - self.subscriber.expect if self._group is not None else 0
        return self.subscriber.delivered + max(with_group, 0)

    @property
    def gaps(self) -> int:
        """That it was told of so far."""
        with_group = self._group.gaps - self._group_gaps if self._group is not None else 0
        return self.subscriber.gaps + with_group

    @property
    def expect(self) -> int:
        """The seq that is written next."""
        if self._group is not None:
            return self._group.position
        return self._place.expect if self._owes else self.subscriber.expect

    @property
    def cursor(self) -> str:
        """What its client is to come back with after all that it was written; empty if that is nothing."""
        place = self._place if self._owes else self.subscriber.place
        return self._core.replay.cursor(self.subscriber.channel, place, self.partition)

    @property
    def bytes_ahead(self) -> int:
        """Read of the past for it, and not written yet; of what is not encoded, an estimate."""
        unwritten = sum(frame.size_bytes for frame in (*self._first, *self._rest))
        return unwritten + sum(len(write.data) for write in self._held)

    @property
    def bytes(self) -> int:
        """Written to the socket so far."""
        in_group = self._group.written_bytes - self._group_bytes if self._group is not None else 0
        return self._own_bytes + in_group

    def denied(self, identity: Identity) -> Forbidden | None:
        """Say why somebody may not be given this stream any more, if so."""
        channel = self.subscriber.channel
        kind = channel.kind if self.started_s else ""  # judged when it begins: nothing can be told before
        if not kind or self._unjudged is not None:
            self._unjudged = None if identity.kinds.all else identity
            if self._unjudged and self._group is not None:  # a group is written to without a look at each
                self.is_passed()
        return identity.may_subscribe(channel.tenant, channel.stream_id, kind)

    @property
    def flushed_s(self) -> float:
        """When the group that it stands in was written to last; 0 if it stands in none."""
        return self._group.flushed_s if self._group is not None else 0.0

    def _join(self, group: Group) -> None:
        """Stand with the others: it has all that there is."""
        subscriber = self.subscriber
        self._group, self._group_bytes, self._group_gaps = group, group.written_bytes, group.gaps
        subscriber.live, subscriber.drop_from, subscriber.from_time_us = True, -1, 0
        subscriber.channel.laggards.discard(self)
        group.add(self, self._outlet.write, subscriber.expect, subscriber.next_offset)

    def _leave(self, group: Group) -> None:
        """Take its place with it: what the group was given, it was given."""
        subscriber = self.subscriber
        self._own_bytes, subscriber.delivered, subscriber.gaps = self.bytes, self.events, self.gaps
        del group.members[self]
        self._group = None
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

    def _write_first(self) -> None:
        if self.over or self._outlet.paused:
            return
        if self._owes:
            self._write_held()
        if self._first and not (self._held or self._rest):
            first, self._first = self._first, ()
            if self._unjudged is None or self._may_have(first):
                self._write(first)
        if not (self._owes or self._task):
            self._end_turn()

    @property
    def _owes(self) -> bool:
        """Whether something of what was read is not written yet."""
        return bool(self._held or self._rest or self._first)

    def _write(self, frames: Sequence[Frame]) -> None:
        """Write frames of the past: as much as the connection takes now, and the rest as it goes on."""
        if isinstance(frames, Frames) and not self._encoder.stateful:
            self._held.extend(frames.writes(self._encoder, self._core.options.write_bytes_max))
        else:
            self._rest = frames
        self._write_held()

    def _write_held(self) -> None:
        bytes_max = self._core.options.write_bytes_max
        while not (self.over or self._outlet.paused):
            if self._rest and not self._held:
                frames, self._rest = first_of(self._rest, bytes_max)
                self._held.extend(writes_of(frames, self._encoder, bytes_max))
            if not self._held:
                return
            self._take_note(write := self._held.popleft())
            self._outlet.write(write.data)
            self._outlet.had_turn(self)

    def _take_note(self, write: Write) -> None:
        """Note that a write of the past is given: what is not may be given back, and is no more than read."""
        self._place = Place(write.next_seq, write.next_offset)
        self.subscriber.delivered += write.events
        self.subscriber.gaps += len(write.gaps)
        self._own_bytes += len(write.data)
        self._core.metrics.delivered(write.events, len(write.data), gaps=len(write.gaps), from_ring=False)
        for gap in write.gaps:
            if not gap.unreadable:
                self._core.journal.gap(self, gap)

    def _tell(self, gap: Frame | None) -> None:
        if gap is not None and not self.over:
            self._write((gap,))

    @property
    def _goes_on(self) -> bool:
        """Whether the next span is to be read at once."""
        subscriber = self.subscriber
        return subscriber.behind and not (
            self.over or self._outlet.paused or subscriber.finished or subscriber.at_bound
        )

    async def _write_a_span(self) -> None:
        """Read one span, and write it; or keep it, and the turn, until the connection takes more."""
        if (turn := self._outlet.turn) is not None:
            await turn.acquire()
            self._turn = turn
        try:
            if self._outlet.stalled:  # while it waited for its turn
                return
            if not (former := self.subscriber.former):
                # Its kind may not have been known when its client came, or another stream has the name.
                self.subscriber.resumable = self._core.joiner.is_resumable(self.subscriber.channel.key)
            self._place = self.subscriber.place
            frames = await self._core.replay.next_frames(self.subscriber, self.partition)
            if former and not (self.subscriber.former or self._outlet.identity.kinds.all):
                self._unjudged = self._outlet.identity  # another stream has the name, perhaps of another kind
            if self._unjudged and frames and not self._may_have(frames):
                return
            if self._outlet.paused:
                self._first = frames
                if self._outlet.stalled:
                    self.give_back()
            elif frames and not self.over:
                self._write(frames)
        finally:
            if not self._owes:
                self._end_turn()

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    async def _read_the_past(self) -> None:
        pauses = pauses_s()
        try:
            while True:
                place = self.subscriber.place, self.subscriber.former
                with suppress(HistoryUnavailable):
                    await self._write_a_span()
                # Whyever it did not come forward: asked again at once, it might never let others go on.
                if place != (self.subscriber.place, self.subscriber.former):
                    pauses = pauses_s()
                elif self._goes_on:
                    await asyncio.sleep(next(pauses))
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


def pauses_s() -> Iterator[float]:
    """Give how long to wait before each time that the past is asked for again: ever longer, and jittered."""
    pause_s = _AGAIN_S
    while True:
        yield pause_s * (0.5 + random.random())  # noqa: S311  # nobody gains by guessing it
        pause_s = min(2 * pause_s, _AGAIN_S_MAX)
